"""Logging out from the sessions page."""

import json

import pytest

from session_authority import AsyncSessionClient, NewSession
from tests.acceptance.sessions_page.visitor import FORM, Visitor, header, said
from tests.support.authority import NOON, Authority, a_session


class TestLoggingOut:
    async def test_22_log_out_first_asks_with_the_device_name_and_changes_nothing(
        self, client: AsyncSessionClient, visitor: Visitor, other: NewSession
    ) -> None:
        response = await visitor.send("/log-out", session_id=other.session.session_id)

        assert response.status == 200
        assert "Log out Firefox on Linux?" in said(response)
        assert await client.validate(other.token)

    async def test_22_a_confirmed_log_out_ends_only_that_session_and_shows_one_notice(
        self, authority: Authority, client: AsyncSessionClient, visitor: Visitor, other: NewSession
    ) -> None:
        third = await client.create("ada")

        response = await visitor.send(
            "/log-out", session_id=other.session.session_id, confirmed="yes"
        )

        assert (response.status, response.signed_out) == (303, False)
        assert not await client.validate(other.token)
        assert await client.validate(third.token)
        query = dict(
            part.split("=")
            for part in (header(response, "location") or "").split("?")[1].split("&")
        )
        query["device"] = query["device"].replace("+", " ")
        notice = 'id="notice">Firefox on Linux was logged out.</p>'
        assert notice in await visitor.look(query=query)
        for forged in (
            {"device": "You won a car"},
            {"notice": "logged-out-elsewhere"},
            {"until": "9999999999"},
            {"seal": ""},
            {"notice": "x"},
        ):
            assert 'id="notice"></p>' in await visitor.look(query=query | forged)
        authority.pass_time(seconds=60)
        assert 'id="notice"></p>' in await visitor.look(query=query)

    async def test_22_a_notice_for_another_users_session_is_not_shown(
        self, authority: Authority, client: AsyncSessionClient, visitor: Visitor, other: NewSession
    ) -> None:
        response = await visitor.send("/log-out-elsewhere", confirmed="yes")
        query = dict(
            part.split("=")
            for part in (header(response, "location") or "").split("?")[1].split("&")
        )
        bob = await client.create("bob")

        assert 'id="notice"></p>' in await Visitor(authority, bob.token.reveal()).look(query=query)

    async def test_20_logging_out_twice_is_harmless_and_shown(
        self, visitor: Visitor, other: NewSession
    ) -> None:
        session_id = other.session.session_id
        await visitor.send("/log-out", session_id=session_id, confirmed="yes")

        again = await visitor.send(
            "/log-out", {"accept": "application/json"}, session_id=session_id, confirmed="yes"
        )
        asked = await visitor.send("/log-out", session_id=session_id)

        assert json.loads(again.body)["message"] == "Firefox on Linux was already logged out."
        assert asked.status == 303

    async def test_19_a_foreign_and_an_unknown_id_get_the_same_answer(
        self, client: AsyncSessionClient, visitor: Visitor
    ) -> None:
        bob = await client.create("bob")
        unknown = str(a_session("eve", NOON)[0].session_id)
        forms: list[dict[str, str]] = [{}, {"confirmed": "yes"}]
        for form in forms:
            answers = [
                await visitor.send("/log-out", session_id=session_id, **form)
                for session_id in (bob.session.session_id, unknown)
            ]
            assert [answer.status for answer in answers] == [404, 404]
            assert said(answers[0]) == said(answers[1])
        assert await client.validate(bob.token)

    @pytest.mark.parametrize("session_id", ["", "x", "'; --", "1" * 3000, "\x00"])
    async def test_18_a_malformed_id_changes_nothing(
        self, client: AsyncSessionClient, visitor: Visitor, other: NewSession, session_id: str
    ) -> None:
        response = await visitor.send("/log-out", session_id=session_id, confirmed="yes")

        assert response.status == 404
        assert len(await client.list(visitor.token)) == 2

    async def test_23_every_way_of_ending_the_current_session_signs_out(
        self, client: AsyncSessionClient, visitor: Visitor, mine: NewSession
    ) -> None:
        response = await visitor.send(
            "/log-out", session_id=mine.session.session_id, confirmed="yes"
        )

        assert (response.status, response.signed_out) == (303, True)
        assert not await client.validate(mine.token)

    async def test_03_signing_out_ends_only_this_session(
        self, authority: Authority, client: AsyncSessionClient, mine: NewSession, other: NewSession
    ) -> None:
        visitor = Visitor(authority, mine.token.reveal(), signed_out_path="/goodbye")

        response = await visitor.send("/sign-out")

        assert (response.status, response.signed_out) == (303, True)
        assert header(response, "location") == "/goodbye"
        assert not await client.validate(mine.token)
        assert await client.validate(other.token)

    async def test_24_log_out_everywhere_else_keeps_this_session(
        self, client: AsyncSessionClient, visitor: Visitor, mine: NewSession, other: NewSession
    ) -> None:
        asked = await visitor.send("/log-out-elsewhere")
        assert "Log out everywhere else?" in said(asked)
        assert await client.validate(other.token)

        done = await visitor.send(
            "/log-out-elsewhere", {"accept": "application/json"}, confirmed="yes"
        )

        assert json.loads(done.body)["outcome"] == "done"
        assert [each.session_id for each in await client.list(mine.token)] == [
            mine.session.session_id
        ]

    async def test_17_without_a_live_session_nothing_changes(
        self, client: AsyncSessionClient, visitor: Visitor, mine: NewSession, other: NewSession
    ) -> None:
        proof = await visitor.proof()
        await client.sign_out(mine.token)
        for token in (mine.token.reveal(), None):
            visitor.token = token
            response = await visitor.ask(
                "POST",
                "/log-out",
                headers={"content-type": FORM},
                form={"proof": proof, "session_id": other.session.session_id, "confirmed": "yes"},
            )
            assert response.status == 401
        assert await client.validate(other.token)

    async def test_the_page_states_the_delay_of_a_near_cache(
        self, authority: Authority, visitor: Visitor, other: NewSession
    ) -> None:
        cached = Visitor(authority, visitor.token, effective_within_seconds=2)
        effect = "This takes effect everywhere within 2 seconds."

        assert effect in await cached.look()
        assert effect in said(await cached.send("/log-out", session_id=other.session.session_id))
        assert effect not in await visitor.look()

    async def test_japanese_sentences_have_no_space_between_them(
        self, authority: Authority, visitor: Visitor, other: NewSession
    ) -> None:
        japanese = Visitor(authority, visitor.token, language="ja", effective_within_seconds=2)
        page = await japanese.look()
        done = await japanese.send(
            "/log-out",
            {"accept": "application/json"},
            session_id=other.session.session_id,
            confirmed="yes",
        )

        assert "件です。心当たり" in page
        assert "必要になります。2 秒以内に" in page
        assert "ログアウトしました。2 秒以内に" in json.loads(done.body)["message"]
