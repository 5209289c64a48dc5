"""Signing in to a FastAPI app."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import BackgroundTasks, FastAPI, Request
from starlette.responses import StreamingResponse

from session_authority import AsyncSessionClient
from session_authority.web.fastapi import CurrentSession, Sessions
from session_authority.web.sessions_page import PageOptions
from session_authority_server.domain.policy import Policy
from tests.integration.web.fastapi_shop import COOKIE, Shop
from tests.support.authority import running_authority

HTML = {"accept": "text/html,*/*;q=0.8"}


async def test_a_user_has_access_after_signing_in_and_none_after_signing_out(shop: Shop) -> None:
    async with shop.browser(**{"user-agent": "curl/8.5.0"}) as browser:
        assert (await browser.get("/me")).status_code == 401

        signed_in = await browser.post("/sign-in/ada")
        assert signed_in.status_code == 200
        assert signed_in.headers["cache-control"] == "no-store"

        me = await browser.get("/me")
        assert me.json() == {"user": "ada", "methods": ["pwd"]}
        assert me.headers["vary"] == "Cookie"
        token = browser.cookies[COOKIE]
        (session,) = await shop.authority.client.list(token)
        assert session.ip_address == "203.0.113.7"
        assert session.device.display_name == "curl"

        signed_out = await browser.post("/sign-out")
        assert "Max-Age=0" in signed_out.headers["set-cookie"]
        assert COOKIE not in browser.cookies
        assert (await browser.get("/me")).status_code == 401
    assert not await shop.authority.client.validate(token)


@pytest.mark.parametrize("response", ["none", "redirect", "stream", "shared"])
async def test_every_kind_of_response_sets_the_cookie(shop: Shop, response: str) -> None:
    async with shop.browser() as browser:
        signed_in = await browser.post(f"/sign-in/ada?response={response}")

        assert signed_in.headers["set-cookie"].startswith(f"{COOKIE}=ses_")
        assert "no-store" in signed_in.headers["cache-control"]
        assert (await browser.get("/me")).status_code == 200


@pytest.mark.parametrize("path", ["sign-in/ada", "reauthenticate"])
async def test_a_session_whose_request_fails_is_ended(shop: Shop, path: str) -> None:
    """The server itself answers an unhandled exception, without our cookie."""

    @shop.app.post("/stumble/sign-in/ada")
    async def sign_in(request: Request) -> None:
        await shop.sessions.sign_in(request, user_id="ada")
        raise ZeroDivisionError

    @shop.app.post("/stumble/reauthenticate")
    async def reauthenticate(request: Request) -> None:
        await shop.sessions.reauthenticate(request)
        raise ZeroDivisionError

    other = await shop.authority.client.create("ada")
    async with shop.browser() as browser:
        await browser.post("/sign-in/ada")
        with pytest.raises(ZeroDivisionError):
            await browser.post("/stumble/" + path)

    assert [each.current for each in await shop.authority.client.list(other.token)] == [True]


@pytest.mark.parametrize("when", ["stream", "task"])
async def test_a_sign_in_after_the_response_has_begun_is_refused(shop: Shop, when: str) -> None:
    @shop.app.post("/late")
    async def late(request: Request, tasks: BackgroundTasks) -> Any:
        async def sign_in() -> AsyncIterator[str]:
            await shop.sessions.sign_in(request, user_id="ada")
            yield ""

        async def run() -> None:
            await anext(sign_in())

        if when == "stream":
            return StreamingResponse(sign_in())
        tasks.add_task(run)
        return None

    other = await shop.authority.client.create("ada")
    async with shop.browser() as browser:
        with pytest.raises(RuntimeError, match="the response has begun"):
            await browser.post("/late")

    assert len(await shop.authority.client.list(other.token)) == 1


async def test_methods_is_another_name_of_authentication_methods(shop: Shop) -> None:
    @shop.app.post("/both/{name}")
    async def both(request: Request, name: str) -> list[str]:
        other: dict[str, Any] = {"user_id": "ada"} if name == "sign_in" else {}
        call = getattr(shop.sessions, name)
        with pytest.raises(TypeError, match="another name"):
            await call(request, methods=["pwd"], authentication_methods=["pwd"], **other)
        first = await call(request, authentication_methods=["pwd", "otp"], **other)
        second = await call(request, methods=("hwk",), **other)
        return [*first.authentication_methods, *second.authentication_methods]

    async with shop.browser() as browser:
        for name in ("sign_in", "reauthenticate"):
            assert (await browser.post(f"/both/{name}")).json() == ["pwd", "otp", "hwk"]


async def test_a_sign_in_that_began_before_all_sessions_were_revoked_is_refused(shop: Shop) -> None:
    began = shop.authority.clock.now()

    @shop.app.post("/slow-sign-in")
    async def slow_sign_in(request: Request) -> None:
        shop.authority.pass_time(seconds=2)
        other = await shop.authority.client.create("ada")
        await shop.authority.client.revoke_others(other.token)
        shop.authority.pass_time(seconds=2)
        await shop.sessions.sign_in(request, user_id="ada")

    @shop.app.post("/two-step-sign-in")
    async def two_step_sign_in(request: Request) -> None:
        await shop.sessions.sign_in(request, user_id="ada", authenticate_time=began)

    async with shop.browser() as browser:
        for path in ("/slow-sign-in", "/two-step-sign-in"):
            answer = await browser.post(path)
            assert answer.status_code == 401
            assert answer.json()["detail"].startswith("You were logged out everywhere")
            assert "set-cookie" not in answer.headers


@pytest.mark.parametrize(
    ("method", "path", "headers", "to"),
    [
        ("GET", "/me?tab=1", HTML, "/sign-in?next=%2Fme%3Ftab%3D1"),
        ("POST", "/me", HTML, "/sign-in"),
        ("POST", "/me", {**HTML, "referer": "https://app.example/form"}, "/sign-in?next=%2Fform"),
        ("GET", "/me", {"accept": "application/json"}, None),
        ("GET", "/sign-in", HTML, None),
    ],
)
async def test_a_browser_without_a_session_is_redirected_to_the_sign_in_page(
    tmp_path: Path, method: str, path: str, headers: dict[str, str], to: str | None
) -> None:
    async with running_authority(tmp_path, Policy()) as authority:
        client = AsyncSessionClient(authority.address, api_key=authority.key)
        app, sessions = FastAPI(), Sessions(client)
        sessions.install(app, options=PageOptions(sign_in_url="/sign-in"))

        @app.api_route("/me", methods=["GET", "POST"])
        @app.api_route("/sign-in")  # guarded by mistake: it must not redirect to itself
        async def me(session: CurrentSession) -> str:
            return session.user_id

        stale = {"cookie": f"__Host-auth_session=ses_{'0' * 70}"}
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="https://app.example") as it:
            answer = await it.request(method, path, headers={**headers, **stale})
        await client.close()
    assert answer.headers.get("location") == to
    assert answer.status_code == (401 if to is None else 303)
    assert "no-store" in answer.headers["cache-control"]
