"""Sockets of Django Channels, which close when the user's session ends."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from session_authority import SessionClient, testing
from tests.integration.web.channels_client import WAIT_SECONDS, Socket, respond
from tests.integration.web.django_browser import COOKIE, Browser

from asgiref.sync import sync_to_async  # isort: skip
from channels.generic.http import AsyncHttpConsumer  # isort: skip
from channels.generic.websocket import AsyncJsonWebsocketConsumer  # isort: skip
from django.contrib.auth.models import User  # isort: skip
from django.db import connections  # isort: skip
from django.test import Client, override_settings  # isort: skip
from session_authority.web.django.channels import (  # isort: skip
    SessionAuthorityMiddleware,
    SessionAuthorityMiddlewareStack,
)

push: asyncio.Queue[str]
left: list[int]


class Chat(AsyncJsonWebsocketConsumer):  # type: ignore[misc]
    async def connect(self) -> None:
        await self.accept()
        session = self.scope["auth_session"]
        await self.send_json(
            {"user": self.scope["user"].get_username(), "session": session and session.user_id}
        )

    async def receive_json(self, content: Any, **_more: object) -> None:
        if content == "wait":
            content = await push.get()
        await self.send_json(content)

    async def disconnect(self, code: int) -> None:
        left.append(code)


class LongPoll(AsyncHttpConsumer):  # type: ignore[misc]
    async def handle(self, _body: bytes) -> None:
        if b"stream" in self.scope["query_string"]:
            await self.send_headers(headers=[])
            await self.send_body(b"first ", more_body=True)
        news = await push.get()
        user = self.scope["user"].get_username() or "anonymous"
        if b"stream" in self.scope["query_string"]:
            await self.send_body(news.encode())
        else:
            await self.send_response(200, f"{user}: {news}".encode())


@pytest.fixture(autouse=True)
async def _site(django_authority: testing.Authority) -> AsyncIterator[None]:
    global push, left
    push, left = asyncio.Queue(), []
    yield
    await sync_to_async(connections.close_all)()


@pytest.fixture
def client(django_authority: testing.Authority) -> Iterator[SessionClient]:
    with django_authority.client() as client:
        yield client


@pytest.fixture
def browser(django_authority: testing.Authority) -> Browser:
    browser = Browser()
    browser.sign_in()
    return browser


def headers(browser: Client) -> list[tuple[bytes, bytes]]:
    cookies = "; ".join(f"{name}={cookie.value}" for name, cookie in browser.cookies.items())
    return [
        (b"cookie", cookies.encode()),
        (b"host", b"app.example"),
        (b"origin", b"https://app.example"),
    ]


@asynccontextmanager
async def socket(
    browser: Client, wrap: Callable[[Any], Any] = SessionAuthorityMiddlewareStack, **more: Any
) -> AsyncIterator[Socket]:
    opened = Socket(wrap(Chat.as_asgi()), headers(browser), **more)
    try:
        yield opened
    finally:
        await opened.disconnect()


async def poll(browser: Client, query: bytes = b"") -> Any:
    app = SessionAuthorityMiddlewareStack(LongPoll.as_asgi())
    return await respond(app, headers(browser), query)


async def revoked_while_waiting(browser: Browser, client: SessionClient, query: bytes = b"") -> Any:
    """Return the answer to a long poll whose user's session is revoked while the poll waits."""
    answer = asyncio.ensure_future(poll(browser, query))
    ends_at = asyncio.get_running_loop().time() + WAIT_SECONDS
    while not push._getters:  # type: ignore[attr-defined]
        assert asyncio.get_running_loop().time() < ends_at
        await asyncio.sleep(0.01)
    client.sign_out(browser.token)
    push.put_nowait("secret")
    return await answer


async def test_a_socket_knows_its_user(browser: Browser, client: SessionClient) -> None:
    async with socket(browser) as opened:
        greeted = await opened.greeting()
        assert greeted["user"] == "ada"
        assert greeted["session"] == client.require(browser.token).user_id
        await opened.send("hello")
        assert await opened.receive() == "hello"


@pytest.mark.parametrize("lost", [COOKIE, "sessionid"])
async def test_a_socket_without_one_of_the_cookies_is_anonymous(
    browser: Browser, lost: str
) -> None:
    del browser.cookies[lost]
    async with socket(browser) as opened:
        assert await opened.greeting() == {"user": "", "session": None}
        await opened.send("hello")
        assert await opened.receive() == "hello"


async def test_the_token_of_another_session_leaves_a_socket_anonymous(
    browser: Browser, client: SessionClient
) -> None:
    me = client.require(browser.token)
    for other in (me.user_id, "somebody"):
        browser.cookies[COOKIE] = client.create(other).token.reveal()
        async with socket(browser) as opened:
            assert await opened.greeting() == {"user": "", "session": None}


async def test_the_socket_of_a_revoked_session_is_anonymous(
    browser: Browser, client: SessionClient
) -> None:
    client.sign_out(browser.token)
    async with socket(browser) as opened:
        assert await opened.greeting() == {"user": "", "session": None}


