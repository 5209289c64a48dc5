from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from uuid import UUID

from session_authority_server.background.activity import FLUSH_INTERVAL
from session_authority_server.domain.errors import InvalidRequest, Violation
from session_authority_server.domain.liveness import ending_of
from session_authority_server.domain.session import Session
from session_authority_server.ports.store import PageKey, SessionStore
from session_authority_server.usecases.context import Context
from session_authority_server.usecases.page_token import PageToken, Section
from session_authority_server.usecases.session_proof import (
    check_may_manage,
    prove,
    require_proof,
)

DEFAULT_PAGE_SIZE = 50
PAGE_SIZE_LIMIT = 200
COUNT_LIMIT = 10_001
"""The count of a user's live sessions stops here, because a larger count costs too much."""
# How late a use may be recorded. Recording it moves the session to the front of the list, behind the reader.
_RECORDING_LAG = 5 * FLUSH_INTERVAL


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """A caller's request for a page of sessions."""

    session_token: str = field(repr=False)
    page_size: int = 0
    page_token: str = ""
    show_ended: bool = False
    only_ended: bool = False


@dataclass(frozen=True, slots=True)
class Page:
    """A page of a user's sessions.

    Attributes:
        sessions: The sessions, in order.
        now: The time for which the states of the sessions are given.
        current: The id of the session whose token the request carries.
        next_page_token: The token of the next page; empty on the last page.
        total: How many live sessions the user has, or `COUNT_LIMIT` if there are more.
    """

    sessions: Sequence[Session]
    now: datetime
    current: UUID
    next_page_token: str
    total: int


async def list_sessions(context: Context, listing: Listing) -> Page:
    """Return a page of the user's own sessions.

    Live sessions come first, the most recently active first. A session that is used between two pages moves to the
    front of the list, where no later page shows it. Therefore the live sessions are followed by those used since the
    first page was read.

    Raises:
        SessionNotLive: If the token is invalid.
        ImpersonationForbidden: If another person acts as the user.
        ReauthenticationRequired: If the proof of identity is too old.
        InvalidRequest: If the page token belongs to another list, or the page size is negative.
        StoreUnavailable: If the store can't be read.
    """
    proof = require_proof(listing.session_token)
    size = _page_size(listing.page_size)
    now = context.clock.now()
    with context.reporting_failed_proof():
        proven = await prove(context, proof, now)
    check_may_manage(proven, context.policy, now)
    show_ended = listing.show_ended or listing.only_ended
    if listing.page_token:
        place = PageToken.decode(listing.page_token, proven.user_id, show_ended)
    else:
        first = Section.ENDED if listing.only_ended else Section.LIVE
        place = PageToken(proven.user_id, show_ended, now, first, None)
    first_page = not listing.page_token
    found, next_page_token = await _read_page(
        context.store, place, now, size, first_page=first_page
    )
    if listing.page_token or listing.only_ended or next_page_token:
        total = await context.store.count_live(proven.user_id, now, COUNT_LIMIT)
    else:  # Every live session is on this page.
        total = sum(ending_of(session, now) is None for session in found)
    return Page(found, now, proven.session_id, next_page_token, total)


async def _read_page(
    store: SessionStore, place: PageToken, now: datetime, size: int, *, first_page: bool
) -> tuple[list[Session], str]:
    """Return the sessions of a page, and the token of the next page."""
    found: list[Session] = []
    while True:
        wanted = size - len(found)
        # Read one more than wanted, to see whether more follow.
        some = await _read_section(store, place, now, wanted + 1)
        found += some[:wanted]
        if len(some) > wanted:
            key = _page_key(found[-1], place.section, now)
            return found, replace(place, after=key).encode()
        following = place.next_section(first_page=first_page)
        if following is None:
            return found, ""
        place = following
        if len(found) == size:
            return found, place.encode()


async def _read_section(
    store: SessionStore, place: PageToken, now: datetime, limit: int
) -> Sequence[Session]:
    user_id, after = place.user_id, place.after
    match place.section:
        case Section.LIVE:
            return await store.list_live(user_id, now, after, limit)
        case Section.USED_SINCE:
            since = place.as_of - _RECORDING_LAG
            return await store.list_used_since(user_id, now, place.as_of, since, after, limit)
        case Section.ENDED:
            return await store.list_ended(user_id, now, after, limit)


def _page_size(requested: int) -> int:
    if requested < 0:
        problem = f"is {requested}; it must be 1 to {PAGE_SIZE_LIMIT}, or 0 for {DEFAULT_PAGE_SIZE}"
        raise InvalidRequest([Violation("page_size", problem)])
    return min(requested or DEFAULT_PAGE_SIZE, PAGE_SIZE_LIMIT)


def _page_key(session: Session, section: Section, now: datetime) -> PageKey:
    if section is not Section.ENDED:
        return PageKey(session.last_active_time, session.session_id)
    ending = ending_of(session, now)
    assert ending is not None
    return PageKey(ending.time, session.session_id)
