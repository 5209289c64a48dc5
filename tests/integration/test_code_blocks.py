"""Every code block of the documents runs, or gives a reason why it cannot run.

`python -m tests.integration.test_code_blocks` counts the blocks.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import groupby
from pathlib import Path

import psycopg
import pytest
import yaml

from session_authority_server.config import load_settings
from tests.support import postgresql, proxies
from tests.support.certificates import TestAuthority
from tests.support.code_blocks import ROOT, Block, all_blocks, as_one
from tests.support.documented_shell import check_arguments, documented_shell
from tests.support.program import Program, environment, run, serving

BLOCKS = all_blocks()
SECONDS = 120
# The examples need fewer annotations than our own code.
MYPY = "# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, allow-redefinition"


def pages(*languages: str, runs: bool = True) -> list[list[Block]]:
    """Return the blocks in some languages, grouped by document."""
    chosen = [each for each in BLOCKS if each.language in languages if each.runs_here or not runs]
    return [list(blocks) for _, blocks in groupby(chosen, lambda each: each.document)]


def of_pages(*languages: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("blocks", pages(*languages), ids=lambda found: found[0].document)


def of_blocks(found: list[Block]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("block", found, ids=str)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    with serving(tmp_path_factory.mktemp("authority")) as program:
        yield program


@pytest.fixture(scope="module")
def cluster() -> Iterator[postgresql.Cluster]:
    with postgresql.cluster() as server:
        yield server


# Python


def is_test(block: Block) -> bool:
    """Return whether a block is a file for pytest."""
    return block.title == "conftest.py" or block.title.startswith("test_")


@of_pages("python")
def test_the_python_code_of_a_page_runs(
    blocks: list[Block], authority: Program, tmp_path: Path
) -> None:
    program = tmp_path / "page.py"
    program.write_text(as_one(each for each in blocks if not is_test(each)))
    for each in blocks:
        if each.title:
            (tmp_path / each.title).write_text(each.given + each.code)
    script = f"import runpy; runpy.run_path({str(program)!r}, run_name='page')"
    commands = [["-c", script]]
    if any(map(is_test, blocks)):
        commands.append(["-m", "pytest", "-q", "-p", "no:asyncio", "-p", "no:randomly"])
    for command in commands:
        done = subprocess.run(
            [sys.executable, *command],
            cwd=tmp_path,
            env=environment(SESSION_AUTHORITY_ADDRESS=authority.address),
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
        assert done.returncode == 0, f"{blocks[0].document}: {done.stdout}{done.stderr}"


def test_the_python_code_of_the_pages_passes_mypy(tmp_path: Path) -> None:
    files = []
    for blocks in pages("python", runs=False):
        file = tmp_path / (re.sub(r"\W", "_", blocks[0].document) + ".py")
        shown = [each for each in blocks if not is_test(each) and not each.run_by]
        file.write_text(MYPY + as_one(shown))
        files.append(file)
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--config-file", "pyproject.toml", *files],
        cwd=ROOT,
        env=os.environ | {"MYPYPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


# Shell, SQL and settings of PostgreSQL


@of_pages("sh")
def test_the_commands_of_a_page_run(
    blocks: list[Block], cluster: postgresql.Cluster, tmp_path: Path
) -> None:
    script = tmp_path / "page.sh"
    script.write_text(as_one(blocks))
    address = {"PGHOST": "127.0.0.1", "PGPORT": str(cluster.port), "PGUSER": "postgres"}
    path = f"{cluster.binaries}:{os.environ['PATH']}"
    try:
        with documented_shell(tmp_path, cluster.url("")) as shell:
            shell.run(script, PATH=path, **address)
    finally:
        others = "SELECT datname FROM pg_database WHERE datname !~ '^(postgres|template.*)$'"
        for name in cluster.psql(others).split():
            cluster.psql(f"DROP DATABASE {name} WITH (FORCE)")


@of_blocks([each for each in BLOCKS if each.language == "sh" and not each.runs_here])
def test_the_commands_of_a_block_that_does_not_run_are_valid(block: Block) -> None:
    subprocess.run(["bash", "-n"], input=block.code, text=True, check=True)
    joined = block.code.replace("\\\n", " ")
    for command in re.findall(
        r"(?<![\w/-])session-authority( [^|;&>)\n]*)?(?:>|$)", joined, re.MULTILINE
    ):
        check_arguments(shlex.split(command, comments=True))


@of_pages("sql")
def test_the_sql_of_a_page_runs(
    blocks: list[Block], cluster: postgresql.Cluster, tmp_path: Path
) -> None:
    cluster.psql("CREATE DATABASE documented")
    try:
        settings = {"SESSION_AUTHORITY_DATABASE_URL": cluster.url("documented")}
        assert run("migrate", cwd=tmp_path, settings=settings).returncode == 0
        with psycopg.connect(cluster.url("documented"), autocommit=True) as connection:
            for block in blocks:
                connection.execute((block.given + block.code).encode())
    finally:
        cluster.psql("DROP DATABASE documented")


@of_blocks([each for each in BLOCKS if each.title == "postgresql.conf"])
def test_postgresql_accepts_the_documented_settings(
    block: Block, cluster: postgresql.Cluster
) -> None:
    with psycopg.connect(cluster.url(), autocommit=True) as connection:
        for line in block.code.splitlines():
            if not line.startswith("#"):
                name, _, value = line.partition("=")
                connection.execute(f"ALTER SYSTEM SET {name} = {value}".encode())
                connection.execute(f"ALTER SYSTEM RESET {name}".encode())


# Data and configuration


def check_json(block: Block, _folder: Path) -> None:
    try:
        json.loads(block.code)
    except ValueError:
        for line in block.code.splitlines():
            json.loads(line)


def check_toml(block: Block, folder: Path) -> None:
    tomllib.loads(block.code)
    if block.title in ("", "session-authority.toml"):
        file = folder / "session-authority.toml"
        file.write_text(block.code)
        load_settings(file)


def check_yaml(block: Block, _folder: Path) -> None:
    assert list(yaml.safe_load_all(block.code))


def check_css(block: Block, _folder: Path) -> None:
    known = ROOT / "client/session_authority/web/sessions_page/static/page.css"
    names = set(re.findall(r"--sa-[\w-]+", block.code))
    assert names
    assert names <= set(re.findall(r"--sa-[\w-]+", known.read_text()))


def check_mermaid(block: Block, _folder: Path) -> None:
    first, *rest = block.code.splitlines()
    assert re.fullmatch(r"(graph|flowchart) (TD|LR)|sequenceDiagram", first)
    assert rest


def check_proxy(block: Block, folder: Path) -> None:
    if proxies.program(block.language) is None:
        pytest.skip(f"{block.language} is not installed")
    proxies.check(block.language, folder, TestAuthority(folder).pair(), block.code)


def check_logrotate(block: Block, folder: Path) -> None:
    if (program := shutil.which("logrotate")) is None:
        pytest.skip("logrotate is not installed")
    file = folder / "logrotate.conf"
    file.write_text(block.code)
    subprocess.run([program, "--debug", "--state", folder / "state", file], check=True)


CHECKS: dict[str, Callable[[Block, Path], None]] = {
    "css": check_css,
    "haproxy": check_proxy,
    "json": check_json,
    "logrotate": check_logrotate,
    "mermaid": check_mermaid,
    "nginx": check_proxy,
    "toml": check_toml,
    "yaml": check_yaml,
}
RUN = ("python", "sh", "sql")


@of_blocks([each for each in BLOCKS if each.language in CHECKS if not each.included])
def test_a_configuration_is_accepted_by_its_program(block: Block, tmp_path: Path) -> None:
    CHECKS[block.language](block, tmp_path)


# All


@of_blocks(BLOCKS)
def test_a_block_names_its_language(block: Block) -> None:
    known = {*CHECKS, *RUN, "go", "text"}
    assert block.language in known or block.title == "postgresql.conf" or block.run_by, (
        block.language
    )


@of_blocks([each for each in BLOCKS if each.not_run is not None])
def test_a_block_that_does_not_run_gives_a_reason(block: Block) -> None:
    assert block.not_run
    assert len(block.not_run.split()) >= 3


@of_blocks([each for each in BLOCKS if each.run_by or each.included])
def test_a_block_that_runs_elsewhere_names_the_test(block: Block) -> None:
    test = ROOT / block.run_by
    assert test.name.startswith("test_")
    assert all((ROOT / name).is_file() for name in block.included)
    named = block.included or [block.document]
    assert all(Path(name).name in test.read_text() for name in named)


def count() -> str:
    """Return the number of blocks in each language, by how they are tested."""
    counts = Counter(
        (
            each.language,
            "marked" if each.not_run is not None
            else "run" if each.language in RUN or each.run_by
            else "text" if each.language == "text"
            else "checked",
        )
        for each in BLOCKS
    )  # fmt: skip
    lines = [f"{number:4} {language} {fate}" for (language, fate), number in sorted(counts.items())]
    marked = [f"{each}: {each.not_run}" for each in BLOCKS if each.not_run is not None]
    return "\n".join([*lines, *marked, f"{len(BLOCKS):4} blocks"])


if __name__ == "__main__":
    sys.stdout.write(count() + "\n")
