"""A FastAPI app in which users sign in."""

from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI, Request, Response
from starlette.responses import PlainTextResponse, RedirectResponse

from session_authority import AsyncSessionClient, SessionNotLive, Unavailable
from session_authority.web.fastapi import (
    CurrentSession,
    Sessions,
)
from session_authority.web.site import Site
from session_authority.web.visit import RETRY_AFTER_SECONDS
from session_authority_server.domain.policy import Policy
from session_authority_server.domain.token import mint
from tests.integration.web.fastapi_shop import COOKIE, ORIGIN, Shop, shop_app
from tests.support.authority import running_authority


async def test_a_visitor_without_a_session_gets_401(shop: Shop) -> None:
    async with shop.browser() as browser:
        answer = await browser.get("/me")

    assert answer.status_code == 401
    assert answer.json() == {"detail": "Not logged in"}
    assert answer.headers["www-authenticate"] == "Cookie"
    assert answer.headers["cache-control"] == "no-store"
    assert "set-cookie" not in answer.headers


async def test_the_authority_is_called_once_and_only_if_a_handler_needs_the_session(
    shop: Shop,
) -> None:
    asked = shop.authority.store.asked
    async with shop.browser() as browser:
        assert (await browser.get("/who")).json() is None
        assert asked == []
        await browser.post("/sign-in/ada")
        asked.clear()

        public = await browser.get("/")
        assert public.json() == "welcome"
        assert "vary" not in public.headers
        assert asked == []

        assert (await browser.get("/who")).json() == "ada"
        assert asked == ["read_sessions"]


async def test_a_revoked_session_gets_401_at_its_next_request_and_loses_its_cookie(
    shop: Shop,
) -> None:
    async with shop.browser() as laptop, shop.browser() as phone:
        await laptop.post("/sign-in/ada")
        await phone.post("/sign-in/ada")

        assert (await laptop.post("/revoke-others")).status_code == 200

        refused = await phone.get("/me")
        assert refused.status_code == 401
        assert "Max-Age=0" in refused.headers["set-cookie"]
        assert (await laptop.get("/me")).status_code == 200


async def test_an_outage_is_a_503_that_keeps_the_cookie(shop: Shop) -> None:
    async with shop.browser() as browser:
        await browser.post("/sign-in/ada")
        shop.go_down()
        for answer in (
            await browser.get("/me"),
            await browser.get("/who"),
            await browser.post("/sign-in/ada"),
            await browser.post("/sign-out"),
            await browser.post("/reauthenticate"),
        ):
            assert answer.status_code == 503
            assert answer.headers["retry-after"] == str(RETRY_AFTER_SECONDS)
            assert "set-cookie" not in answer.headers
        assert (await browser.get("/")).status_code == 200
        shop.sessions.client = shop.authority.client
        assert (await browser.get("/me")).json()["user"] == "ada"


async def test_a_visitor_without_a_session_can_neither_reauthenticate_nor_revoke(
    shop: Shop,
) -> None:
    async with shop.browser() as browser:
        assert (await browser.post("/reauthenticate")).status_code == 401
        assert (await browser.post("/revoke-others")).status_code == 401


async def test_an_app_can_answer_with_its_own_exception_handler(shop: Shop) -> None:
    @shop.app.exception_handler(SessionNotLive)
    async def to_sign_in(_request: Request, _error: Exception) -> Response:
        return RedirectResponse("/sign-in", 303)

    async with shop.browser() as browser:
        assert (await browser.get("/me")).headers["location"] == "/sign-in"


async def test_an_existing_exception_handler_is_kept(shop: Shop) -> None:
    async def own(_request: Request, _error: Exception) -> Response:
        return PlainTextResponse("own", 503)

    app = FastAPI(exception_handlers={Unavailable: own})
    shop.sessions.install(app)

    @app.get("/down")
    async def down() -> None:
        raise Unavailable

    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=ORIGIN) as browser:
        assert (await browser.get("/down")).text == "own"


@pytest.mark.parametrize("near_cache", [False, True])
async def test_made_up_cookies_lock_out_no_signed_in_user(tmp_path: Path, near_cache: bool) -> None:
    def made_up() -> str:
        return "; ".join(f"{COOKIE}={mint(datetime.now(UTC)).encode()}" for _ in range(4))

    async with (
        running_authority(tmp_path, Policy(), rejected_tokens_per_minute=2) as authority,
        AsyncSessionClient(
            authority.address, api_key=authority.key, near_cache=near_cache
        ) as client,
    ):
        sessions = Sessions(client, Site(clock=authority.clock.now))
        shop = Shop(shop_app(sessions), sessions, authority)
        async with shop.browser() as browser, shop.browser() as attacker:
            await browser.post("/sign-in/ada")
            for number in range(5):
                answer = await attacker.get("/me", headers={"cookie": made_up()})
                assert answer.status_code == 401
                # Each request counts once. The first two are rejected. The third is refused, which keeps its cookies.
                assert ("set-cookie" in answer.headers) == (number < 2)
                assert (await browser.get("/me")).json()["user"] == "ada"
            good = browser.cookies[COOKIE]
            mixed = await attacker.get(
                "/me", headers={"cookie": f"{made_up()[:240]}; {COOKIE}={good}"}
            )
            assert mixed.json()["user"] == "ada"
            assert (await attacker.post("/sign-in/eve")).status_code == 200


async def test_a_cookie_split_over_headers_is_read(shop: Shop) -> None:
    async with shop.browser() as browser:
        await browser.post("/sign-in/ada")
        token = browser.cookies[COOKIE]
    async with shop.browser() as browser:
        answer = await browser.get(
            "/me", headers=[("cookie", "a=1"), ("cookie", f"{COOKIE}={token}")]
        )
    assert answer.status_code == 200


async def test_without_installed_sessions_the_error_says_to_install_them() -> None:
    app = FastAPI()

    @app.get("/me")
    async def me(session: CurrentSession) -> None: ...

    @app.get("/out")
    async def out(request: Request) -> None:
        await Sessions.from_env().sign_out(request)

    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=ORIGIN) as browser:
        for path in ("/me", "/out"):
            with pytest.raises(RuntimeError, match=r"sessions\.install\(app\)"):
                await browser.get(path)
