"""A sign-out at a real provider ends exactly its own sessions, on every surface.

The provider is `oidc-provider` of npm. Users sign in by the code flow, and sign out at the provider.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from importlib import import_module
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from starlette.responses import StreamingResponse

from session_authority import AsyncSessionClient, Identity, NewSession, SessionClient, testing
from session_authority.backchannel import Provider
from session_authority.web.fastapi import CurrentSession, Sessions
from session_authority_gateway.application import new_application, new_parts
from session_authority_gateway.http_server import listening_socket, serving_http
from session_authority_gateway.settings import load_gateway_settings
from tests.support.oidc_provider import Browser, OidcProvider, oidc_provider
from tests.support.waiting import until

SURFACES = ("gateway", "fastapi", "django")
WITHOUT_SID = "without-sid"
Application = Callable[..., Awaitable[None]]


@dataclass
class Recording:
    """An application, and the times after which it promised to accept no ended session."""

    application: Application | None = None
    effective_times: list[datetime] = field(default_factory=list)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def recorded(message: Any) -> None:
            if scope["path"] == "/backchannel/logout" and message.get("body"):
                effective = json.loads(message["body"])["effective_time"]
                self.effective_times.append(datetime.fromisoformat(effective))
            await send(message)

        assert self.application is not None
        await self.application(scope, receive, recorded)


@dataclass
class World:
    """A provider, the three surfaces, and their authority."""

    provider: OidcProvider
    authority: testing.Authority
    client: AsyncSessionClient
    addresses: Mapping[str, str]
    recordings: Mapping[str, Recording]
    http: httpx.AsyncClient
    browsers: list[Browser] = field(default_factory=list)

    def open_browser(self) -> Browser:
        browser = Browser(self.provider)
        self.browsers.append(browser)
        return browser

    async def sign_in(self, browser: Browser, user: str, client_id: str) -> NewSession:
        """Sign in at the provider, and then as an app does with the claims of the ID token."""
        claims = await asyncio.to_thread(browser.sign_in, user, client_id)
        identity = Identity(claims["iss"], claims["sub"], claims.get("sid"))
        return await self.client.create(f"{claims['sub']}-here", identity=identity)

    async def is_accepted(self, surface: str, session: NewSession) -> bool:
        """Ask a surface whether a session is live."""
        path = "/verify" if surface == "gateway" else "/me"
        answer = await self.http.get(self.addresses[surface] + path, headers=headers_of(session))
        if surface == "django":
            return answer.raise_for_status().json()["session"] is not None
        assert answer.status_code in (200, 401), answer.text
        return answer.status_code == 200

    async def outcome(self, client_id: str) -> str:
        """Return the outcome of the only logout request to a client, as the provider prints it."""
        await until(lambda: self.provider.outcomes(client_id))
        [outcome] = self.provider.outcomes(client_id)
        return outcome

    async def live(self, sessions: Iterable[NewSession]) -> list[bool]:
        """Ask the authority itself."""
        return [bool(await self.client.validate(each.token)) for each in sessions]


def headers_of(session: NewSession) -> Mapping[str, str]:
    token = session.token.reveal()
    return {"cookie": f"auth_session={token}", "host": "localhost", "x-session-token": token}


def fastapi_app(client: AsyncSessionClient, issuer: str) -> Application:
    app = FastAPI()
    sessions = Sessions(client)
    providers = [Provider(issuer, client_id) for client_id in ("fastapi", WITHOUT_SID)]
    sessions.install(app, providers=providers)

    @app.get("/me")
    async def me(session: CurrentSession) -> str:
        return session.user_id

    @app.get("/stream")
    async def stream(session: CurrentSession) -> StreamingResponse:
        async def endless() -> AsyncIterator[str]:
            while True:
                yield f"{session.user_id}\n"
                await asyncio.sleep(0.05)

        return StreamingResponse(endless())

    return app


def gateway_app(client: AsyncSessionClient, issuer: str) -> Application:
    providers = json.dumps([{"issuer": issuer, "client_id": "gateway"}])
    settings = load_gateway_settings(None, providers=providers)
    return new_application(new_parts(settings, client), lambda: True)


@asynccontextmanager
async def django_app(address: str, issuer: str) -> AsyncIterator[Application]:
    import_module("tests.integration.web.django_site")  # configures Django
    from django.core.asgi import get_asgi_application
    from django.test import override_settings

    with (
        SessionClient(address, near_cache=True) as client,
        override_settings(
            ALLOWED_HOSTS=["127.0.0.1", "localhost"],
            SESSION_AUTHORITY={
                "CLIENT": client,
                "PROVIDERS": [{"issuer": issuer, "client_id": "django"}],
            },
        ),
    ):
        yield get_asgi_application()


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with AsyncExitStack() as stack:
        authority = stack.enter_context(testing.authority())
        recordings = {name: Recording() for name in SURFACES}
        addresses = {}
        for name, recording in recordings.items():
            listening = stack.enter_context(listening_socket("127.0.0.1:0"))
            host, port = listening.getsockname()
            addresses[name] = f"http://{host}:{port}"
            await stack.enter_async_context(serving_http(recording, listening, None, 5))
        inboxes = {name: f"{addresses[name]}/backchannel/logout" for name in SURFACES}
        inboxes[WITHOUT_SID] = inboxes["fastapi"]
        provider = stack.enter_context(oidc_provider(inboxes))
        cached = [
            await stack.enter_async_context(AsyncSessionClient(authority.address, near_cache=True))
            for _ in range(2)
        ]
        recordings["gateway"].application = gateway_app(cached[0], provider.issuer)
        recordings["fastapi"].application = fastapi_app(cached[1], provider.issuer)
        recordings["django"].application = await stack.enter_async_context(
            django_app(authority.address, provider.issuer)
        )
        client = await stack.enter_async_context(authority.async_client())
        http = await stack.enter_async_context(httpx.AsyncClient(timeout=30))
        world = World(provider, authority, client, addresses, recordings, http)
        yield world
        for browser in world.browsers:
            browser.close()


async def test_a_sign_out_ends_its_own_sessions_and_no_other(world: World) -> None:
    laptop, phone, of_bob = (world.open_browser() for _ in range(3))
    ending = {each: await world.sign_in(laptop, "ada", each) for each in SURFACES}
    kept = {each: await world.sign_in(phone, "ada", each) for each in SURFACES}
    others = {each: await world.sign_in(of_bob, "bob", each) for each in SURFACES}
    without_identity = await world.client.create("ada-here")
    for sessions in (ending, kept, others):  # now the near caches have them
        for surface in SURFACES:
            assert await world.is_accepted(surface, sessions[surface])
    address = world.addresses["fastapi"] + "/stream"
    async with world.http.stream("GET", address, headers=headers_of(ending["fastapi"])) as stream:
        lines = stream.aiter_lines()
        assert await anext(lines) == "ada-here"
        await asyncio.to_thread(laptop.sign_out)
        # Each surface has answered the provider. So no later question to the authority accepts the sessions.
        assert await world.live(ending.values()) == [False] * 3
        async for _ in lines:  # ends with the session
            pass
    for surface in SURFACES:
        assert await world.outcome(surface) == "succeeded"
    for surface in SURFACES:
        [effective] = world.recordings[surface].effective_times
        asked = world.authority.now
        while await world.is_accepted(surface, ending[surface]):
            assert asked < effective
            asked = world.authority.now
        assert await world.is_accepted(surface, kept[surface])
        assert await world.is_accepted(surface, others[surface])
    assert await world.live([*kept.values(), *others.values(), without_identity]) == [True] * 7


async def test_a_sign_out_without_sid_ends_all_sessions_of_the_user_at_this_provider(
    world: World,
) -> None:
    browsers = [world.open_browser() for _ in range(3)]
    ending = [await world.sign_in(each, "ada", WITHOUT_SID) for each in browsers[:2]]
    ending.append(await world.sign_in(browsers[1], "ada", "gateway"))
    of_bob = await world.sign_in(browsers[2], "bob", WITHOUT_SID)
    elsewhere = await world.client.create(
        "ada-here", identity=Identity("https://other.example", "ada")
    )
    await asyncio.to_thread(browsers[0].sign_out)
    assert await world.outcome(WITHOUT_SID) == "succeeded"
    assert await world.live(ending) == [False] * 3
    assert await world.live([of_bob, elsewhere]) == [True, True]
    # After another sign-in, the user is in again.
    again = await world.sign_in(browsers[0], "ada", WITHOUT_SID)
    assert await world.live([again]) == [True]


async def test_during_an_outage_the_provider_learns_that_the_sign_out_failed(world: World) -> None:
    browser = world.open_browser()
    session = await world.sign_in(browser, "ada", "gateway")
    with world.authority.outage():
        await asyncio.to_thread(browser.sign_out)
    outcome = await world.outcome("gateway")
    assert outcome.startswith("failed: expected 200 OK")
    assert outcome.endswith("400 Bad Request")
    assert await world.live([session]) == [True]