async def test_no_message_from_a_revoked_user_passes(
    browser: Browser, client: SessionClient
) -> None:
    async with socket(browser) as opened:
        await opened.greeting()
        client.sign_out(browser.token)
        await opened.send("hello")
        assert await opened.close_code() == 1008
        await opened.wait()
    assert left == [1008]


async def test_no_message_to_a_revoked_user_passes(browser: Browser, client: SessionClient) -> None:
    async with socket(browser) as opened:
        await opened.greeting()
        await opened.send("wait")
        client.sign_out(browser.token)
        push.put_nowait("secret")
        assert await opened.close_code() == 1008
        assert await opened.receive_nothing(0.05)


async def test_a_silent_socket_of_a_revoked_user_is_closed(
    browser: Browser, client: SessionClient
) -> None:
    def wrap(app: Any) -> Any:
        from channels.sessions import SessionMiddlewareStack

        return SessionMiddlewareStack(SessionAuthorityMiddleware(app, check_seconds=0.02))

    async with socket(browser, wrap) as opened:
        await opened.greeting()
        assert await opened.receive_nothing(0.1)
        client.sign_out(browser.token)
        assert await opened.close_code() == 1008


async def test_after_a_reauthentication_the_socket_is_closed_with_1013(
    browser: Browser, client: SessionClient
) -> None:
    async with socket(browser) as opened:
        await opened.greeting()
        client.reauthenticate(browser.token)
        await opened.send("hello")
        assert await opened.close_code() == 1013


async def test_an_outage_closes_sockets_and_refuses_new_ones(
    browser: Browser, django_authority: testing.Authority
) -> None:
    async with socket(browser) as opened:
        await opened.greeting()
        with django_authority.outage():
            await opened.send("hello")
            assert await opened.close_code() == 1013
            async with socket(browser) as other:
                assert await other.connect() == {"type": "websocket.close", "code": 1013}
    async with socket(browser) as opened:
        assert (await opened.greeting())["user"] == "ada"


async def test_in_an_outage_a_handshake_gets_503_if_the_server_supports_it(
    browser: Browser, django_authority: testing.Authority
) -> None:
    can: dict[str, Any] = {"websocket.http.response": {}}
    async with socket(browser, extensions=can) as opened:
        with django_authority.outage():
            start = await opened.connect()
        assert (start["type"], start["status"]) == ("websocket.http.response.start", 503)
        assert (b"retry-after", b"5") in start["headers"]
        body = await opened.receive_output(WAIT_SECONDS)
        assert body["type"] == "websocket.http.response.body"


async def test_a_long_poll_of_a_live_user_is_answered(browser: Browser) -> None:
    push.put_nowait("news")
    assert await poll(browser) == (200, b"ada: news")


async def test_a_long_poll_whose_user_is_revoked_meanwhile_gets_401(
    browser: Browser, client: SessionClient
) -> None:
    assert await revoked_while_waiting(browser, client) == (401, b"Not logged in")


async def test_a_stream_whose_user_is_revoked_meanwhile_ends(
    browser: Browser, client: SessionClient
) -> None:
    assert await revoked_while_waiting(browser, client, b"stream") == (200, b"first ")


async def test_a_request_in_an_outage_gets_503(
    browser: Browser, django_authority: testing.Authority
) -> None:
    with django_authority.outage():
        assert (await poll(browser))[0] == 503


async def test_visitors_are_anonymous_even_in_an_outage(
    django_authority: testing.Authority,
) -> None:
    push.put_nowait("news")
    with django_authority.outage():
        assert await poll(Browser()) == (200, b"anonymous: news")


async def test_a_login_by_the_test_client_can_open_sockets(
    django_authority: testing.Authority,
) -> None:
    browser = Client()
    await sync_to_async(browser.force_login)(await User.objects.aget(username="ada"))
    async with socket(browser) as opened:
        assert (await opened.greeting())["user"] == "ada"


async def test_the_socket_of_an_acting_staff_member_closes_with_their_own_session(
    client: SessionClient,
) -> None:
    boss = await sync_to_async(User.objects.create_superuser)("boss", password="pass")

    def act() -> tuple[Browser, str]:
        with override_settings(ROOT_URLCONF="tests.integration.web.django_addons_site"):
            browser = Browser()
            browser.sign_in("boss")
            own = str(browser.token)
            ada = User.objects.get(username="ada")
            browser.post("/hijack/acquire/", {"user_pk": ada.pk})
            return browser, own

    browser, own = await sync_to_async(act)()
    async with socket(browser) as opened:
        assert (await opened.greeting())["user"] == "ada"
        client.sign_out(own)
        await opened.send("hello")
        assert await opened.close_code() == 1008
    async with socket(browser) as opened:
        assert (await opened.greeting())["user"] == ""
    await boss.adelete()


async def test_without_the_session_middleware_of_channels_the_error_names_the_stack_to_use() -> (
    None
):
    async def nothing(*_: object) -> Any:
        raise AssertionError

    with pytest.raises(ValueError, match="use SessionAuthorityMiddlewareStack"):
        await SessionAuthorityMiddleware(nothing)({"type": "http"}, nothing, nothing)
