from dataclasses import replace
from typing import Any

import pytest

from session_authority_server.domain.policy import Policy
from session_authority_server.usecases.list_sessions import (
    DEFAULT_PAGE_SIZE,
    PAGE_SIZE_LIMIT,
    Listing,
    Page,
)
from tests.support.engines import MINUTE, SECOND, START, a_session
from tests.unit.usecases.conftest import Authority


async def pages(authority: Authority, token: str, page_size: int, **what: Any) -> list[Page]:
    """Read all pages of a list."""
    listing = Listing(session_token=token, page_size=page_size, **what)
    found = [await authority.list(listing)]
    while found[-1].next_page_token:
        listing = replace(listing, page_token=found[-1].next_page_token)
        found.append(await authority.list(listing))
    return found


def minutes(found: list[Page]) -> list[int]:
    """Return the creation times of sessions, in minutes after the start."""
    return [(each.create_time - START) // MINUTE for page in found for each in page.sessions]


async def signed_in(authority: Authority, count: int) -> list[str]:
    tokens = []
    for _ in range(count):
        tokens.append((await authority.sign_in())[1])
        authority.clock.advance(MINUTE)
    return tokens


@pytest.mark.parametrize("page_size", [1, 2, 4, 5, 6, 9])
@pytest.mark.parametrize("show_ended", [True, False])
async def test_every_page_has_the_number_of_live_sessions(
    authority: Authority, page_size: int, show_ended: bool
) -> None:
    tokens = await signed_in(authority, 6)
    await authority.sign_out(tokens[0])
    await authority.sign_out(tokens[1])
    await authority.sign_in("bob")
    found = await pages(authority, tokens[-1], page_size, show_ended=show_ended)
    assert {page.total for page in found} == {4}


@pytest.mark.parametrize("page_size", [1, 2, 3])
@pytest.mark.parametrize("show_ended", [True, False])
async def test_the_ended_sessions_can_be_listed_alone(
    authority: Authority, page_size: int, show_ended: bool
) -> None:
    tokens = await signed_in(authority, 4)
    for token in tokens[:3]:
        await authority.sign_out(token)
        authority.clock.advance(SECOND)
    found = await pages(authority, tokens[-1], page_size, show_ended=show_ended, only_ended=True)
    assert {page.total for page in found} == {1}
    assert minutes(found) == [2, 1, 0]


@pytest.mark.parametrize("page_size", [1, 2, 3, 4, 5, 7])
@pytest.mark.parametrize("show_ended", [True, False])
async def test_pages_of_any_size_are_full_and_join_without_gaps(
    authority: Authority, page_size: int, show_ended: bool
) -> None:
    tokens = await signed_in(authority, 6)
    for token in tokens[:3]:
        await authority.sign_out(token)
        authority.clock.advance(SECOND)
    found = await pages(authority, tokens[-1], page_size, show_ended=show_ended)
    assert minutes(found) == ([5, 4, 3, 2, 1, 0] if show_ended else [5, 4, 3])
    assert all(len(page.sessions) == page_size for page in found[:-2])


async def test_a_page_has_50_sessions_by_default_and_at_most_200(authority: Authority) -> None:
    unlimited = authority.under(Policy(session_limit=None))
    _, token = await unlimited.sign_in()
    await authority.engine.fill([a_session() for _ in range(PAGE_SIZE_LIMIT + 20)])
    for asked, given in ((0, DEFAULT_PAGE_SIZE), (200, 200), (201, 200), (2**31 - 1, 200)):
        page = await unlimited.list(Listing(session_token=token, page_size=asked))
        assert len(page.sessions) == given
        assert page.next_page_token
