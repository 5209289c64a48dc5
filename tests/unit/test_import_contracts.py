"""Every new module is subject to the import contracts in pyproject.toml."""

import ast
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

pytestmark = pytest.mark.untraced

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = (
    "client/session_authority",
    "server/session_authority_server",
    "workers/session_authority_workers",
    "gateway/session_authority_gateway",
)
# The path and content of a new module, and the contracts that it breaks.
STRAYS: Mapping[str, tuple[str, set[str]]] = {
    "session_authority_server/stray.py": (
        "",
        {"The server's rooms import one way, and every room has its place"},
    ),
    "session_authority_server/check/stray.py": ("", {"Facts are gathered before they are judged"}),
    "session_authority_server/usecases/stray.py": (
        "import session_authority_server.store.stray\nimport sqlalchemy\n",
        {
            "Use-cases and workers know the store by its ports alone",
            "Use-cases know neither wire nor database",
        },
    ),
    "session_authority_server/app/stray.py": (
        "import session_authority_workers.schedule\n",
        {"Packages import one way"},
    ),
    "session_authority_server/domain/stray.py": ("import grpc\n", {"The domain is pure"}),
    "session_authority_server/watch/stray.py": (
        "import session_authority_server.watch.stray_too\n",
        set(),
    ),
    "session_authority_server/watch/stray_too.py": (
        "import session_authority_server.watch.stray\n",
        {"No package imports in a circle"},
    ),
    "session_authority_workers/stray.py": (
        "import grpc\nimport session_authority_server.store.stray\n",
        {
            "Workers know neither RPCs nor the database",
            "Use-cases and workers know the store by its ports alone",
        },
    ),
    "session_authority/stray.py": (
        "import session_authority_server.config\nimport session_authority.testing\n",
        {"The client stands alone", "Nothing imports the testing package"},
    ),
    "session_authority_gateway/stray.py": (
        "import session_authority_server.store.stray\n",
        {"The gateway knows the authority by its client alone"},
    ),
    "session_authority_server/cli/stray.py": (
        "import session_authority_gateway.stray\n",
        {"Packages import one way"},
    ),
    "session_authority/web/stray.py": (
        "import django\n",
        {"Only the integration of a framework imports the framework"},
    ),
    "session_authority_server/store/stray.py": ("", set()),
}


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """Check the contracts with all these modules in place, and return the broken contracts."""
    folder = tmp_path_factory.mktemp("packages")
    for package in PACKAGES:
        copy = folder / Path(package).name
        shutil.copytree(ROOT / package, copy, ignore=shutil.ignore_patterns("__pycache__"))
    for name, (text, _) in STRAYS.items():
        (folder / name).write_text(text)
    linted = subprocess.run(
        [
            *(
                sys.executable,
                "-c",
                "from importlinter.cli import lint_imports_command as lint; lint()",
            ),
            *("--config", str(ROOT / "pyproject.toml"), "--no-cache"),
        ],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder), "COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    return set(re.findall(r"^(.+?) BROKEN", linted.stdout, re.MULTILINE))


@pytest.mark.parametrize("name", [name for name, (_, contracts) in STRAYS.items() if contracts])
def test_a_stray_module_breaks_its_contract(name: str, broken: set[str]) -> None:
    assert STRAYS[name][1] <= broken


@pytest.mark.parametrize("room", ["domain", "usecases"])
def test_the_domain_imports_only_the_standard_library(room: str) -> None:
    allowed = sys.stdlib_module_names | {"session_authority_server"}
    found = {
        f"{file.name}: {name}"
        for file in (ROOT / "server/session_authority_server" / room).rglob("*.py")
        for name in _imported(file)
        if name not in allowed
    }
    assert found == set()


def _imported(file: Path) -> Iterator[str]:
    """Return the top-level packages that a file imports."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (each.name.partition(".")[0] for each in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module.partition(".")[0]
