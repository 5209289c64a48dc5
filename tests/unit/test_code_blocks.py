"""The search for code blocks in documents, with the comments above them."""

from collections.abc import Callable
from pathlib import Path

import click
import pytest

from tests.support import code_blocks
from tests.support.code_blocks import Block, as_one, blocks_of
from tests.support.documented_shell import (
    check_arguments,
    check_requirements,
    check_targets,
    documented_shell,
)

pytestmark = pytest.mark.untraced

PAGE = """\
# A page

<!-- a remark -->
<!-- not run: it needs a printer -->
<!-- given:
paper = 1
-->
```python title="print.py" hl_lines="1"
print(paper)
```

<!-- not run: of the block above, not of this one -->

Text.

- A list:

  ```sh
  if true; then
    echo
  fi
  ```
"""


@pytest.fixture
def found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Block]:
    monkeypatch.setattr(code_blocks, "ROOT", tmp_path)
    page = tmp_path / "page.md"
    page.write_text(PAGE)
    return list(blocks_of(page))


def test_a_block_has_the_instructions_in_the_comments_directly_above_it(found: list[Block]) -> None:
    first, second = found
    assert (first.language, first.title, first.code) == ("python", "print.py", "print(paper)\n")
    assert (first.given, first.not_run) == ("paper = 1\n", "it needs a printer")
    assert (second.given, second.not_run, second.runs_here) == ("", None, True)


def test_the_indentation_of_the_fence_is_removed_from_a_block(found: list[Block]) -> None:
    assert found[1].code == "if true; then\n  echo\nfi\n"


def test_each_line_of_a_program_keeps_its_line_number_of_the_document(
    found: list[Block],
) -> None:
    lines = as_one(found[:1]).splitlines()
    page = PAGE.splitlines()
    assert {number for number, line in enumerate(lines) if line} == {5, 8}
    assert (lines[5], lines[8]) == (page[5], page[8])


@pytest.mark.parametrize(
    ("check", "arguments"),
    [
        (check_arguments, ["serve", "--no-such-option"]),
        (check_arguments, ["keys", "no-such-command"]),
        (check_targets, ["no-such-target"]),
        (check_requirements, ["install", ".[no-such-extra]"]),
    ],
)
def test_unknown_commands_targets_and_extras_are_refused(
    check: Callable[[list[str]], None], arguments: list[str]
) -> None:
    with pytest.raises((AssertionError, click.ClickException)):
        check(arguments)


@pytest.mark.parametrize(
    ("script", "printed"),
    [
        ("session-authority --version", "version"),
        ("make test\necho made", "made"),
    ],
)
def test_the_shell_runs_the_products_commands(tmp_path: Path, script: str, printed: str) -> None:
    file = tmp_path / "script.sh"
    file.write_text(script)
    with documented_shell(tmp_path, "") as shell:
        shell.run(file)
    assert printed in shell.output


@pytest.mark.parametrize(
    "script", ["false\ntrue", "make no-such-target\ntrue", "session-authority keys expire\ntrue"]
)
def test_the_shell_stops_at_the_first_command_that_fails(tmp_path: Path, script: str) -> None:
    file = tmp_path / "script.sh"
    file.write_text(script)
    with documented_shell(tmp_path, "") as shell, pytest.raises(AssertionError):
        shell.run(file)
