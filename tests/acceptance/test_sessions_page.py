"""What the sessions page answers, asked without a browser; tests/browser/ looks at it in one."""

import json
import re
from collections.abc import AsyncIterator, Mapping
from datetime import timedelta
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest

from session_authority import ApiKeyRejected, AsyncSessionClient, NewSession
from session_authority.web.exchange import PageRequest, PageResponse
from session_authority.web.sessions_page import FORM_LIMIT_BYTES, PageOptions, SessionsPage
from session_authority_server.domain.policy import Policy
from tests.browser.devices import CHROME_ON_WINDOWS, FIREFOX_ON_LINUX
from tests.support.authority import NOON, Authority, a_session, insert_sessions

ORIGIN = "https://app.example"
ROOT = "/account/sessions"
FORM = "application/x-www-form-urlencoded"
NONE: Mapping[str, str] = {}


class Visitor:
    """A browser's part, told by hand."""

    def __init__(self, authority: Authority, token: str | None, **options: Any) -> None:
        self.authority = authority
        self.client = authority.client
        self.token = token
        self.page = SessionsPage(PageOptions(**options), now=authority.clock.now)

    async def ask(self, method: str, below: str = "", **fields: Any) -> PageResponse:
        request = PageRequest(
            method=method, root=ROOT, below=below, origin=ORIGIN, token=self.token, **fields
        )
        return await self.client.run_operation(self.page.handle(request))

    async def look(self, **fields: Any) -> str:
        response = await self.ask("GET", **fields)
        assert response.status == 200
        return response.body.decode()

    async def proof(self) -> str:
        [first, *_] = re.findall(r'name="proof" value="([^"]+)"', await self.look())
        return str(first)

    async def send(
        self, below: str, headers: Mapping[str, str] = NONE, /, **form: str
    ) -> PageResponse:
        form = {"proof": await self.proof()} | form
        return await self.ask("POST", below, form=form, headers={"content-type": FORM, **headers})


def said(response: PageResponse) -> str:
    """Return what a person reads."""
    bare = re.sub(
        r"<(script|style|title|svg|dialog).*?</\1>|<[^>]*>",
        "",
        response.body.decode(),
        flags=re.DOTALL,
    )
    return re.sub(r"\s+", " ", bare).replace("&#39;", "'").strip()


def header(response: PageResponse, name: str) -> str | None:
    values = [value for key, value in response.headers if key.lower() == name.lower()]
    assert len(values) <= 1
    return values[0] if values else None


@pytest.fixture
async def mine(client: AsyncSessionClient) -> NewSession:
    return await client.create(
        "ada",
        user_agent=CHROME_ON_WINDOWS,
        ip_address="203.0.113.7",
        authentication_methods=["pwd", "otp"],
    )


@pytest.fixture
async def other(client: AsyncSessionClient, mine: NewSession) -> NewSession:
    return await client.create("ada", user_agent=FIREFOX_ON_LINUX, ip_address="192.0.2.44")


@pytest.fixture
def visitor(authority: Authority, mine: NewSession) -> Visitor:
    return Visitor(authority, mine.token.reveal(), sign_in_url="/sign-in")


