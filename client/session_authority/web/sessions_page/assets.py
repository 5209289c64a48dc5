"""Serve the style sheet, the script and the icon under names that contain a hash of their content."""

import hashlib
from pathlib import Path

from session_authority.web.exchange import PageRequest, PageResponse

PREFIX = "/static/"

_FOLDER = Path(__file__).with_name("static")
_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}


class Assets:
    """The files of the folder `static`, read once. Browsers may cache them forever."""

    def __init__(self) -> None:
        self._answers: dict[str, PageResponse] = {}
        self._names: dict[str, str] = {}
        for path in sorted(_FOLDER.iterdir()):
            content = path.read_bytes()
            name = f"{path.stem}.{hashlib.sha256(content).hexdigest()[:16]}{path.suffix}"
            self._names[path.name] = PREFIX + name
            self._answers[PREFIX + name] = PageResponse(
                status=200,
                headers=(
                    ("Content-Type", _TYPES[path.suffix]),
                    ("Cache-Control", "public, max-age=31536000, immutable"),
                    ("X-Content-Type-Options", "nosniff"),
                    ("Cross-Origin-Resource-Policy", "same-origin"),
                ),
                body=content,
            )

    def path_of(self, file_name: str) -> str:
        """Return the path of a file, relative to the page's root."""
        return self._names[file_name]

    def find(self, request: PageRequest) -> PageResponse | None:
        """Return the file that a request names, or None."""
        return self._answers.get(request.below)
