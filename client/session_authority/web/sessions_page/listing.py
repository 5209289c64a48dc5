"""Which sessions one page shows, read with as few calls as that takes."""

from collections.abc import Generator
from dataclasses import dataclass, field

from session_authority import _core
from session_authority.session import Session, SessionState, ValidationRequest

ROWS_PER_PAGE = 50
ENDED_SHOWN = 10
LISTED_LIMIT_SESSIONS = 10_000
"""Nobody looks further; a user has at most 100 live ones unless the policy says otherwise."""
PAGE_LIMIT = LISTED_LIMIT_SESSIONS // ROWS_PER_PAGE


@dataclass(kw_only=True)
class Listing:
    """What a page shows.

    Attributes:
        number: Which page it is, from 1.
        current: The viewer's own session; on the first page, wherever it is in order.
        others: The other live ones of this page, most recently active first.
        has_others: Whether there are any, on whatever page.
        has_more: Whether another page follows.
        ended: The latest that ended, on the last page.
    """

    number: int
    current: Session | None = None
    others: list[Session] = field(default_factory=list)
    has_others: bool = False
    has_more: bool = False
    ended: list[Session] = field(default_factory=list)


def read_page(token: str, number: int, *, show_ended: bool) -> _core.Operation[Listing]:
    """Read what page `number` shows. The authority gives live sessions first, then ended ones."""
    listing = Listing(number=number)
    first, last = (number - 1) * ROWS_PER_PAGE, number * ROWS_PER_PAGE
    position = 0
    walk = _Walk(token, show_ended=show_ended)
    while (session := (yield from walk.next())) is not None:
        if session.state is SessionState.ENDED:
            listing.ended.append(session)
            if len(listing.ended) == ENDED_SHOWN:
                break
        elif session.current:
            listing.current = session if number == 1 else None
        else:
            listing.has_others = True
            if position >= last:
                listing.has_more = True
                break
            if position >= first:
                listing.others.append(session)
            position += 1
    if listing.current is None and number == 1:
        listing.current = yield from _current(token)
    return listing


def find_session(token: str, session_id: str) -> _core.Operation[Session | None]:
    """Find one of the user's sessions, live or ended."""
    walk = _Walk(token, show_ended=True)
    while (session := (yield from walk.next())) is not None:
        if session.session_id == session_id:
            return session
    return None


def read_all(token: str) -> _core.Operation[tuple[list[Session], bool]]:
    """Read every session of the user, up to the limit, and say whether that is all."""
    sessions: list[Session] = []
    walk = _Walk(token, show_ended=True)
    while (session := (yield from walk.next())) is not None:
        sessions.append(session)
    return sessions, walk.is_complete


class _Walk:
    """Goes through a user's sessions, asking for the next ones when they are wanted."""

    def __init__(self, token: str, *, show_ended: bool) -> None:
        self._token = token
        self._show_ended = show_ended
        self._waiting: list[Session] = []
        self._page_token: str | None = ""
        # One that is used meanwhile may appear again.
        self._seen: set[str] = set()

    @property
    def is_complete(self) -> bool:
        """Say whether the authority had no more to give."""
        return self._page_token is None

    def next(self) -> Generator[_core.Call, bytes, Session | None]:
        """Give the next session; None at the end, or at the limit."""
        while True:
            while self._waiting:
                session = self._waiting.pop()
                if session.session_id not in self._seen:
                    self._seen.add(session.session_id)
                    return session
            if self._page_token is None or len(self._seen) >= LISTED_LIMIT_SESSIONS:
                return None
            page, next_token = yield from _core.list_page(
                self._token,
                show_ended=self._show_ended,
                page_size=_core.PAGE_LIMIT_SESSIONS,
                page_token=self._page_token,
            )
            self._waiting = page[::-1]
            self._page_token = next_token or None


def _current(token: str) -> _core.Operation[Session]:
    # Among thousands, the viewer's own may be far down. To look is not to use.
    answer = yield from _core.validate(ValidationRequest(token, passive=True))
    return _core.live(answer)
