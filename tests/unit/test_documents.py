"""Names of tests, files and functions in the documents exist."""

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from session_authority_server.rpc.host.native import CALLS_PER_CONNECTION

pytestmark = pytest.mark.untraced

ROOT = Path(__file__).parents[2]
ARCHITECTURE = (ROOT / "docs" / "understand" / "architecture.md").read_text()
SERVER = "server/session_authority_server"
PLACES = re.findall(r"`([\w/]+\.py):([\w.]+)`", ARCHITECTURE)
STEPS_LIMIT = 12
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text()
# The folders that paths in CONTRIBUTING.md start from.
BASES = (
    ROOT,
    ROOT / SERVER,
    ROOT / "client/session_authority",
    ROOT / "client/session_authority/web",
)
NAMED_PATHS = set(
    re.findall(r"`(\w[\w./-]*(?:/|\.(?:py|md|proto|toml|lock|po|tsv)))`", CONTRIBUTING)
)
NAMED_TESTS = set(re.findall(r"`(test_\w+)`", CONTRIBUTING))
DOCUMENTS = [
    *(
        ROOT / name
        for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "benchmarks/README.md")
    ),
    *sorted(path for path in (ROOT / "docs").rglob("*.md") if not path.is_symlink()),
]


def test_no_text_installs_the_unpublished_name_from_an_index() -> None:
    shown = [
        *DOCUMENTS,
        *(path for room in ("client", "server", "workers") for path in (ROOT / room).rglob("*.py")),
    ]
    install = re.compile(r"pip install[^`\n]*?[ '\"]session-authority")
    assert [str(each) for each in shown if install.search(each.read_text())] == []


def defined(body: list[ast.stmt], prefix: str = "") -> Iterator[str]:
    """Return the functions and classes of a module, methods as `Class.method`."""
    for each in body:
        if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef):
            yield prefix + each.name
        elif isinstance(each, ast.ClassDef):
            yield prefix + each.name
            yield from defined(each.body, f"{prefix}{each.name}.")


@pytest.mark.parametrize(("file", "name"), sorted(set(PLACES)))
def test_every_function_that_the_architecture_names_exists(file: str, name: str) -> None:
    path = (
        ROOT / file
        if file.startswith(("client/", "workers/", "gateway/"))
        else ROOT / SERVER / file
    )
    assert name in defined(ast.parse(path.read_text()).body)


def test_each_documented_call_path_is_short() -> None:
    sections = re.split(r"^## ", ARCHITECTURE, flags=re.MULTILINE)[1:]
    steps = {
        each.splitlines()[0]: re.findall(r"^(\d+)\. ", each, re.MULTILINE) for each in sections
    }
    for name in ("ValidateSession", "CreateSession", "RevokeSession"):
        assert steps[name] == [str(n) for n in range(1, len(steps[name]) + 1)]
        assert 0 < len(steps[name]) <= STEPS_LIMIT


def test_the_table_of_rooms_matches_the_enforced_layers() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    (layers,) = (
        each["layers"]
        for each in contracts["contracts"]
        if each.get("containers") == ["session_authority_server"]
    )
    table = ARCHITECTURE.partition("| room | content |")[2].partition("\n\n")[0]
    rows = re.findall(r"^\| (`.*?`) \|", table, re.MULTILINE)
    assert [set(re.findall(r"\w+", row)) for row in rows] == [
        set(layer.split(" | ")) for layer in layers
    ]


def test_every_file_that_contributing_names_exists() -> None:
    assert len(NAMED_PATHS) > 50
    assert [path for path in NAMED_PATHS if not any((base / path).exists() for base in BASES)] == []


def test_every_test_that_contributing_names_exists() -> None:
    assert len(NAMED_TESTS) > 20
    code = "\n".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    assert {name for name in NAMED_TESTS if not re.search(rf"def {name}\(", code)} == set()


def test_each_test_that_a_recipe_names_is_in_the_named_file() -> None:
    pairs = re.findall(r"`(test_\w+)` in\s+`(tests/[\w/]+\.py)`", CONTRIBUTING)
    assert pairs
    for name, path in pairs:
        assert f"def {name}(" in (ROOT / path).read_text(), name


def test_the_benchmarks_folder_lists_its_programs_and_holds_nothing_else() -> None:
    files = {path.stem for path in (ROOT / "benchmarks").glob("*.py")} - {"__init__"}
    assert all(name.startswith("run_") for name in files)
    listed = (ROOT / "benchmarks" / "README.md").read_text()
    assert set(re.findall(r"^\| `(\w+)` \|", listed, re.MULTILINE)) == files


def test_every_benchmark_that_the_documents_name_exists() -> None:
    documents = [*(ROOT / "docs").rglob("*.md"), ROOT / "README.md", ROOT / "benchmarks/README.md"]
    text = "\n".join(path.read_text() for path in documents)
    named = set(re.findall(r"\bbenchmarks\.(run_\w+)", text))
    named |= set(re.findall(r"\bbenchmarks/(\w+)\.py", text))
    assert [name for name in sorted(named) if not (ROOT / f"benchmarks/{name}.py").exists()] == []


def test_the_documented_proxies_allow_as_many_calls_per_connection_as_a_server() -> None:
    recipes = (ROOT / "docs" / "operate" / "tls.md").read_text()
    limits = re.findall(r"^\s+\S*max[-_]concurrent[-_]streams (\d+);?$", recipes, re.MULTILINE)
    assert limits == [str(CALLS_PER_CONNECTION)] * 2


def anchor(heading: str) -> str:
    """Return the anchor of a heading."""
    return re.sub(r"[^\w -]", "", heading.strip().lower()).replace(" ", "-")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_of_a_document_has_a_target(document: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", document.read_text()):
        path, _, place = target.partition("#")
        if ":" in path:
            continue  # A link to another site.
        file = document.parent / path if path else document
        assert file.exists(), target
        if place:
            headings = re.findall(r"^#+ (.*)$", file.read_text(), re.MULTILINE)
            assert place in map(anchor, headings), target


def test_the_old_path_of_a_moved_page_links_to_the_page() -> None:
    moved = [path for path in (ROOT / "docs").iterdir() if path.is_symlink()]
    excluded = re.findall(r"^  /(\S+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)
    assert sorted(path.name for path in moved) == excluded
    assert all(path.resolve() in DOCUMENTS for path in moved)


def test_every_file_that_the_docs_name_exists() -> None:
    text = "\n".join(path.read_text() for path in (ROOT / "docs").rglob("*.md"))
    named = set(re.findall(r"`((?:tests|benchmarks|tools|examples)/[\w./-]+)`", text))
    assert len(named) > 20
    assert [path for path in sorted(named) if not (ROOT / path).exists()] == []
