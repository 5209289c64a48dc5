"""Read the sessions that one page shows, with as few calls as possible."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from session_authority import _core
from session_authority.session import Session, SessionState, ValidationRequest

ROWS_PER_PAGE = 50
ENDED_SHOWN = 10
LISTED_LIMIT_SESSIONS = 10_000
"""The page reads at most this many sessions. By default, a user has at most 100 live sessions."""
PAGE_LIMIT = LISTED_LIMIT_SESSIONS // ROWS_PER_PAGE
GROUPED_FROM = 3
"""So many sessions of the same device and country are shown as one row that opens."""


@dataclass(kw_only=True)
class Listing:
    """The sessions on one page.

    Attributes:
        number: The page's number, from 1.
        total: Number of the user's live sessions; 10,001 if there are more than 10,000.
        current: The viewer's own session. It is the first row of the first page.
        others: The other live sessions of this page, most recently active first.
        ended: The sessions that ended most recently.
    """

    number: int
    total: int
    current: Session | None
    others: list[Session]
    ended: list[Session] = field(default_factory=list)

    @property
    def first(self) -> int:
        """The position of the page's first row among all live sessions, from 1."""
        return (self.number - 1) * ROWS_PER_PAGE + 1

    @property
    def last(self) -> int:
        """The position of the page's last row."""
        return self.first - 1 + len(self.others) + (self.current is not None)

    @property
    def page_count(self) -> int:
        """Number of pages."""
        return min(-(-self.total // ROWS_PER_PAGE), PAGE_LIMIT)


def read_page(token: str, number: int, *, show_ended: bool) -> _core.Operation[Listing]:
    """Read the sessions on page `number`. One call is enough for a user with up to 200 sessions."""
    # The viewer's own session is the first row, so each later row is one place further down.
    first, last = max((number - 1) * ROWS_PER_PAGE - 1, 0), number * ROWS_PER_PAGE - 1
    reading = _Reading(token, show_ended=show_ended)
    others: list[Session] = []
    while len(others) < last and not reading.is_over:
        yield from reading.read_on()
        others = [session for session in reading.live() if not session.current]
    listing = Listing(
        number=number,
        total=len(reading.live()) if reading.is_complete else reading.total,
        current=next((session for session in reading.live() if session.current), None),
        others=others[first:last],
    )
    if number > 1:
        listing.current = None
    elif listing.current is None:
        listing.current = yield from _current(token)
    if listing.others:  # Sessions may begin and end between two calls.
        listing.total = max(listing.total, listing.last)
    if show_ended:
        listing.ended = yield from _latest_ended(token, reading)
    return listing


def by_device(sessions: Sequence[Session]) -> list[list[Session]]:
    """Put the sessions of the same device together if there are at least GROUPED_FROM.

    A session that its user has named, or in which another person acts, stays alone, so that it can't be overlooked.
    Sessions in another country stay apart, because a stolen token may be used on a device of the same kind.

    Returns:
        Lists of one session or of at least GROUPED_FROM, in the order of their first sessions.
    """
    groups: dict[object, list[Session]] = {}
    for session in sessions:
        groups.setdefault(_device_key(session), []).append(session)
    found = []
    for session in sessions:
        group = groups[_device_key(session)]
        if len(group) < GROUPED_FROM:
            found.append([session])
        elif group[0] is session:
            found.append(group)
    return found


def _device_key(session: Session) -> object:
    device = session.device
    if session.label or session.actor_id:
        return session.session_id
    country = session.location.country_code if session.location else ""
    return device.browser, device.os, device.type, country


def find_session(token: str, session_id: str) -> _core.Operation[Session | None]:
    """Find one of the user's sessions, live or ended."""
    reading = _Reading(token, show_ended=True)
    while session_id not in reading.sessions and not reading.is_over:
        yield from reading.read_on()
    return reading.sessions.get(session_id)


def read_all(token: str) -> _core.Operation[tuple[list[Session], bool]]:
    """Return the user's sessions, up to the limit, and whether these are all."""
    reading = _Reading(token, show_ended=True)
    while not reading.is_over:
        yield from reading.read_on()
    return list(reading.sessions.values())[:LISTED_LIMIT_SESSIONS], reading.is_complete


class _Reading:
    """The user's sessions that have been read so far: first live, then ended sessions.

    Attributes:
        sessions: The sessions by id, in order. The authority may send a session twice if it is used between
            two calls.
        total: Number of live sessions in the authority's latest answer.
        is_complete: Whether the authority has no more sessions.
    """

    def __init__(self, token: str, *, show_ended: bool) -> None:
        self.sessions: dict[str, Session] = {}
        self.total = 0
        self.is_complete = False
        self._token = token
        self._show_ended = show_ended
        self._page_token = ""

    @property
    def is_over(self) -> bool:
        """Whether all sessions, or as many as the limit permits, have been read."""
        return self.is_complete or len(self.sessions) >= LISTED_LIMIT_SESSIONS

    def live(self) -> list[Session]:
        """Return the live sessions."""
        return [each for each in self.sessions.values() if each.state is not SessionState.ENDED]

    def ended(self) -> list[Session]:
        """Return the ended sessions."""
        return [each for each in self.sessions.values() if each.state is SessionState.ENDED]

    def read_on(self) -> _core.Operation[None]:
        """Read the next sessions."""
        page = yield from _core.list_page(
            self._token,
            show_ended=self._show_ended,
            page_size=_core.PAGE_LIMIT_SESSIONS,
            page_token=self._page_token,
        )
        for session in page.sessions:
            self.sessions.setdefault(session.session_id, session)
        self.total = page.total
        self._page_token = page.next_page_token
        self.is_complete = not page.next_page_token


def _latest_ended(token: str, reading: _Reading) -> _core.Operation[list[Session]]:
    if reading.is_complete:
        return reading.ended()[:ENDED_SHOWN]
    page = yield from _core.list_page(token, only_ended=True, page_size=ENDED_SHOWN)
    return page.sessions


def _current(token: str) -> _core.Operation[Session]:
    # The viewer's session may be on a later page. Reading the page doesn't count as a use, so be passive.
    answer = yield from _core.validate(ValidationRequest(token, passive=True))
    return _core.session_or_raise(answer)
