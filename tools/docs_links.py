"""Hook of MkDocs: show links that leave docs/ as plain text, since the site does not hold their targets."""

import logging
import re
from pathlib import Path, PurePosixPath
from typing import Any

_LINK = re.compile(r"(?<!!)\[([^\]]+)\]\(((?:\.\./)[^)#\s]+)(?:#[\w-]+)?\)")
_log = logging.getLogger("mkdocs.hooks")


def on_page_markdown(markdown: str, *, page: Any, config: Any, **_: Any) -> str:
    """Return the page without links to the repository's other files; warn of files that do not exist."""
    docs = Path(config["docs_dir"]).resolve()
    folder = docs / PurePosixPath(page.file.src_uri).parent

    def plain(link: re.Match[str]) -> str:
        text, target = link.groups()
        file = (folder / target).resolve()
        if file.is_relative_to(docs):
            return link[0]
        if not file.exists():
            _log.warning("%s links to %s, which does not exist", page.file.src_uri, target)
        return text

    return _LINK.sub(plain, markdown)
