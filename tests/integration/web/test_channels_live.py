"""WebSockets and streams of Django Channels, which end with their session, on uvicorn and real sockets."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from session_authority import NewSession, SessionClient, SessionToken, testing
from tests.integration.web.django_browser import COOKIE, Browser, user_id
from tests.integration.web.live_connections import (
    PATIENCE_SECONDS,
    End,
    ending,
    expire,
    reauthenticate,
    revoke,
    revoke_others,
    serving,
    sweep,
)
from tests.support.soak import soaked
from tests.support.waiting import until, wait_until

from asgiref.sync import sync_to_async  # isort: skip
from channels.generic.http import AsyncHttpConsumer  # isort: skip
from channels.generic.websocket import AsyncWebsocketConsumer  # isort: skip
from channels.routing import ProtocolTypeRouter  # isort: skip
from django.db import connections  # isort: skip
from django.test import override_settings  # isort: skip
from session_authority.web.django.adopting import MARK  # isort: skip
from session_authority.web.django.channels import SessionAuthorityMiddlewareStack  # isort: skip
from session_authority.web.django.options import SETTING  # isort: skip

# Of each of ten browsers at once.
CONNECTIONS = soaked(long=100, short=10)

left: list[str] = []


class Echo(AsyncWebsocketConsumer):  # type: ignore[misc]
    async def receive(self, text_data: str = "", **_more: object) -> None:
        await self.send(f"{self.scope['user'].get_username()}: {text_data}")

    async def disconnect(self, code: int) -> None:
        left.append(f"socket {code}")


class Events(AsyncHttpConsumer):  # type: ignore[misc]
    async def handle(self, _body: bytes) -> None:
        if self.scope["path"] == "/events":
            await self.send_headers(headers=[])
            await self.send_body(b"first", more_body=True)
        await asyncio.Event().wait()


APPLICATION = SessionAuthorityMiddlewareStack(
    ProtocolTypeRouter({"websocket": Echo.as_asgi(), "http": Events.as_asgi()})
)


@pytest.fixture(scope="module")
def authority(django_database: None) -> Iterator[testing.Authority]:
    with testing.authority() as running:
        yield running


@pytest.fixture(scope="module")
def client(authority: testing.Authority) -> Iterator[SessionClient]:
    """Return the site's client, which has a near cache."""
    with SessionClient(authority.address, near_cache=True) as client:
        client.validate("ses_x")

        def has_lease() -> bool:
            statistics = client.near_cache_statistics
            return statistics is not None and statistics.connected

        wait_until(has_lease)
        with override_settings(**{SETTING: {"CLIENT": client}}):
            yield client


@pytest.fixture
async def site(client: SessionClient) -> AsyncIterator[str]:
    left.clear()
    async with serving(APPLICATION) as address:
        yield address
    await sync_to_async(connections.close_all)()


def subscriptions(client: Any) -> int:
    return len(client._near.keeper()._endings)


async def logged_in(
    authority: testing.Authority, end: End | None = None
) -> tuple[NewSession, dict[str, str]]:
    """Log ada in. Return her session and the headers of her browser."""

    def log_in() -> tuple[NewSession, dict[str, str]]:
        browser = Browser()
        browser.sign_in()
        token = browser.token
        assert token is not None
        if end is not expire:
            with authority.client() as client:
                new = NewSession(client.require(token), SessionToken(token))
        else:
            new = authority.sign_in(user_id(), lifetime=timedelta(seconds=3))
            login = browser.session
            login[MARK] = new.session.session_id
            login.save()
            browser.cookies[COOKIE] = new.token.reveal()
        cookies = {name: cookie.value for name, cookie in browser.cookies.items()}
        # Over plain HTTP to this machine, the cookie has another name.
        cookies["auth_session"] = cookies.pop(COOKIE)
        return new, {"cookie": "; ".join(f"{name}={value}" for name, value in cookies.items())}

    return await sync_to_async(log_in)()


@pytest.mark.parametrize(
    ("end", "code"),
    [
        pytest.param(revoke, 1008, id="revoked"),
        pytest.param(revoke_others, 1008, id="revoked others"),
        pytest.param(sweep, 1008, id="sweep"),
        pytest.param(reauthenticate, 1013, id="superseded"),
        pytest.param(expire, 1008, id="expired"),
        pytest.param(None, 1013, id="outage"),
    ],
)
async def test_a_silent_socket_closes_when_its_session_ends(
    site: str, client: SessionClient, authority: testing.Authority, end: End | None, code: int
) -> None:
    new, headers = await logged_in(authority, end)
    async with connect(f"ws://{site}/", additional_headers=headers, proxy=None) as socket:
        await socket.send("hello")
        assert await socket.recv() == "ada: hello"
        assert subscriptions(client) == 1
        with ending(authority, new, end):
            async with asyncio.timeout(PATIENCE_SECONDS):
                await socket.wait_closed()
        assert socket.close_code == code
    await until(lambda: left == [f"socket {code}"])
    await until(lambda: subscriptions(client) == 0)


@pytest.mark.parametrize(("path", "status"), [("/events", 200), ("/poll", 401)])
async def test_a_response_ends_when_its_session_ends(
    site: str, client: SessionClient, authority: testing.Authority, path: str, status: int
) -> None:
    new, headers = await logged_in(authority)
    async with httpx.AsyncClient(headers=headers, timeout=PATIENCE_SECONDS) as browser:
        waiting = asyncio.create_task(browser.get(f"http://{site}{path}"))
        await until(lambda: subscriptions(client) == 1)
        revoke(authority, new)
        assert (await waiting).status_code == status
    await until(lambda: subscriptions(client) == 0)


@pytest.mark.soak
async def test_connections_leave_no_subscription_behind(
    site: str, client: SessionClient, authority: testing.Authority
) -> None:
    _, headers = await logged_in(authority)

    async def connect_and_leave() -> None:
        for _ in range(CONNECTIONS):
            async with connect(f"ws://{site}/", additional_headers=headers, proxy=None):
                pass

    await asyncio.gather(*(connect_and_leave() for _ in range(10)))
    await until(lambda: subscriptions(client) == 0)


async def test_beyond_the_limit_of_subscriptions_a_socket_is_refused_with_503(
    site: str,
    client: SessionClient,
    authority: testing.Authority,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("session_authority.near_cache.endings.SUBSCRIPTIONS_LIMIT", 0)
    _, headers = await logged_in(authority)
    with pytest.raises(InvalidStatus) as caught:
        async with connect(f"ws://{site}/", additional_headers=headers, proxy=None):
            pass
    assert caught.value.response.status_code == 503
