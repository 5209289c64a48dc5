"""Several `Sessions` objects in nested apps, and middleware in the wrong order."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, Request

from session_authority import testing
from session_authority.web.cookies import SessionCookie
from session_authority.web.fastapi import CurrentSession, OptionalSession, Sessions
from session_authority.web.site import Site

COOKIE = "__Host-auth_session"
STAFF_COOKIE = "__Host-staff_session"


@pytest.fixture(scope="module")
def authority() -> Iterator[testing.Authority]:
    with testing.authority() as running:
        yield running


@pytest.fixture
async def shop(authority: testing.Authority) -> AsyncIterator[Sessions]:
    async with authority.async_client() as client:
        yield Sessions(client)


@pytest.fixture
async def staff(authority: testing.Authority) -> AsyncIterator[Sessions]:
    async with authority.async_client() as client:
        yield Sessions(client, Site(SessionCookie("staff_session")))


def an_app(sessions: Sessions) -> FastAPI:
    app = FastAPI()
    sessions.install(app, page="/sessions")

    @app.post("/sign-in/{user_id}")
    async def sign_in(request: Request, user_id: str) -> None:
        await sessions.sign_in(request, user_id=user_id)

    @app.post("/sign-out")
    async def sign_out(request: Request) -> None:
        await sessions.sign_out(request)

    @app.get("/me")
    async def me(session: CurrentSession) -> str:
        return session.user_id

    @app.get("/who")
    async def who(request: Request, session: OptionalSession) -> list[str | None]:
        found = await sessions.session(request)
        return [each.user_id if each else None for each in (session, found)]

    return app


@asynccontextmanager
async def browser(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="https://app.example") as it:
        yield it


async def test_a_mounted_app_with_its_own_sessions_ignores_the_outer_apps_cookie(
    shop: Sessions, staff: Sessions
) -> None:
    app = an_app(shop)
    app.mount("/staff", an_app(staff))
    async with browser(app) as it:
        await it.post("/sign-in/ada")
        assert (await it.get("/me")).json() == "ada"
        refused = await it.get("/staff/me")
        assert (refused.status_code, "set-cookie" in refused.headers) == (401, False)
        assert (await it.get("/staff/who")).json() == [None, None]
        assert "ada" not in (await it.get("/staff/sessions")).text
        assert (await it.get("/staff/sessions")).status_code == 401

        await it.post("/staff/sign-in/grace")
        assert set(it.cookies) == {COOKIE, STAFF_COOKIE}
        assert (await it.get("/me")).json() == "ada"
        assert (await it.get("/who")).json() == ["ada", "ada"]
        assert (await it.get("/staff/who")).json() == ["grace", "grace"]

        await it.post("/staff/sign-out")
        assert set(it.cookies) == {COOKIE}
        assert (await it.get("/me")).json() == "ada"


async def test_middleware_of_the_outer_app_still_gets_its_own_session(
    shop: Sessions, staff: Sessions
) -> None:
    seen: list[Any] = []
    app = FastAPI()

    @app.middleware("http")
    async def log(request: Request, call_next: Any) -> Any:
        response = await call_next(request)
        seen.append(await shop.session(request) or None)
        return response

    shop.install(app)
    app.mount("/shop", an_app(shop))
    app.mount("/staff", an_app(staff))
    async with browser(app) as it:
        await it.post("/shop/sign-in/ada")
        await it.post("/staff/sign-in/grace")
        await it.get("/staff/me")

    assert [each and each.user_id for each in seen] == ["ada", "ada", "ada"]


async def test_one_sessions_object_serves_nested_apps(shop: Sessions) -> None:
    app = an_app(shop)
    app.mount("/staff", an_app(shop))
    async with browser(app) as it:
        signed_in = await it.post("/staff/sign-in/ada")
        assert len(signed_in.headers.get_list("set-cookie")) == 1
        assert (await it.get("/me")).json() == (await it.get("/staff/me")).json() == "ada"


@pytest.mark.parametrize("domain", [None, "app.example"])
async def test_two_sessions_objects_with_one_cookie_are_refused(
    shop: Sessions, authority: testing.Authority, domain: str | None
) -> None:
    app = an_app(shop)
    async with authority.async_client() as client:
        app.mount("/staff", an_app(Sessions(client, Site(SessionCookie(domain=domain)))))
        async with browser(app) as it:
            assert (await it.get("/who")).status_code == 200
            with pytest.raises(RuntimeError, match="two Sessions use the cookie 'auth_session'"):
                await it.get("/staff/who")


async def test_a_sessions_object_that_is_not_installed_raises_even_beside_an_installed_one(
    shop: Sessions, staff: Sessions
) -> None:
    app = an_app(shop)

    @app.get("/other")
    async def other(request: Request) -> None:
        await staff.require(request)

    async with browser(app) as it:
        with pytest.raises(RuntimeError, match="another Sessions object"):
            await it.get("/other")


@pytest.mark.parametrize("comes_after", [False, True])
async def test_middleware_that_runs_too_early_gets_an_error_about_the_order(
    shop: Sessions, comes_after: bool
) -> None:
    app = FastAPI()

    async def ask(request: Request, call_next: Any) -> Any:
        await shop.session(request)
        return await call_next(request)

    if not comes_after:
        app.middleware("http")(ask)
    shop.install(app)
    if comes_after:
        app.middleware("http")(ask)
    async with browser(app) as it:
        if not comes_after:
            assert (await it.get("/")).status_code == 404
            return
        with pytest.raises(RuntimeError, match=r"add it before sessions\.install"):
            await it.get("/")
