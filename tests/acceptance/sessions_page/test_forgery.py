"""Forged forms: other sites submit forms to the sessions page."""

import re

import pytest

from session_authority import AsyncSessionClient, NewSession
from tests.acceptance.sessions_page.visitor import FORM, ORIGIN, Visitor, said
from tests.support.authority import Authority

FROM_ELSEWHERE: list[dict[str, str]] = [
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
]


class TestForgery:
    """No other site can make a browser act on the page."""

    async def test_22_a_form_from_another_site_is_refused_even_with_a_valid_proof(
        self, client: AsyncSessionClient, visitor: Visitor, other: NewSession
    ) -> None:
        for headers in FROM_ELSEWHERE:
            response = await visitor.send("/log-out-elsewhere", headers, confirmed="yes")

            assert response.status == 403, headers
        assert await client.validate(other.token)

    @pytest.mark.parametrize(
        "origin", [ORIGIN, f"{ORIGIN}:443", ORIGIN.upper(), "null"], ids=str.lower
    )
    @pytest.mark.parametrize("accept", ["text/html", "application/json"])
    async def test_a_form_of_the_page_is_accepted_with_every_origin_that_browsers_send(
        self, visitor: Visitor, other: NewSession, origin: str, accept: str
    ) -> None:
        """Browsers send the origin "null" if a proxy adds `Referrer-Policy: no-referrer`."""
        headers = {"origin": origin, "sec-fetch-site": "same-origin", "accept": accept}

        response = await visitor.send("/log-out-elsewhere", headers, confirmed="yes")

        assert response.status in (200, 303)
        assert not await visitor.client.validate(other.token)

    async def test_a_form_without_an_origin_needs_a_valid_proof(self, visitor: Visitor) -> None:
        headers = {"origin": "null", "sec-fetch-site": "same-origin"}

        response = await visitor.send("/sign-out", headers, proof="0" * 32 + "." + "0" * 64)

        assert response.status == 403
        assert await visitor.client.validate(visitor.token)

    async def test_a_wrong_origin_is_logged_once(
        self, visitor: Visitor, other: NewSession, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Behind a proxy that terminates TLS, the app sees another scheme than the browser."""
        headers = {"origin": "http://app.example", "sec-fetch-site": "same-origin"}
        for _ in range(2):
            response = await visitor.send("/log-out-elsewhere", headers, confirmed="yes")
            assert response.status == 403

        (message,) = [each for each in caplog.messages if "its origin is" in each]
        assert "its origin is 'http://app.example' in the browser" in message
        assert f"and '{ORIGIN}' in the app" in message

    async def test_22_a_form_without_a_proof_is_refused(
        self, client: AsyncSessionClient, visitor: Visitor, other: NewSession
    ) -> None:
        headers = {"origin": ORIGIN, "sec-fetch-site": "same-origin"}
        for proof in ("", ".", "a.b", "ä", "0" * 32 + "." + "0" * 64):
            for below in ("/log-out", "/log-out-elsewhere", "/sign-out"):
                response = await visitor.send(below, headers, proof=proof, confirmed="yes")

                assert response.status == 403
                assert "Nothing was changed" in said(response)
        assert len(await client.list(visitor.token)) == 2

    async def test_22_a_form_with_the_proof_of_another_session_is_refused(
        self, authority: Authority, client: AsyncSessionClient, visitor: Visitor, other: NewSession
    ) -> None:
        bob = await client.create("bob")
        stolen = await Visitor(authority, bob.token.reveal()).proof()

        assert (await visitor.send("/sign-out", proof=stolen)).status == 403

    @pytest.mark.parametrize("below", ["/log-out", "/log-out-elsewhere", "/sign-out"])
    async def test_22_a_form_from_another_site_without_a_cookie_clears_no_cookie(
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

    async def test_each_answer_has_a_different_proof_and_none_contains_the_token(
        self, visitor: Visitor, mine: NewSession, other: NewSession
    ) -> None:
        page = await visitor.look() + await visitor.look()
        proofs = re.findall(r'name="proof" value="([^"]+)"', page)

        assert len(set(proofs)) == len(proofs) == 6
        assert mine.token.reveal() not in page
        assert mine.token.reveal()[4:20] not in page