class TestLooking:
    async def test_15_a_row_says_device_address_and_times(
        self, authority: Authority, visitor: Visitor, other: NewSession
    ) -> None:
        authority.pass_time(hours=2)

        text = said(await visitor.ask("GET"))

        assert (
            "Chrome on Windows Current session Active now · identity confirmed 2 hours agoJan 15, 2026, "
            "12:00:00 PM UTC · 203.0.113.7 Signed in Jan 15, 2026, 12:00 PM UTC"
        ) in text.replace("\u202f", " ")
        assert "with password and one-time code" in text
        assert "Firefox on Linux Last active 2 hours ago" in text
        assert "192.0.2.44" in text
        assert text.index("Chrome on Windows") < text.index("Firefox on Linux")

    async def test_15_where_the_address_changed_the_one_at_sign_in_is_said_too(
        self, authority: Authority, client: AsyncSessionClient, visitor: Visitor
    ) -> None:
        authority.pass_time(minutes=5)
        await client.validate(visitor.token, ip_address="198.51.100.1")
        await authority.activity.flush()

        text = said(await visitor.ask("GET"))

        assert text.index("198.51.100.1") < text.index("from 203.0.113.7")

    async def test_31_who_has_only_this_session_sees_it_alone_and_nothing_to_log_out_elsewhere(
        self, visitor: Visitor
    ) -> None:
        page = await visitor.look()

        assert "Chrome on Windows" in page
        assert "You are not signed in anywhere else." in page
        assert "everywhere else" not in page
        assert "/log-out" not in page

    @pytest.mark.parametrize("token", [None, "", "ses_nonsense", "käse", "x" * 5000])
    async def test_31_who_is_signed_out_gets_no_list(
        self, authority: Authority, mine: NewSession, token: str | None
    ) -> None:
        response = await Visitor(authority, token, sign_in_url="/sign-in?x=1#top").ask("GET")

        assert response.status == 401
        assert "You are signed out" in said(response)
        assert "Chrome" not in response.body.decode()
        assert 'href="/sign-in?x=1&amp;next=%2Faccount%2Fsessions#top"' in response.body.decode()
        assert response.signed_out is (token is not None), "what is no token is cleared away"

    async def test_who_was_logged_out_elsewhere_is_told_so_and_loses_the_cookie(
        self, client: AsyncSessionClient, visitor: Visitor, mine: NewSession, other: NewSession
    ) -> None:
        await client.revoke(other.token, mine.session.session_id)

        response = await visitor.ask("GET")

        assert (response.status, response.signed_out) == (401, True)
        assert "This device was logged out from elsewhere." in said(response)

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

    async def test_who_came_too_late_is_told_that_the_session_expired(
        self, authority: Authority, visitor: Visitor
    ) -> None:
        authority.pass_time(days=90)

        response = await visitor.ask("GET")

        assert (response.status, response.signed_out) == (401, True)
        assert "has expired" in said(response)

    async def test_a_superseded_token_clears_no_cookie_for_that_may_be_its_successor(
        self, client: AsyncSessionClient, visitor: Visitor
    ) -> None:
        await client.reauthenticate(visitor.token)

        response = await visitor.ask("GET")

        assert (response.status, response.signed_out) == (401, False)
        assert "This page is out of date" in said(response)

    async def test_ended_sessions_say_when_and_why(
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
            "You logged it out from another device",
            "You signed out",
            "It reached its time limit",
            "It was not used for too long",
        ):
            assert page.count(why) == 1, why
        assert "30 minutes ago" in page
        assert (
            "Recently ended" not in await Visitor(authority, visitor.token, show_ended=False).look()
        )

    async def test_whoever_acted_as_the_user_is_named(
        self, client: AsyncSessionClient, visitor: Visitor
    ) -> None:
        await client.create("ada", actor_id="support-<7>")

        assert "on your behalf by <bdi>support-&lt;7&gt;</bdi>" in await visitor.look()

    async def test_what_devices_say_of_themselves_stays_text(
        self, client: AsyncSessionClient, visitor: Visitor
    ) -> None:
        await client.create("ada", user_agent="<script>alert(1)</script>/1 \"><img src=x>'")

        page = await visitor.look()

        assert "<img" not in page
        assert page.count("<script") == 1

    async def test_33_the_language_is_the_visitors(
        self, authority: Authority, visitor: Visitor
    ) -> None:
        response = await visitor.ask("GET", headers={"accept-language": "de-AT,en;q=0.5"})

        assert header(response, "content-language") == "de-AT"
        assert '<html lang="de-AT" dir="ltr">' in response.body.decode()
        assert "Chrome unter Windows" in said(response)
        only = await Visitor(authority, visitor.token, language="ja").ask("GET")
        assert "Windows の Chrome" in said(only)

    async def test_a_head_request_is_answered_as_a_get(self, visitor: Visitor) -> None:
        assert (await visitor.ask("HEAD")).status == 200


