"""The content of the sessions page, without a browser. The folder tests/browser has tests with a browser."""

import re
from datetime import timedelta

import pytest

from session_authority import AsyncSessionClient, NewSession
from session_authority_server.domain.location import Location
from session_authority_server.domain.policy import Policy
from tests.acceptance.sessions_page.visitor import FORM, Visitor, header, said
from tests.browser.devices import FIREFOX_ON_LINUX
from tests.support.authority import Authority


class TestLooking:
    async def test_15_a_row_shows_device_address_and_times(
        self, authority: Authority, visitor: Visitor, other: NewSession
    ) -> None:
        authority.pass_time(hours=2)

        text = said(await visitor.ask("GET"))

        assert (
            "Chrome on Windows Current session Active now · Identity confirmed 2 hours agoJan 15, 2026, "
            "12:00:00 PM UTC · 203.0.113.7 Logged in on Jan 15, 2026, 12:00 PM UTC"
        ) in text.replace("\u202f", " ")
        assert "with password and one-time code" in text
        assert "Firefox on Linux New device Last active 2 hours ago" in text
        assert "192.0.2.44" in text
        assert text.index("Chrome on Windows") < text.index("Firefox on Linux")

    async def test_the_place_stands_before_the_address_in_the_visitors_language(
        self, authority: Authority, visitor: Visitor, other: NewSession
    ) -> None:
        authority.places["192.0.2.44"] = Location("Hamburg", "Hamburg", "Germany", "DE")
        places = {"de": "Hamburg, Deutschland", "ja": "ドイツ、Hamburg", "en": "Hamburg, Germany"}

        for language, place in places.items():
            text = said(await visitor.ask("GET", headers={"accept-language": language}))
            assert f"{place} · 192.0.2.44" in text

    async def test_a_hostile_place_is_escaped_and_isolated(
        self, authority: Authority, visitor: Visitor, other: NewSession
    ) -> None:
        authority.places["192.0.2.44"] = Location(
            city="<img src=x onerror=alert(1)>", country="עִבְרִית"
        )

        page = await visitor.look()

        assert '<bdi class="place">&lt;img src=x onerror=alert(1)&gt;, עִבְרִית</bdi>' in page
        assert "<img" not in page

    async def test_a_new_device_is_marked_for_seven_days_and_the_current_session_never(
        self, authority: Authority, client: AsyncSessionClient, visitor: Visitor, other: NewSession
    ) -> None:
        again = await client.create("ada", user_agent=FIREFOX_ON_LINUX, actor_id="support-7")
        assert (other.session.new_device, again.session.new_device) == (True, False)

        assert (await visitor.look()).count("New device") == 1
        authority.pass_time(days=6, hours=23)
        assert (await visitor.look()).count("New device") == 1
        authority.pass_time(hours=1)
        assert "New device" not in await visitor.look()

    async def test_many_sessions_of_a_device_are_one_row_that_opens(
        self, client: AsyncSessionClient, visitor: Visitor, other: NewSession
    ) -> None:
        await client.create("ada", user_agent=FIREFOX_ON_LINUX)
        assert "<details" not in await visitor.look(), "two are not many"
        await client.create("ada", user_agent=FIREFOX_ON_LINUX)
        await client.create("ada", user_agent=FIREFOX_ON_LINUX, actor_id="support-7")

        response = await visitor.ask("GET")
        page = response.body.decode()

        assert "Firefox on Linux 3 sessions New device Last active just now" in said(response)
        assert page.count("<details") == 1
        inside = page[page.index("<details") : page.index("</details>")]
        assert inside.count('action="/account/sessions/log-out"') == 3
        assert "support-7" not in inside
        assert "on your behalf by <bdi>support-7</bdi>" in page

    async def test_many_ended_sessions_of_a_device_are_one_row_that_opens(
        self, client: AsyncSessionClient, visitor: Visitor
    ) -> None:
        for number in range(4):
            gone = await client.create("ada", user_agent="curl/8", ip_address=f"192.0.2.{number}")
            await client.sign_out(gone.token)

        response = await visitor.ask("GET")

        assert "curl 4 sessions New device Logged out just now" in said(response)
        page = response.body.decode()
        assert page[page.index("<details") :].count("By you, on the device itself") == 4

    async def test_15_a_changed_address_is_shown_with_the_address_of_the_sign_in(
        self, authority: Authority, client: AsyncSessionClient, visitor: Visitor
    ) -> None:
        authority.pass_time(minutes=5)
        await client.validate(visitor.token, ip_address="198.51.100.1")
        await authority.activity.flush()

        text = said(await visitor.ask("GET"))

        assert text.index("198.51.100.1") < text.index("from 203.0.113.7")

    async def test_31_a_user_with_one_session_sees_only_it_and_no_log_out_elsewhere(
        self, visitor: Visitor
    ) -> None:
        page = await visitor.look()

        assert "Chrome on Windows" in page
        assert "not logged in anywhere else." in page
        assert "everywhere else" not in page
        assert "/log-out" not in page

    @pytest.mark.parametrize("token", [None, "", "ses_nonsense", "käse", "x" * 5000])
    async def test_31_a_signed_out_visitor_gets_no_list(
        self, authority: Authority, mine: NewSession, token: str | None
    ) -> None:
        response = await Visitor(authority, token, sign_in_url="/sign-in?x=1#top").ask("GET")

        assert response.status == 401
        assert "You're logged out" in said(response)
        assert "Chrome" not in response.body.decode()
        assert 'href="/sign-in?x=1&amp;next=%2Faccount%2Fsessions#top"' in response.body.decode()
        assert response.signed_out is (token is not None), "what is no token is cleared away"

    async def test_a_visitor_who_was_logged_out_elsewhere_sees_why_and_loses_the_cookie(
        self, client: AsyncSessionClient, visitor: Visitor, mine: NewSession, other: NewSession
    ) -> None:
        await client.revoke(other.token, mine.session.session_id)

        response = await visitor.ask("GET")

        assert (response.status, response.signed_out) == (401, True)
        assert "This device was logged out remotely." in said(response)

    @pytest.mark.parametrize(
        "headers",
        [
            {"sec-fetch-mode": "cors"},
            {"sec-fetch-mode": "navigate", "sec-purpose": "prefetch;prerender"},
            {"purpose": "prefetch"},
            {"x-moz": "prefetch"},
        ],
    )
    async def test_a_prefetch_of_a_dead_session_does_not_clear_the_cookie(
        self, client: AsyncSessionClient, visitor: Visitor, headers: dict[str, str]
    ) -> None:
        await client.sign_out(visitor.token)

        response = await visitor.ask("GET", headers=headers)

        assert (response.status, response.signed_out) == (401, False)

    async def test_a_visitor_with_an_expired_session_sees_that_it_expired(
        self, authority: Authority, visitor: Visitor
    ) -> None:
        authority.pass_time(days=90)

        response = await visitor.ask("GET")

        assert (response.status, response.signed_out) == (401, True)
        assert "has expired" in said(response)

    async def test_a_superseded_token_clears_no_cookie(
        self, client: AsyncSessionClient, visitor: Visitor
    ) -> None:
        await client.reauthenticate(visitor.token)

        response = await visitor.ask("GET")

        assert (response.status, response.signed_out) == (401, False)
        assert "This page is out of date" in said(response)

    async def test_ended_sessions_show_when_and_why_they_ended(
        self, authority: Authority, client: AsyncSessionClient, visitor: Visitor
    ) -> None:
        revoked, left = [await client.create("ada", user_agent="curl/8") for _ in range(2)]
        await client.create("ada", user_agent="wget/1", lifetime=timedelta(minutes=30))
        await client.create("ada", idle_timeout=timedelta(minutes=10))
        await client.revoke(visitor.token, revoked.session.session_id)
        await client.sign_out(left.token)
        authority.pass_time(hours=1)

        page = await visitor.look()

        for why in (
            "By you, from another device",
            "By you, on the device itself",
            "Session expired",
            "Inactive for too long",
        ):
            assert page.count(why) == 1, why
        assert "30 minutes ago" in page
        assert (
            "Recently logged out"
            not in await Visitor(authority, visitor.token, show_ended=False).look()
        )

    async def test_the_actor_of_a_session_is_named(
        self, client: AsyncSessionClient, visitor: Visitor
    ) -> None:
        await client.create("ada", actor_id="support-<7>")

        assert "on your behalf by <bdi>support-&lt;7&gt;</bdi>" in await visitor.look()

    async def test_device_names_are_escaped(
        self, client: AsyncSessionClient, visitor: Visitor
    ) -> None:
        await client.create("ada", user_agent="<script>alert(1)</script>/1 \"><img src=x>'")

        page = await visitor.look()

        assert "<img" not in page
        assert page.count("<script") == 1

    async def test_33_the_page_is_in_the_visitors_language(
        self, authority: Authority, visitor: Visitor
    ) -> None:
        response = await visitor.ask("GET", headers={"accept-language": "de-AT,en;q=0.5"})

        assert header(response, "content-language") == "de-AT"
        assert '<html lang="de-AT" dir="ltr">' in response.body.decode()
        assert "Chrome unter Windows" in said(response)
        only = await Visitor(authority, visitor.token, language="ja").ask("GET")
        assert "Windows の Chrome" in said(only)

    async def test_a_head_request_gets_the_headers_of_a_get_request(self, visitor: Visitor) -> None:
        assert (await visitor.ask("HEAD")).status == 200


