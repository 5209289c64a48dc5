SHELL := /bin/bash
PYTHON ?= python3
BIN := .venv/bin
PROTOS := $(shell cd protos && find . -name '*.proto' | sed 's|^\./||' | sort)
SOURCES := client server workers gateway tests benchmarks examples tools

.DEFAULT_GOAL := help
# Where this is set, each of the many processes that the tests start would compile everything again.
unexport PYTHONDONTWRITEBYTECODE
.PHONY: help run test soak check docs reference proto sync format lock dist deploy clean

help: ## Show all targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: .venv/ready ## Start a server and a web app with default settings, and run a short demonstration
	@$(BIN)/session-authority demo $(ARGS)

# More processes than cores: what takes long waits, for a lease to lapse or a server to come back.
JOBS ?= 3
test: .venv/ready .venv-dist/ready .venv-proxies/ready ## Run every test, in random order, with coverage
	$(BIN)/python -m pytest --cov -n $(JOBS) --dist worksteal $(ARGS)

soak: .venv/ready .venv-dist/ready .venv-proxies/ready ## Run the long form of every campaign: races, chaos, faults, fuzzing, properties
	SOAK=1 $(BIN)/python -m pytest -n $(JOBS) --dist worksteal -m soak $(ARGS)

deploy: .venv/ready .venv-dist/ready ## Build the image, and follow docs/operate/install.md on an empty Debian (root, minutes)
	SOAK=1 $(BIN)/python -m pytest tests/deploy $(ARGS)

check: .venv/ready .venv-proto/ready ## Check format, lint, types, protos, imports, generated code and prose
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/buf lint
	$(BIN)/buf format --diff --exit-code
	@# Compared with the parent too, since in CI the change is already HEAD.
	@for ref in HEAD HEAD~1; do \
		if git cat-file -e $$ref:buf.yaml 2>/dev/null; then \
			echo "buf breaking against $$ref"; $(BIN)/buf breaking --against ".git#ref=$$ref" || exit 1; \
		fi; \
	done
	@$(BIN)/python -m tools.reference --check && echo "the reference is fresh"
	@fresh=$$(mktemp -d) && trap 'rm -rf "$$fresh"' EXIT && \
		$(MAKE) --no-print-directory proto OUT="$$fresh" GATEWAY_OUT="$$fresh" && \
		diff -r -x __init__.py -x __pycache__ "$$fresh/session_authority/v1" client/session_authority/v1 && \
		diff -r -x __init__.py -x __pycache__ -x '*.proto' "$$fresh/$(ENVOY)" gateway/$(ENVOY) && \
		echo "generated code is fresh"
	@$(BIN)/python tools/unasync.py --check && echo "the synchronous client is fresh"
	@$(BIN)/python tools/prose.py && echo "the prose is plain"

docs: .venv-docs/ready ## Build the documentation as a site, in build/site; a dead link fails
	@# The variable silences the theme's note about a future release of MkDocs.
	@NO_MKDOCS_2_WARNING=1 .venv-docs/bin/mkdocs build --strict --clean

reference: .venv/ready ## Generate the reference in docs/reference from the code
	@$(BIN)/python -m tools.reference

OUT ?= client
GATEWAY_OUT ?= gateway
ENVOY := session_authority_gateway/envoy
proto: .venv-proto/ready ## Generate the code in client/session_authority/v1 from protos/, and that of the gateway
	@PATH="$(CURDIR)/.venv-proto/bin:$$PATH" .venv-proto/bin/python -m grpc_tools.protoc -I protos \
		--python_out=$(OUT) --grpc_python_out=$(OUT) --mypy_out=quiet:$(OUT) --mypy_grpc_out=quiet:$(OUT) \
		$(PROTOS)
	@PATH="$(CURDIR)/.venv-proto/bin:$$PATH" .venv-proto/bin/python -m grpc_tools.protoc -I gateway \
		--python_out=$(GATEWAY_OUT) --mypy_out=quiet:$(GATEWAY_OUT) $(ENVOY)/external_auth.proto

sync: .venv/ready ## Generate the synchronous client from the asynchronous one
	@$(BIN)/python tools/unasync.py

format: .venv/ready ## Format code and protos, and apply the linter's fixes
	$(BIN)/ruff check --fix-only --quiet $(SOURCES)
	$(BIN)/ruff format $(SOURCES)
	$(BIN)/buf format --write

lock: .venv/ready ## Resolve the dependencies again, and write the lock files with hashes
	$(BIN)/pip install --quiet uv
	$(BIN)/uv pip compile pyproject.toml --all-extras --group dev --universal --upgrade --generate-hashes \
		--no-strip-extras --no-emit-index-url --no-header --quiet --output-file requirements.lock
	$(BIN)/uv pip compile requirements-proto.in --universal --upgrade --generate-hashes \
		--no-strip-extras --no-emit-index-url --no-header --quiet --output-file requirements-proto.lock
	$(BIN)/uv pip compile --group docs --universal --upgrade --generate-hashes \
		--no-strip-extras --no-emit-index-url --no-header --quiet --output-file requirements-docs.lock
	$(BIN)/uv pip compile --group dist --universal --upgrade --generate-hashes \
		--no-strip-extras --no-emit-index-url --no-header --quiet --output-file requirements-dist.lock
	$(BIN)/uv pip compile --group proxies --universal --upgrade --generate-hashes \
		--no-strip-extras --no-emit-index-url --no-header --quiet --output-file requirements-proxies.lock
	$(BIN)/uv pip compile pyproject.toml --extra server --extra gateway --extra native --extra otel --extra postgres --universal \
		--constraint requirements.lock --generate-hashes \
		--no-strip-extras --no-emit-index-url --no-header --quiet --output-file deploy/requirements.lock

dist: .venv-dist/ready ## Build wheel, sdist and SBOM, check them, and run the quick start from the wheel
	@rm -rf dist
	.venv-dist/bin/python -m build --no-isolation
	.venv-dist/bin/twine check --strict dist/*
	@mkdir -p build
	.venv-dist/bin/cyclonedx-py requirements --pyproject pyproject.toml --output-reproducible \
		--output-file build/sbom.cdx.json deploy/requirements.lock
	.venv-dist/bin/python tools/try_wheel.py dist/*.whl

clean: ## Remove environments, caches and build output
	rm -rf .venv .venv-dist .venv-docs .venv-proto .venv-proxies .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache build dist

.venv/ready: requirements.lock pyproject.toml
	@echo "Preparing .venv (once) ..."
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

.venv-proto/ready: requirements-proto.lock
	@echo "Preparing .venv-proto (once) ..."
	@test -x .venv-proto/bin/python || $(PYTHON) -m venv .venv-proto
	@.venv-proto/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-proto.lock
	@touch $@

.venv-docs/ready: requirements-docs.lock
	@echo "Preparing .venv-docs (once) ..."
	@test -x .venv-docs/bin/python || $(PYTHON) -m venv .venv-docs
	@.venv-docs/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-docs.lock
	@touch $@

.venv-dist/ready: requirements-dist.lock
	@echo "Preparing .venv-dist (once) ..."
	@test -x .venv-dist/bin/python || $(PYTHON) -m venv .venv-dist
	@.venv-dist/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dist.lock
	@touch $@

.venv-proxies/ready: requirements-proxies.lock
	@echo "Preparing .venv-proxies (once) ..."
	@test -x .venv-proxies/bin/python || $(PYTHON) -m venv .venv-proxies
	@.venv-proxies/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-proxies.lock
	@touch $@