class TestThousands:
    @pytest.fixture
    def policy(self) -> Policy:
        return Policy(session_limit=None)

    async def test_14_thousands_of_sessions_come_in_pages_each_exactly_once(
        self, authority: Authority
    ) -> None:
        made = [a_session("ada", NOON - timedelta(minutes=number)) for number in range(430)]
        await insert_sessions(authority.database, [session for session, _ in made])
        current, token = made[300]
        visitor = Visitor(authority, token)
        seen: list[str] = []

        for number in range(1, 10):
            page = await visitor.look(query={"page": str(number)})
            ids = re.findall(r'name="session_id" value="([^"]+)"', page)
            seen += ids
            # The viewer's own session is the first row of the first page.
            assert len(ids) == (49 if number == 1 else 50 if number < 9 else 30)
            assert f"{number * 50 - 49}-{min(number * 50, 430)} of 430" in page
            assert "430 devices are signed in to your account." in page
            assert page.count("Current session") == (number == 1), "it is first wherever it is"
            assert ('rel="next"' in page) is (number < 9)
            assert ('rel="prev"' in page) is (number > 1)

        assert len(seen) == len(set(seen)) == 429
        assert str(current.session_id) not in seen

    async def test_the_first_page_reads_no_more_than_it_shows(self, authority: Authority) -> None:
        made = [a_session("ada", NOON - timedelta(minutes=number)) for number in range(900)]
        await insert_sessions(authority.database, [session for session, _ in made])
        few = [a_session("bob", NOON - timedelta(minutes=number)) for number in range(190)]
        await insert_sessions(authority.database, [session for session, _ in few])

        assert await self._calls(authority, made[0][1]) == 2, "live ones, then ended ones"
        assert await self._calls(authority, few[0][1]) == 1

    async def _calls(self, authority: Authority, token: str) -> int:
        request = PageRequest(method="GET", root=ROOT, origin=ORIGIN, token=token)
        operation = Visitor(authority, token).page.handle(request)
        calls = [next(operation)]
        try:
            while True:
                calls.append(operation.send(await authority.client._send(calls[-1])))
        except StopIteration:
            return len(calls)

    async def test_every_page_shows_what_ended_last(
        self, authority: Authority, client: AsyncSessionClient
    ) -> None:
        made = [a_session("ada", NOON - timedelta(minutes=number)) for number in range(430)]
        await insert_sessions(authority.database, [session for session, _ in made])
        for number in range(12):
            gone = await client.create("ada", ip_address=f"192.0.2.{number}")
            await client.sign_out(gone.token)
            authority.pass_time(minutes=1)
        visitor = Visitor(authority, made[0][1])

        for place in ("1", "4", "9"):
            page = await visitor.look(query={"page": place})
            found = re.findall(r">192\.0\.2\.(\d+)<", page)
            assert found == [str(number) for number in range(11, 1, -1)]

    async def test_more_sessions_than_are_counted_are_said_to_be_more(
        self, authority: Authority, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("session_authority.web.sessions_page.page.LISTED_LIMIT_SESSIONS", 250)
        made = [a_session("ada", NOON - timedelta(minutes=number)) for number in range(251)]
        await insert_sessions(authority.database, [session for session, _ in made])

        page = await Visitor(authority, made[0][1]).look()

        assert "250+ devices are signed in" in page
        assert "1-50 of 250+" in page

    async def test_logging_out_leads_back_to_the_same_page_or_to_the_last_there_is(
        self, authority: Authority
    ) -> None:
        made = [a_session("ada", NOON - timedelta(minutes=number)) for number in range(102)]
        await insert_sessions(authority.database, [session for session, _ in made])
        visitor = Visitor(authority, made[0][1])

        for page, shown in (("3", "101-101 of 101"), ("3", "51-100 of 100")):
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
            assert "Recently ended" in text

    async def _follow(self, visitor: Visitor, response: PageResponse) -> PageResponse:
        for _ in range(3):
            if response.status != 303:
                break
            query = dict(parse_qsl(urlsplit(header(response, "location") or "").query))
            response = await visitor.ask("GET", query=query)
        return response

    @pytest.mark.parametrize("page", ["2", "9999", "1000000000000"])
    async def test_a_page_beyond_the_last_leads_to_the_first(
        self, visitor: Visitor, page: str
    ) -> None:
        response = await visitor.ask("GET", query={"page": page})

        if page == "1000000000000":
            assert response.status == 200
        else:
            assert (response.status, header(response, "location")) == (303, ROOT)

    @pytest.mark.parametrize("page", ["", "0", "-1", "x", "²", "1.5"])
    async def test_what_is_no_page_is_the_first(self, visitor: Visitor, page: str) -> None:
        assert "Chrome on Windows" in await visitor.look(query={"page": page})


class TestLoggingOut:
    async def test_22_it_asks_first_naming_the_device_and_changes_nothing(
        self, client: AsyncSessionClient, visitor: Visitor, other: NewSession
    ) -> None:
        response = await visitor.send("/log-out", session_id=other.session.session_id)

        assert response.status == 200
        assert "Log out Firefox on Linux?" in said(response)
        assert await client.validate(other.token)

    async def test_22_confirmed_it_ends_just_that_session_and_says_so_once(
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

    async def test_22_of_another_users_session_the_notice_is_worth_nothing(
        self, authority: Authority, client: AsyncSessionClient, visitor: Visitor, other: NewSession
    ) -> None:
        response = await visitor.send("/log-out-elsewhere", confirmed="yes")
        query = dict(
            part.split("=")
            for part in (header(response, "location") or "").split("?")[1].split("&")
        )
        bob = await client.create("bob")

        assert 'id="notice"></p>' in await Visitor(authority, bob.token.reveal()).look(query=query)

    async def test_20_twice_is_harmless_and_says_so(
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

    async def test_23_ending_the_current_session_is_signing_out_however_it_is_asked_for(
        self, client: AsyncSessionClient, visitor: Visitor, mine: NewSession
    ) -> None:
        assert f'value="{mine.session.session_id}"' not in await visitor.look()

        response = await visitor.send(
            "/log-out", session_id=mine.session.session_id, confirmed="yes"
        )

        assert (response.status, response.signed_out) == (303, True)
        assert not await client.validate(mine.token)

    async def test_03_signing_out_ends_this_session_alone(
        self, authority: Authority, client: AsyncSessionClient, mine: NewSession, other: NewSession
    ) -> None:
        visitor = Visitor(authority, mine.token.reveal(), signed_out_path="/goodbye")

        response = await visitor.send("/sign-out")

        assert (response.status, response.signed_out) == (303, True)
        assert header(response, "location") == "/goodbye"
        assert not await client.validate(mine.token)
        assert await client.validate(other.token)

    async def test_24_everywhere_else_is_everywhere_else(
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

    async def test_a_near_cache_is_told_of(
        self, authority: Authority, visitor: Visitor, other: NewSession
    ) -> None:
        cached = Visitor(authority, visitor.token, effective_within_seconds=2)
        effect = "It takes effect everywhere within 2 seconds."

        assert effect in await cached.look()
        assert effect in said(await cached.send("/log-out", session_id=other.session.session_id))
        assert effect not in await visitor.look()


class TestForgery:
    """No other site can make a browser act on the page."""

    @pytest.mark.parametrize(
        "headers",
        [
            {"origin": "https://evil.example"},
            {"origin": "null"},
            {"origin": "null", "sec-fetch-site": "cross-site"},
            {"origin": "null", "sec-fetch-site": "same-site"},
            {"origin": "null", "sec-fetch-site": "none"},
            {"origin": "null", "sec-fetch-site": "same-origin, same-origin"},
            {"origin": ""},
            {"origin": "http://app.example"},
            {"origin": "https://app.example:8443"},
            {"origin": "https://app.example."},
            {"origin": "https://app.example@evil.example"},
            {"origin": "https://app.example https://evil.example"},
            {"origin": "https://app.example, https://app.example"},
            {"sec-fetch-site": "cross-site"},
            {"sec-fetch-site": "same-site", "origin": ORIGIN},
            {"sec-fetch-site": "none"},
        ],
    )
    async def test_22_from_elsewhere_even_with_the_proof(
        self,
        client: AsyncSessionClient,
        visitor: Visitor,
        other: NewSession,
        headers: dict[str, str],
    ) -> None:
        response = await visitor.send("/log-out-elsewhere", headers, confirmed="yes")

        assert response.status == 403
        assert await client.validate(other.token)

    @pytest.mark.parametrize(
        "origin", [ORIGIN, f"{ORIGIN}:443", ORIGIN.upper(), "null"], ids=str.lower
    )
    @pytest.mark.parametrize("accept", ["text/html", "application/json"])
    async def test_a_form_of_the_page_is_taken_however_its_origin_is_spelled(
        self, visitor: Visitor, other: NewSession, origin: str, accept: str
    ) -> None:
        """ "null" is what browsers send under a proxy's policy "no-referrer"."""
        headers = {"origin": origin, "sec-fetch-site": "same-origin", "accept": accept}

        response = await visitor.send("/log-out-elsewhere", headers, confirmed="yes")

        assert response.status in (200, 303)
        assert not await visitor.client.validate(other.token)

    async def test_without_an_origin_the_proof_must_be_good(self, visitor: Visitor) -> None:
        headers = {"origin": "null", "sec-fetch-site": "same-origin"}

        response = await visitor.send("/sign-out", headers, proof="0" * 32 + "." + "0" * 64)

        assert response.status == 403
        assert await visitor.client.validate(visitor.token)

    async def test_whoever_set_the_site_up_wrongly_is_told_once(
        self, visitor: Visitor, other: NewSession, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A proxy that ends TLS: the browser itself says that the form is of the page's own site."""
        headers = {"origin": "http://app.example", "sec-fetch-site": "same-origin"}
        for _ in range(2):
            response = await visitor.send("/log-out-elsewhere", headers, confirmed="yes")
            assert response.status == 403

        (told,) = [each for each in caplog.messages if "the browser sees" in each]
        assert "the browser sees the site at 'http://app.example'" in told
        assert f"the app at '{ORIGIN}'" in told

    @pytest.mark.parametrize("proof", ["", ".", "a.b", "ä", "0" * 32 + "." + "0" * 64])
    async def test_22_without_the_proof(
        self, client: AsyncSessionClient, visitor: Visitor, other: NewSession, proof: str
    ) -> None:
        headers = {"origin": ORIGIN, "sec-fetch-site": "same-origin"}
        for below in ("/log-out", "/log-out-elsewhere", "/sign-out"):
            response = await visitor.send(below, headers, proof=proof, confirmed="yes")

            assert response.status == 403
            assert "Nothing was changed" in said(response)
        assert len(await client.list(visitor.token)) == 2

    async def test_22_with_another_sessions_proof(
        self, authority: Authority, client: AsyncSessionClient, visitor: Visitor, other: NewSession
    ) -> None:
        bob = await client.create("bob")
        stolen = await Visitor(authority, bob.token.reveal()).proof()

        assert (await visitor.send("/sign-out", proof=stolen)).status == 403

    @pytest.mark.parametrize("below", ["/log-out", "/log-out-elsewhere", "/sign-out"])
    async def test_22_a_form_of_elsewhere_that_brings_no_cookie_clears_none(
        self, authority: Authority, below: str
    ) -> None:
        response = await Visitor(authority, None).ask(
            "POST", below, headers={"content-type": FORM, "sec-fetch-site": "cross-site"}
        )

        assert (response.status, response.signed_out) == (403, False)

    async def test_signing_out_without_a_session_is_a_success(self, authority: Authority) -> None:
        response = await Visitor(authority, None).ask(
            "POST", "/sign-out", headers={"content-type": FORM, "sec-fetch-site": "same-origin"}
        )

        assert (response.status, response.signed_out) == (303, False)

    async def test_each_answer_has_a_proof_of_its_own_and_none_holds_the_token(
        self, visitor: Visitor, mine: NewSession, other: NewSession
    ) -> None:
        page = await visitor.look() + await visitor.look()
        proofs = re.findall(r'name="proof" value="([^"]+)"', page)

        assert len(set(proofs)) == len(proofs) == 6
        assert mine.token.reveal() not in page
        assert mine.token.reveal()[4:20] not in page


class TestPolicies:
    class TestFreshProof:
        @pytest.fixture
        def policy(self) -> Policy:
            return Policy(max_authentication_age=timedelta(minutes=10))

        async def test_a_stale_proof_of_identity_leads_to_where_it_is_renewed_and_back(
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
            anew = await client.reauthenticate(mine.token)
            assert "Chrome on Windows" in await Visitor(authority, anew.token.reveal()).look()

        async def test_without_such_an_address_signing_in_again_does(
            self, authority: Authority, visitor: Visitor
        ) -> None:
            authority.pass_time(minutes=11)

            assert 'href="/sign-in?next=' in (await visitor.ask("GET")).body.decode()

    async def test_who_acts_as_the_user_sees_nothing_and_can_sign_out(
        self, authority: Authority, client: AsyncSessionClient, mine: NewSession
    ) -> None:
        support = await client.create("ada", actor_id="support-7")
        visitor = Visitor(authority, support.token.reveal(), home_url="/")

        response = await visitor.ask("GET")

        assert (response.status, response.signed_out) == (403, False)
        assert "You are acting for somebody else" in said(response)
        assert "Chrome" not in response.body.decode()
        [proof] = re.findall(r'name="proof" value="([^"]+)"', response.body.decode())
        left = await visitor.ask(
            "POST", "/sign-out", form={"proof": proof}, headers={"content-type": FORM}
        )
        assert (left.status, left.signed_out) == (303, True)


class TestOutage:
    @pytest.fixture
    async def nowhere(self) -> AsyncIterator[AsyncSessionClient]:
        async with AsyncSessionClient("127.0.0.1:1", deadline_seconds=0.2) as client:
            yield client

    async def test_03_it_is_no_sign_out(
        self, visitor: Visitor, nowhere: AsyncSessionClient
    ) -> None:
        visitor.client = nowhere

        response = await visitor.ask("GET")

        assert (response.status, response.signed_out) == (503, False)
        assert header(response, "retry-after") == "5"
        assert "This does not sign you out." in said(response)

    @pytest.mark.parametrize("below", ["/log-out", "/log-out-elsewhere", "/sign-out"])
    async def test_22_what_failed_can_be_tried_again_as_it_was(
        self,
        client: AsyncSessionClient,
        visitor: Visitor,
        other: NewSession,
        nowhere: AsyncSessionClient,
        below: str,
    ) -> None:
        form = {
            "proof": await visitor.proof(),
            "session_id": other.session.session_id,
            "confirmed": "yes",
        }
        visitor.client = nowhere
        failed = await visitor.ask("POST", below, form=form, headers={"content-type": FORM})
        assert (failed.status, failed.signed_out) == (503, False)
        assert f'action="{ROOT}{below}"' in failed.body.decode()

        visitor.client = client
        fields = dict(re.findall(r'name="(\w+)" value="([^"]*)"', failed.body.decode()))
        again = await visitor.ask("POST", below, form=fields, headers={"content-type": FORM})

        assert again.status == 303

    async def test_an_api_key_that_is_refused_is_our_fault_and_no_sign_out(
        self, authority: Authority, visitor: Visitor, caplog: pytest.LogCaptureFixture
    ) -> None:
        operation = visitor.page.handle(
            PageRequest(method="GET", root=ROOT, origin=ORIGIN, token=visitor.token)
        )
        next(operation)
        with pytest.raises(StopIteration) as done:
            operation.throw(ApiKeyRejected(reason="API_KEY_EXPIRED"))

        response = done.value.value
        assert (response.status, response.signed_out) == (500, False)
        assert "can't be shown" in caplog.text
        assert "SESSION_AUTHORITY_API_KEY" not in response.body.decode()


class TestHttp:
    @pytest.mark.parametrize(
        ("method", "below", "status", "allow"),
        [
            ("GET", "/nonsense", 404, None),
            ("POST", "/nonsense", 404, None),
            ("GET", "/static/page.css", 404, None),
            ("GET", "/static/../page.py", 404, None),
            ("POST", "", 405, "GET, HEAD"),
            ("DELETE", "", 405, "GET, HEAD"),
            ("OPTIONS", "/sessions.json", 405, "GET, HEAD"),
            ("GET", "/log-out", 405, "POST"),
            ("HEAD", "/sign-out", 405, "POST"),
        ],
    )
    async def test_what_is_not_there_or_not_so_is_refused_precisely(
        self, visitor: Visitor, method: str, below: str, status: int, allow: str | None
    ) -> None:
        response = await visitor.ask(method, below)

        assert (response.status, header(response, "allow")) == (status, allow)
        assert header(response, "cache-control") == "no-store"

    @pytest.mark.parametrize(
        ("stated", "status"),
        [
            ("4097", 413),
            ("9" * 19, 413),
            ("9" * 20, 413),
            ("9" * 4300, 413),
            ("9" * 5000, 413),
            ("-1", 400),
            ("+5", 400),
            ("5, 5", 400),
            ("5 5", 400),
            ("0x10", 400),
            ("1e3", 400),
            ("1_0", 400),
            ("\u00b2", 400),
            ("\u0665", 400),
            ("nonsense", 400),
            ("61", 400),  # one byte more than came
        ],
    )
    async def test_a_form_of_another_length_than_it_states_changes_nothing(
        self, visitor: Visitor, stated: str, status: int
    ) -> None:
        form = {"proof": await visitor.proof()}
        headers = {"content-type": FORM, "content-length": stated}

        response = await visitor.ask("POST", "/sign-out", form=form, headers=headers, body_bytes=60)

        assert (response.status, response.signed_out) == (status, False)
        assert "Nothing was changed" in said(response)
        assert await visitor.client.validate(visitor.token)

    @pytest.mark.parametrize("stated", [None, "", "60", " 60 ", "0", "0000000060"])
    async def test_a_form_that_came_whole_is_taken(
        self, visitor: Visitor, stated: str | None
    ) -> None:
        form = {"proof": await visitor.proof()}
        headers = {"content-type": FORM} | ({} if stated is None else {"content-length": stated})

        response = await visitor.ask("POST", "/sign-out", form=form, headers=headers, body_bytes=60)

        assert (response.status, response.signed_out) == (303, True)

    async def test_forms_are_bounded_and_of_one_type(self, visitor: Visitor) -> None:
        long = str(FORM_LIMIT_BYTES + 1)
        too_long = await visitor.send("/sign-out", {"content-length": long})
        really_too_long = await visitor.send("/sign-out", filler="x" * FORM_LIMIT_BYTES)
        no_form = await visitor.send("/sign-out", {"content-type": "application/json"})

        assert [each.status for each in (too_long, really_too_long, no_form)] == [413, 413, 415]

    async def test_every_answer_is_hardened_and_kept_nowhere(
        self, visitor: Visitor, other: NewSession
    ) -> None:
        for response in (
            await visitor.ask("GET"),
            await visitor.ask("GET", "/sessions.json"),
            await visitor.ask("GET", "/nonsense"),
            await visitor.send("/log-out", session_id=other.session.session_id),
            await visitor.send("/log-out", session_id=other.session.session_id, confirmed="yes"),
            await visitor.send("/log-out-elsewhere", {"accept": "application/json"}),
        ):
            assert header(response, "cache-control") == "no-store"
            policy = header(response, "content-security-policy") or ""
            assert "default-src 'none'" in policy
            assert "frame-ancestors 'none'" in policy
            assert "unsafe" not in policy
            assert header(response, "x-frame-options") == "DENY"
            assert header(response, "x-content-type-options") == "nosniff"
            assert header(response, "referrer-policy") == "same-origin"
            assert header(response, "set-cookie") is None

    async def test_assets_are_kept_for_ever_under_names_that_tell_their_content(
        self, authority: Authority, visitor: Visitor
    ) -> None:
        page = await visitor.look()
        paths = re.findall(rf'(?:href|src)="{ROOT}(/static/[^"]+)"', page)
        assert [path.rpartition(".")[2] for path in paths] == ["svg", "css", "js"]
        for path in paths:
            response = await Visitor(authority, None).ask("GET", path)
            assert response.status == 200
            assert "immutable" in (header(response, "cache-control") or "")
            assert response.body
            assert (await visitor.ask("POST", path)).status == 405

    async def test_ids_and_tokens_are_in_no_address(
        self, visitor: Visitor, other: NewSession
    ) -> None:
        page = await visitor.look()
        moved = await visitor.send("/log-out", session_id=other.session.session_id, confirmed="yes")

        for address in [
            *re.findall(r'(?:href|src|action)="([^"]*)"', page),
            header(moved, "location"),
        ]:
            assert address is not None
            assert other.session.session_id not in address
            assert "ses_" not in address


class TestDownload:
    async def test_own_sessions_can_be_taken_away_as_json(
        self, authority: Authority, client: AsyncSessionClient, visitor: Visitor, other: NewSession
    ) -> None:
        await client.create("bob")
        gone = await client.create("ada", attributes={"plan": "secret of the app"})
        await client.sign_out(gone.token)

        response = await visitor.ask("GET", "/sessions.json")

        assert header(response, "content-type") == "application/json"
        assert header(response, "content-disposition") == 'attachment; filename="sessions.json"'
        document = json.loads(response.body)
        assert document["complete"] is True
        assert document["exported_at"] == "2026-01-15T12:00:00Z"
        by_id = {each["session_id"]: each for each in document["sessions"]}
        assert set(by_id) == {
            visitor_id(document),
            other.session.session_id,
            gone.session.session_id,
        }
        assert by_id[gone.session.session_id]["end_reason"] == "signed_out"
        assert by_id[other.session.session_id]["device"]["display_name"] == "Firefox on Linux"
        assert by_id[other.session.session_id]["create_time"] == "2026-01-15T12:00:00Z"
        assert b"secret of the app" not in response.body
        assert b"ses_" not in response.body


def visitor_id(document: dict[str, Any]) -> str:
    [current] = [each for each in document["sessions"] if each["current"]]
    return str(current["session_id"])