class TestPolicies:
    class TestFreshProof:
        @pytest.fixture
        def policy(self) -> Policy:
            return Policy(max_authentication_age=timedelta(minutes=10))

        async def test_with_an_old_proof_of_identity_the_page_links_to_the_confirming_page(
            self, authority: Authority, client: AsyncSessionClient, mine: NewSession
        ) -> None:
            visitor = Visitor(authority, mine.token.reveal(), reauthenticate_url="/confirm")
            proof = await visitor.proof()
            authority.pass_time(minutes=11)

            for response in (
                await visitor.ask("GET", query={"next": "https://evil.example"}),
                await visitor.ask("GET", "/sessions.json"),
                await visitor.ask(
                    "POST",
                    "/log-out-elsewhere",
                    form={"proof": proof},
                    headers={"content-type": FORM},
                ),
            ):
                assert (response.status, response.signed_out) == (403, False)
                assert 'href="/confirm?next=%2Faccount%2Fsessions"' in response.body.decode()
                assert "Chrome on Windows" not in response.body.decode()
            renewed = await client.reauthenticate(mine.token)
            assert "Chrome on Windows" in await Visitor(authority, renewed.token.reveal()).look()

        async def test_without_a_confirming_page_the_user_signs_in_again(
            self, authority: Authority, visitor: Visitor
        ) -> None:
            authority.pass_time(minutes=11)

            assert 'href="/sign-in?next=' in (await visitor.ask("GET")).body.decode()

    async def test_an_actor_sees_no_sessions_and_can_sign_out(
        self, authority: Authority, client: AsyncSessionClient, mine: NewSession
    ) -> None:
        support = await client.create("ada", actor_id="support-7")
        visitor = Visitor(authority, support.token.reveal(), home_url="/")

        response = await visitor.ask("GET")

        assert (response.status, response.signed_out) == (403, False)
        assert "You're acting for someone else" in said(response)
        assert "Chrome" not in response.body.decode()
        [proof] = re.findall(r'name="proof" value="([^"]+)"', response.body.decode())
        left = await visitor.ask(
            "POST", "/sign-out", form={"proof": proof}, headers={"content-type": FORM}
        )
        assert (left.status, left.signed_out) == (303, True)
