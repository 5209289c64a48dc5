"""The page about errors, from the table that answers them and the exceptions of the client."""

from collections.abc import Iterator

from tools.reference.api import api
from tools.reference.markdown import Docstring

import session_authority
from session_authority import SessionAuthorityError, _error_details
from session_authority_server.rpc.error_table import TABLE, Row


def page() -> Iterator[str]:
    """Return the page about errors and exceptions.

    Raises:
        ValueError: The comment of a reason names another status than the table that answers it.
    """
    yield from (
        "An error of the authority carries a `google.rpc.ErrorInfo` of the domain `session-authority` with one of",
        "these reasons. The client turns it into an exception.",
        "",
        "## Reasons",
        "",
    )
    rows = {row.reason: row for row in TABLE.values()}
    for reason, paragraphs in api().reasons():
        yield from _reason(reason, rows[reason], paragraphs)
    yield from (
        "## Exceptions of the client",
        "",
        "All are subclasses of `SessionAuthorityError`. Only `SessionNotLive` means that a user is signed out. No",
        "message, attribute or cause contains a token or an API key.",
        "",
    )
    for name in session_authority.__all__:
        kind = getattr(session_authority, name)
        if isinstance(kind, type) and issubclass(kind, SessionAuthorityError):
            yield from _exception(kind)


def _reason(reason: str, row: Row, paragraphs: list[str]) -> Iterator[str]:
    status, _, first = paragraphs[0].partition(". ")
    if status != row.code.name:
        raise ValueError(f"{reason} is answered with {row.code.name}; its comment says {status}")
    kind = _error_details._BY_REASON[reason]
    yield from (f"### {reason}", "")
    yield from (
        f"- Status: `{status}`",
        f"- Exception: [{kind.__name__}](#{kind.__name__.lower()})",
    )
    if row.retry:
        yield "- `google.rpc.RetryInfo` says when a retry may succeed."
    yield ""
    for paragraph in (first, *paragraphs[1:]):
        yield from (paragraph, "")
    yield from (f"The exception says: {kind.advice}", "")


def _exception(kind: type[SessionAuthorityError]) -> Iterator[str]:
    documented = Docstring(kind)
    parents = [each.__name__ for each in kind.__bases__ if each is not Exception]
    yield from (f"### {kind.__name__}", "")
    if parents:
        yield from (f"A subclass of {' and '.join(f'`{each}`' for each in parents)}.", "")
    yield from (documented.text.strip(), "")
    for name, meaning in documented.described.items():
        yield f"- `{name}`: {meaning}"
    if documented.described:
        yield ""
