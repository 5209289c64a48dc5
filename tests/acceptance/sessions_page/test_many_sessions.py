"""The sessions page of a user with more sessions than a page shows, and more than one call returns."""

import re
from datetime import timedelta
from urllib.parse import parse_qsl, urlsplit

import pytest

from session_authority import AsyncSessionClient
from session_authority.web.exchange import PageResponse
from session_authority_server.domain.policy import Policy
from tests.acceptance.sessions_page.visitor import ROOT, Visitor, header, said
from tests.support.authority import NOON, Authority, a_session, insert_sessions


class TestManySessions:
    @pytest.fixture
    def policy(self) -> Policy:
        return Policy(session_limit=None)

    async def test_14_pages_show_each_of_many_sessions_exactly_once(
        self, authority: Authority
    ) -> None:
        made = [a_session("ada", NOON - timedelta(minutes=number)) for number in range(230)]
        await insert_sessions(authority.database, [session for session, _ in made])
        current, token = made[150]
        visitor = Visitor(authority, token)
        seen: list[str] = []

        for number in range(1, 6):
            page = await visitor.look(query={"page": str(number)})
            ids = re.findall(r'name="session_id" value="([^"]+)"', page)
            seen += ids
            assert len(ids) == (50 if number < 5 else 30)
            assert f"{number * 50 - 49}\N{EN DASH}{min(number * 50, 230)} of 230" in page
            assert "230 active sessions." in page
            assert page.count("Current session") == (number == 1), "it is first wherever it is"
            assert ('rel="next"' in page) is (number < 5)
            assert ('rel="prev"' in page) is (number > 1)

        assert len(seen) == len(set(seen)) == 230
        assert seen[0] == str(current.session_id), "the viewer's own session is the first row"

    async def test_the_first_page_reads_no_more_than_it_shows(self, authority: Authority) -> None:
        made = [a_session("ada", NOON - timedelta(minutes=number)) for number in range(210)]
        await insert_sessions(authority.database, [session for session, _ in made])
        few = [a_session("bob", NOON - timedelta(minutes=number)) for number in range(190)]
        await insert_sessions(authority.database, [session for session, _ in few])

        assert await self._calls(authority, made[0][1]) == 2, "live ones, then ended ones"
        assert await self._calls(authority, few[0][1]) == 1

    async def _calls(self, authority: Authority, token: str) -> int:
        authority.store.asked.clear()
        await Visitor(authority, token).look()
        return authority.store.asked.count("read_sessions")  # once for each call to the store

    async def test_every_page_shows_the_latest_ended_sessions(
        self, authority: Authority, client: AsyncSessionClient
    ) -> None:
        made = [a_session("ada", NOON - timedelta(minutes=number)) for number in range(230)]
        await insert_sessions(authority.database, [session for session, _ in made])
        for number in range(12):
            gone = await client.create("ada", ip_address=f"192.0.2.{number}")
            await client.sign_out(gone.token)
            authority.pass_time(minutes=1)
        visitor = Visitor(authority, made[0][1])

        for place in ("1", "3", "5"):
            page = await visitor.look(query={"page": place})
            found = re.findall(r">192\.0\.2\.(\d+)<", page)
            assert found == [str(number) for number in range(11, 1, -1)]

    async def test_a_count_over_the_limit_is_shown_as_more_than_the_limit(
        self, authority: Authority, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("session_authority.web.sessions_page.page.LISTED_LIMIT_SESSIONS", 250)
        made = [a_session("ada", NOON - timedelta(minutes=number)) for number in range(251)]
        await insert_sessions(authority.database, [session for session, _ in made])

        page = await Visitor(authority, made[0][1]).look()

        assert "250+ active sessions." in page
        assert "1\N{EN DASH}50 of 250+" in page

    async def test_logging_out_leads_back_to_the_same_page_or_to_the_last_page(
        self, authority: Authority
    ) -> None:
        made = [a_session("ada", NOON - timedelta(minutes=number)) for number in range(102)]
        await insert_sessions(authority.database, [session for session, _ in made])
        visitor = Visitor(authority, made[0][1])

        for page, shown in (("3", "101\N{EN DASH}101 of 101"), ("3", "51\N{EN DASH}100 of 100")):
            [session_id, *_] = re.findall(
                r'name="session_id" value="([^"]+)"', await visitor.look(query={"page": page})
            )
            asked = await visitor.send("/log-out", session_id=session_id, page=page)
            assert f'href="{ROOT}?page={page}">Cancel' in asked.body.decode()
            [carried] = re.findall(r'name="page" value="([^"]*)"', asked.body.decode())
            done = await visitor.send(
                "/log-out", session_id=session_id, page=carried, confirmed="yes"
            )
            text = said(await self._follow(visitor, done))
            assert shown in text
            assert "Firefox on Linux was logged out." in text
            assert "Recently logged out" in text

    async def _follow(self, visitor: Visitor, response: PageResponse) -> PageResponse:
        for _ in range(3):
            if response.status != 303:
                break
            query = dict(parse_qsl(urlsplit(header(response, "location") or "").query))
            response = await visitor.ask("GET", query=query)
        return response

    async def test_a_page_beyond_the_last_leads_to_the_first(self, visitor: Visitor) -> None:
        for page in ("2", "9999"):
            response = await visitor.ask("GET", query={"page": page})
            assert (response.status, header(response, "location")) == (303, ROOT)
        # No page number is so long.
        assert (await visitor.ask("GET", query={"page": "1000000000000"})).status == 200

    async def test_an_invalid_page_number_shows_the_first_page(self, visitor: Visitor) -> None:
        for page in ("", "0", "-1", "x", "²", "1.5"):
            assert "Chrome on Windows" in await visitor.look(query={"page": page})
