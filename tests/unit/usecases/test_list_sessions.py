import pytest

from session_authority_server.domain.errors import InvalidRequest, SessionNotLive
from session_authority_server.domain.policy import Policy
from session_authority_server.domain.session import Session
from session_authority_server.ports import Touch
from session_authority_server.usecases.list_sessions import (
    DEFAULT_PAGE_SIZE,
    PAGE_SIZE_LIMIT,
    Listing,
)
from tests.support.engines import MINUTE, SECOND, START, a_session
from tests.unit.usecases.conftest import Authority


async def pages(
    authority: Authority, token: str, page_size: int, *, show_ended: bool = False
) -> list[list[Session]]:
    """Read all pages of a list."""
    found: list[list[Session]] = []
    page_token = ""
    while True:
        page = await authority.list(
            Listing(
                session_token=token,
                page_size=page_size,
                page_token=page_token,
                show_ended=show_ended,
            )
        )
        found.append(list(page.sessions))
        page_token = page.next_page_token
        if not page_token:
            return found


async def signed_in(authority: Authority, count: int) -> list[str]:
    tokens = []
    for _ in range(count):
        tokens.append((await authority.sign_in())[1])
        authority.clock.advance(MINUTE)
    return tokens


async def test_a_user_sees_their_own_sessions_and_which_one_asks(authority: Authority) -> None:
    hers = await signed_in(authority, 3)
    await authority.sign_in("bob")
    page = await authority.list(Listing(session_token=hers[1]))
    assert [each.create_time for each in page.sessions] == [START + n * MINUTE for n in (2, 1, 0)]
    assert page.current == page.sessions[1].session_id
    assert {each.user_id for each in page.sessions} == {"ann"}
    assert page.next_page_token == ""
    assert page.now == authority.clock.now()


@pytest.mark.parametrize("token", ["", "garbage"])
async def test_who_proves_nothing_sees_nothing(authority: Authority, token: str) -> None:
    with pytest.raises(SessionNotLive):
        await authority.list(Listing(session_token=token))
    assert authority.store.asked == []


@pytest.mark.parametrize("page_size", [1, 2, 4, 5, 6, 9])
@pytest.mark.parametrize("show_ended", [True, False])
async def test_every_page_says_how_many_sessions_are_live(
    authority: Authority, page_size: int, show_ended: bool
) -> None:
    tokens = await signed_in(authority, 6)
    await authority.sign_out(tokens[0])
    await authority.sign_out(tokens[1])
    await authority.sign_in("bob")
    page_token, totals = "", set()
    while True:
        page = await authority.list(
            Listing(
                session_token=tokens[-1],
                page_size=page_size,
                page_token=page_token,
                show_ended=show_ended,
            )
        )
        totals.add(page.total)
        page_token = page.next_page_token
        if not page_token:
            break

    assert totals == {4}


@pytest.mark.parametrize("page_size", [1, 2, 3])
@pytest.mark.parametrize("show_ended", [True, False])
async def test_the_ended_sessions_can_be_listed_alone(
    authority: Authority, page_size: int, show_ended: bool
) -> None:
    tokens = await signed_in(authority, 4)
    for token in tokens[:3]:
        await authority.sign_out(token)
        authority.clock.advance(SECOND)
    page_token = ""
    found: list[Session] = []
    while True:
        page = await authority.list(
            Listing(
                session_token=tokens[-1],
                page_size=page_size,
                page_token=page_token,
                show_ended=show_ended,
                only_ended=True,
            )
        )
        assert page.total == 1
        found += page.sessions
        page_token = page.next_page_token
        if not page_token:
            break

    assert [(each.create_time - START) // MINUTE for each in found] == [2, 1, 0]


async def test_an_ended_session_proves_nothing(authority: Authority) -> None:
    _, token = await authority.sign_in(lifetime=MINUTE)
    authority.clock.advance(MINUTE)
    with pytest.raises(SessionNotLive):
        await authority.list(Listing(session_token=token))


@pytest.mark.parametrize("page_size", [1, 2, 3, 4, 5, 7])
@pytest.mark.parametrize("show_ended", [True, False])
async def test_pages_of_any_size_are_full_and_join(
    authority: Authority, page_size: int, show_ended: bool
) -> None:
    tokens = await signed_in(authority, 6)
    for token in tokens[:3]:
        await authority.sign_out(token)
        authority.clock.advance(SECOND)
    found = await pages(authority, tokens[-1], page_size, show_ended=show_ended)
    minutes = [(each.create_time - START) // MINUTE for page in found for each in page]
    assert minutes == ([5, 4, 3, 2, 1, 0] if show_ended else [5, 4, 3])
    assert all(len(page) == page_size for page in found[:-1] if page is not found[-2])


async def test_a_page_has_fifty_unless_said_and_two_hundred_at_most(authority: Authority) -> None:
    unlimited = authority.under(Policy(session_limit=None))
    _, token = await unlimited.sign_in()
    await authority.engine.fill([a_session() for _ in range(PAGE_SIZE_LIMIT + 20)])
    for asked, given in ((0, DEFAULT_PAGE_SIZE), (200, 200), (201, 200), (2**31 - 1, 200)):
        page = await unlimited.list(Listing(session_token=token, page_size=asked))
        assert len(page.sessions) == given
        assert page.next_page_token


async def test_a_negative_page_size_is_refused(authority: Authority) -> None:
    _, token = await authority.sign_in()
    with pytest.raises(InvalidRequest) as refusal:
        await authority.list(Listing(session_token=token, page_size=-1))
    assert [each.field for each in refusal.value.violations] == ["page_size"]


async def test_a_place_in_another_users_list_is_refused(authority: Authority) -> None:
    hers = await signed_in(authority, 2)
    _, his = await authority.sign_in("bob")
    page = await authority.list(Listing(session_token=hers[0], page_size=1))
    with pytest.raises(InvalidRequest) as refusal:
        await authority.list(Listing(session_token=his, page_token=page.next_page_token))
    assert [each.field for each in refusal.value.violations] == ["page_token"]
    # any session of hers may go on
    await authority.list(Listing(session_token=hers[1], page_token=page.next_page_token))


async def test_a_session_used_while_pages_are_read_is_on_a_later_page(authority: Authority) -> None:
    """It moves to the front, before the place that has been read."""
    tokens = await signed_in(authority, 5)
    page = await authority.list(Listing(session_token=tokens[-1], page_size=2))
    seen = {each.session_id for each in page.sessions}
    authority.clock.advance(SECOND)
    now = authority.clock.now()
    (oldest,) = [
        each
        for each in await authority.engine.sessions.list_live("ann", now, None, 10)
        if each.create_time == START
    ]
    await authority.engine.sessions.touch([Touch(oldest.session_id, now, None)], lambda: now)
    while page.next_page_token:
        page = await authority.list(
            Listing(session_token=tokens[-1], page_size=2, page_token=page.next_page_token)
        )
        seen |= {each.session_id for each in page.sessions}
    assert oldest.session_id in seen
    assert len(seen) == 5


async def test_sessions_that_end_while_pages_are_read_are_not_shown_as_live(
    authority: Authority,
) -> None:
    tokens = await signed_in(authority, 4)
    page = await authority.list(Listing(session_token=tokens[-1], page_size=2))
    await authority.sign_out(tokens[0])
    rest = await authority.list(
        Listing(session_token=tokens[-1], page_size=5, page_token=page.next_page_token)
    )
    assert [each.create_time for each in rest.sessions] == [START + MINUTE]


def test_nobody_sees_a_token_by_printing_a_listing() -> None:
    assert "ses_" not in repr(Listing(session_token="ses_secret"))
