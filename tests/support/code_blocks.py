"""The code blocks of the documents.

An HTML comment directly above a block has instructions for the tests, hidden from readers:

    <!-- given:              code that runs before the block
    app = FastAPI()
    -->
    <!-- run by: PATH -->    the test that runs the block, or the file that it includes
    <!-- not run: REASON --> the block cannot run; it is only checked
"""

import re
import textwrap
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

ROOT = Path(__file__).parents[2]
_FENCE = re.compile(r"^(?P<indent> *)(?P<ticks>```+)(?P<language>[\w-]*)(?P<attributes>.*)$")
_COMMENT = re.compile(r"<!--(.*?)-->", re.DOTALL)
_TITLE = re.compile(r'title="([^"]+)"')
_NAMED = re.compile(r"# ([\w./-]+\.\w+)\n")
_INCLUDED = re.compile(r'^--8<-- "([^":]+)(?::\w+)*"$', re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Block:
    """A code block of a document.

    Attributes:
        document: The document's path below the repository.
        line: The line of its first line of code.
        language: The word after the opening fence; empty if there is none.
        title: The file name above the block; empty if there is none.
        code: Its text, without the indentation of the fence.
        given: Hidden code that runs before the block.
        given_line: The line of the first line of `given`.
        run_by: The test that runs it instead, below the repository.
        not_run: Why it cannot run; None if it can.
    """

    document: str
    line: int
    language: str
    title: str
    code: str
    given: str = ""
    given_line: int = 0
    run_by: str = ""
    not_run: str | None = None

    def __str__(self) -> str:
        return f"{self.document}:{self.line}"

    @property
    def runs_here(self) -> bool:
        return not self.run_by and self.not_run is None

    @property
    def included(self) -> list[str]:
        """Return the files of the repository that the block includes."""
        return _INCLUDED.findall(self.code)


def documents() -> Iterator[Path]:
    """Return the documents whose blocks readers copy."""
    yield from (ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md"))
    yield from sorted(path for path in (ROOT / "docs").rglob("*.md") if not path.is_symlink())


def all_blocks() -> list[Block]:
    """Return every block of every document, in their order."""
    return [block for path in documents() for block in blocks_of(path)]


def blocks_of(path: Path) -> Iterator[Block]:
    """Return the blocks of one document."""
    lines = path.read_text().splitlines(keepends=True)
    document = str(path.relative_to(ROOT))
    number = above = 0
    while number < len(lines):
        opening = _FENCE.match(lines[number].rstrip("\n"))
        number += 1
        if opening is None:
            continue
        first, indent = number, len(opening["indent"])
        while lines[number].strip() != opening["ticks"]:
            number += 1
        code = "".join(line[indent:] or "\n" for line in lines[first:number])
        title = _TITLE.search(opening["attributes"]) or _NAMED.match(code)
        block = Block(document, first + 1, opening["language"], title[1] if title else "", code)
        yield _with_comments(block, lines[above : first - 1], above)
        number += 1
        above = number


def _with_comments(block: Block, lines: list[str], above: int) -> Block:
    """Return a block with the instructions in the comments directly above it."""
    text = "".join(lines)
    end = len(text.rstrip())
    for comment in reversed(list(_COMMENT.finditer(text))):
        if text[comment.end() : end].strip():
            break
        end = comment.start()
        keyword, _, said = comment[1].partition(":")
        match keyword.strip():
            case "given":
                line = above + text.count("\n", 0, comment.start()) + 2
                block = replace(
                    block, given=textwrap.dedent(said.strip("\n")) + "\n", given_line=line
                )
            case "run by":
                block = replace(block, run_by=said.strip())
            case "not run":
                block = replace(block, not_run=said.strip())
    return block


def as_one(blocks: Iterable[Block]) -> str:
    """Return blocks of a document as one program. Each line keeps its line number of the document."""
    lines: list[str] = []
    for block in blocks:
        for line, code in ((block.given_line, block.given), (block.line, block.code)):
            if code:
                lines += [""] * (line - 1 - len(lines))
                lines += code.splitlines()
    return "\n".join(lines) + "\n"
