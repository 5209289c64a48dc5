"""The tool that checks whether comments, docstrings and documents are in plain English."""

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

pytestmark = pytest.mark.untraced

TOOL = Path(__file__).parents[2] / "tools" / "prose.py"
LONG = "One " + "two " * 29 + "three."
PHRASES = [
    line.split("\t")[0] for line in TOOL.with_name("prose_phrases.tsv").read_text().splitlines()[1:]
]


@pytest.fixture(scope="module")
def prose() -> ModuleType:
    spec = importlib.util.spec_from_file_location("prose", TOOL)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def found(prose: ModuleType, name: str, text: str) -> list[tuple[int, str]]:
    return [(each.line, each.rule) for each in prose.findings(Path(name), text)]


@pytest.mark.parametrize("phrase", PHRASES)
def test_a_forbidden_phrase_is_found_in_text_names_and_across_lines(
    prose: ModuleType, phrase: str
) -> None:
    name = phrase.replace(" ", "_")
    broken = phrase.replace(" ", "\n    # ")
    text = f'"""About {phrase}."""\n\n{name}_twice = f"{phrase.capitalize()}!"\n    # {broken}\n'
    assert found(prose, "some.py", text) == [
        (1, "phrase"),
        (3, "phrase"),
        (3, "phrase"),
        (4, "phrase"),
    ]


def test_a_word_that_contains_a_forbidden_word_is_allowed(prose: ModuleType) -> None:
    assert found(prose, "some.md", "The retold story of a renewal.\n") == []


def test_a_forbidden_word_is_found_in_a_name_in_camel_case(prose: ModuleType) -> None:
    name = f"Sessions{PHRASES[0].capitalize()}Twice"
    assert found(prose, "some.py", f"class {name}: ...\n") == [(1, "phrase")]


@pytest.mark.parametrize(
    ("name", "text", "line"),
    [
        ("some.py", f'"""{LONG}"""\n', 1),
        ("some.py", f'def f():\n    """Short.\n\n    {LONG}\n    """\n', 4),
        (
            "some.py",
            f'def f():\n    """Short.\n\n    Args:\n        one: First.\n        two: {LONG}\n    """\n',
            6,
        ),
        ("some.py", f'class A:\n    a: int\n    """{LONG}"""\n', 3),
        ("some.py", f"a = 1\n# {LONG}\n", 2),
        ("some.py", f"a = 1  # {LONG}\n", 1),
        ("some.proto", f"// {LONG}\n", 1),
        ("some.toml", f"a = 1\n# {LONG}\n", 2),
        ("Makefile", f"# {LONG}\n", 1),
        ("some.md", f"# Title\n\n- Short.\n- {LONG}\n", 4),
        ("some.md", f"| a | b |\n|---|---|\n| Short. | {LONG} |\n", 3),
        ("some.md", f"Short. Then the line breaks.\n{LONG}\n", 2),
    ],
)
def test_a_sentence_of_more_than_30_words_is_found(
    prose: ModuleType, name: str, text: str, line: int
) -> None:
    assert found(prose, name, text) == [(line, "sentence")]
    assert found(prose, name, text.replace("two ", "", 1)) == []


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("some.md", "two " * 29 + "3. " + "Two " * 29 + "three.\n"),
        ("some.md", f"```python\n{LONG}\n# {PHRASES[0]}\n```\n"),
        ("some.md", f"Text:\n\n    ~~~\n    {LONG}\n    ~~~\n"),
        ("some.md", f"<!--\n{LONG}\n-->\n"),
        ("some.md", "| " + "two words | " * 20 + "\n"),
        ("some.md", "One, " + "- two\n" * 40),
        ("some.md", f"[A link](https://{'a/' * 60}) and `{'code ' * 40}`.\n"),
        ("some.py", f'"""Run it.\n\n    $ {LONG}\n"""\n'),
        ("some.py", f"# noqa: {LONG}\n"),
        ("some.py", f'text = "{LONG}"\n'),
        ("some.py", "a = 1  # " + "two " * 20 + "\nb = 1  # " + "two " * 20 + "\n"),
        ("some.py", f"# Generated from another file.\n# {LONG}\n"),
    ],
)
def test_code_tables_and_generated_files_are_left_out(
    prose: ModuleType, name: str, text: str
) -> None:
    assert found(prose, name, text) == []


@pytest.mark.parametrize(
    ("name", "marker"), [("some.md", ""), ("some.py", "# "), ("some.proto", "// ")]
)
def test_a_paragraph_of_more_than_6_lines_is_found(
    prose: ModuleType, name: str, marker: str
) -> None:
    assert found(prose, name, f"{marker}A line.\n" * 7) == [(1, "paragraph")]
    assert found(prose, name, f"{marker}A line.\n" * 6 + f"{marker}\n{marker}Another.\n") == []


def test_a_paragraph_in_one_long_line_counts_as_several(prose: ModuleType) -> None:
    assert found(prose, "some.md", "A sentence with a few words. " * 30) == [(1, "paragraph")]


@pytest.mark.parametrize("word", ["What", "Whatever", "Which", "Who"])
def test_a_sentence_that_begins_with_a_relative_pronoun_is_found(
    prose: ModuleType, word: str
) -> None:
    text = f"# {word} finds the queue full, waits.\n"
    assert found(prose, "some.py", text) == [(1, "phrase")]
    assert found(prose, "some.py", text.replace(".", "?")) == []
    assert found(prose, "some.md", f"**{word} would change our mind.** A new fact.\n") == []


def test_a_marker_allows_findings_on_its_line_and_the_next_one(prose: ModuleType) -> None:
    text = f"# {PHRASES[0]}  prose: allow\n# {PHRASES[0]}\n# {PHRASES[0]}\n"
    assert found(prose, "some.py", text) == [(3, "phrase")]


def test_a_finding_is_counted_for_the_folder_of_its_file(prose: ModuleType) -> None:
    assert (
        prose.room(Path("server/session_authority_server/store/engine/sqlite.py"))
        == "server/store/engine"
    )
    assert prose.room(Path("README.md")) == "(top)"


@pytest.mark.parametrize("arguments", [[], ["--count"]])
def test_the_tool_fails_if_it_finds_something(tmp_path: Path, arguments: list[str]) -> None:
    (tmp_path / "tools").mkdir()
    for name in ("prose.py", "prose_phrases.tsv"):
        shutil.copy(TOOL.with_name(name), tmp_path / "tools")
    subprocess.run(["git", "init", "-q", "."], cwd=tmp_path, check=True)
    command = [sys.executable, "tools/prose.py", *arguments, "docs"]
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "good.md").write_text("A short sentence.\n")
    good = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    (tmp_path / "docs" / "bad.md").write_text(f"{LONG}\n")
    bad = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert (good.returncode, bad.returncode) == (0, 1), good.stderr + bad.stderr
    expected = (
        "docs                                        1         0         0"
        if arguments
        else "docs/bad.md:1: sentence of 31 words"
    )
    assert expected in bad.stdout
