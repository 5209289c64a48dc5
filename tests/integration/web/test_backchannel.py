"""Sign-outs at identity providers reach each integration, and the gateway, over HTTP."""

import asyncio
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from importlib import import_module
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from session_authority import AsyncSessionClient, SessionClient
from session_authority.backchannel import Provider
from session_authority.backchannel.receiver import BODY_LIMIT_BYTES
from session_authority.errors import Unavailable
from session_authority.web.fastapi import Sessions
from session_authority_gateway.application import new_application, new_parts
from session_authority_gateway.metrics import SIGNALS
from session_authority_gateway.settings import load_gateway_settings
from tests.support.key_site import KeySite, key_site
from tests.support.provider_tokens import (
    CLIENT_ID,
    ISSUER,
    event_claims,
    key_set,
    logout_claims,
    signing_key,
)

FORM = "application/x-www-form-urlencoded"
EVENT = "application/secevent+jwt"
LOGOUT, EVENTS = "/backchannel/logout", "/backchannel/events"
ADDRESS = "127.0.0.1:9"
EFFECTIVE = datetime.now(UTC) + timedelta(seconds=3)
KEY = signing_key()


@dataclass(frozen=True)
class Response:
    status: int
    headers: Any
    body: bytes


@dataclass
class Endings:
    """The calls that end sessions. They fail if there is an error."""

    calls: list[tuple[str, str | None, str | None]]
    error: Exception | None = None

    def end(self, issuer: str, subject: str | None, sid: str | None) -> datetime:
        if self.error is not None:
            raise self.error
        self.calls.append((issuer, subject, sid))
        return EFFECTIVE


@dataclass(frozen=True)
class Door:
    send: Callable[[str, str, bytes, str], Response]
    endings: Endings

    def logout(self, **changes: Any) -> Response:
        token = KEY.sign(logout_claims(datetime.now(UTC), **changes))
        return self.send("POST", LOGOUT, f"logout_token={token}".encode(), FORM)

    def push(self, **changes: Any) -> Response:
        token = KEY.sign(event_claims(datetime.now(UTC), **changes), typ="secevent+jwt")
        return self.send("POST", EVENTS, token.encode(), EVENT)


@pytest.fixture(scope="module")
def keys() -> Iterator[KeySite]:
    with key_site() as running:
        running.put("/keys", key_set(KEY))
        yield running


@pytest.fixture
def endings(monkeypatch: pytest.MonkeyPatch) -> Endings:
    endings = Endings([])

    def end(
        _client: object, issuer: str, *, subject: str | None, sid: str | None, reason: str
    ) -> datetime:
        assert reason == "signed out at the identity provider"
        return endings.end(issuer, subject, sid)

    async def end_async(client: object, issuer: str, **given: Any) -> datetime:
        return end(client, issuer, **given)

    monkeypatch.setattr(SessionClient, "revoke_identity", end)
    monkeypatch.setattr(AsyncSessionClient, "revoke_identity", end_async)
    return endings


@contextmanager
def fastapi_door(keys: KeySite, endings: Endings) -> Iterator[Door]:
    app = FastAPI()
    provider = Provider(ISSUER, CLIENT_ID, f"{keys.address}/keys")
    Sessions(AsyncSessionClient(ADDRESS)).install(app, providers=[provider])

    @app.get("/{anything:path}")
    async def _catch_all(anything: str) -> str:
        return anything

    yield asgi_door(app, endings)


@contextmanager
def gateway_door(keys: KeySite, endings: Endings) -> Iterator[Door]:
    providers = [{"issuer": ISSUER, "client_id": CLIENT_ID, "jwks_url": f"{keys.address}/keys"}]
    settings = load_gateway_settings(None, providers=json.dumps(providers))
    parts = new_parts(settings, AsyncSessionClient(ADDRESS))
    yield asgi_door(new_application(parts, lambda: True), endings)


def asgi_door(app: Any, endings: Endings) -> Door:
    browser = TestClient(app)

    def send(method: str, path: str, body: bytes, content_type: str) -> Response:
        answer = browser.request(method, path, content=body, headers={"content-type": content_type})
        return Response(answer.status_code, answer.headers, answer.content)

    return Door(send, endings)


@contextmanager
def django_door(keys: KeySite, endings: Endings) -> Iterator[Door]:

    import_module("tests.integration.web.django_site")  # configures Django
    from django.test import Client, override_settings

    providers = [{"issuer": ISSUER, "client_id": CLIENT_ID, "jwks_url": f"{keys.address}/keys"}]
    browser = Client(enforce_csrf_checks=True)

    def send(method: str, path: str, body: bytes, content_type: str) -> Response:
        answer = browser.generic(method, path, body, content_type)
        return Response(answer.status_code, answer.headers, answer.content)

    with (
        SessionClient(ADDRESS) as client,
        override_settings(SESSION_AUTHORITY={"CLIENT": client, "PROVIDERS": providers}),
    ):
        yield Door(send, endings)


@pytest.fixture(params=[fastapi_door, gateway_door, django_door])
def door(request: pytest.FixtureRequest, keys: KeySite, endings: Endings) -> Iterator[Door]:
    with request.param(keys, endings) as opened:
        yield opened


def test_a_logout_token_ends_the_sessions_of_its_sid(door: Door) -> None:
    answer = door.logout()
    assert (answer.status, json.loads(answer.body)) == (
        200,
        {"effective_time": EFFECTIVE.isoformat()},
    )
    assert answer.headers["cache-control"] == "no-store"
    assert door.endings.calls == [(ISSUER, "ada", "there-1")]


def test_a_security_event_ends_the_sessions_of_its_user(door: Door) -> None:
    answer = door.push()
    assert (answer.status, answer.body) == (202, b"")
    assert door.endings.calls == [(ISSUER, "ada", None)]


def test_a_replay_ends_nothing(door: Door) -> None:
    assert [door.logout().status, door.logout().status] == [200, 400]
    assert [door.push().status, door.push().status] == [202, 202]
    assert len(door.endings.calls) == 2


def test_an_outage_of_the_authority_is_no_success(door: Door) -> None:
    door.endings.error = Unavailable()
    logout, push = door.logout(), door.push()
    assert (logout.status, push.status) == (400, 503)
    assert push.headers["retry-after"] == "5"
    door.endings.error = None
    assert (door.logout().status, door.push().status) == (200, 202)


def test_a_forged_token_ends_nothing(door: Door) -> None:
    thief = signing_key("second")
    body = f"logout_token={thief.sign(logout_claims(datetime.now(UTC)), kid=KEY.key_id)}".encode()
    assert door.send("POST", LOGOUT, body, FORM).status == 400
    assert door.endings.calls == []


def test_a_huge_body_is_refused(door: Door) -> None:
    for length in (BODY_LIMIT_BYTES + 1, 3 * 2**20):
        logout = door.send("POST", LOGOUT, b"logout_token=" + b"a" * length, FORM)
        push = door.send("POST", EVENTS, b"a" * length, EVENT)
        assert (logout.status, push.status) == (400, 413)
        assert b"too large" in logout.body
    assert door.endings.calls == []


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE"])
def test_only_post_is_allowed(door: Door, method: str) -> None:
    for path in (LOGOUT, EVENTS):
        answer = door.send(method, path, b"", FORM)
        assert (answer.status, answer.headers["allow"]) == (405, "POST")


def test_the_gateway_counts_signals(keys: KeySite, endings: Endings) -> None:
    before = SIGNALS.value("logout", "ended"), SIGNALS.value("event", "refused")
    with gateway_door(keys, endings) as gateway:
        gateway.logout()
        gateway.push(aud="other")
    assert SIGNALS.value("logout", "ended") == before[0] + 1
    assert SIGNALS.value("event", "refused") == before[1] + 1


def test_without_providers_nothing_is_received(endings: Endings) -> None:

    import_module("tests.integration.web.django_site")  # configures Django
    from django.test import Client, override_settings

    app = FastAPI()
    Sessions(AsyncSessionClient(ADDRESS)).install(app)
    assert asgi_door(app, endings).logout().status == 404
    parts = new_parts(load_gateway_settings(), AsyncSessionClient(ADDRESS))
    assert asgi_door(new_application(parts, lambda: True), endings).logout().status == 404
    with (
        SessionClient(ADDRESS) as client,
        override_settings(SESSION_AUTHORITY={"CLIENT": client}),
    ):
        assert Client().post(LOGOUT).status_code == 404


def test_an_app_chooses_the_path(keys: KeySite, endings: Endings) -> None:
    provider = Provider(ISSUER, CLIENT_ID, f"{keys.address}/keys")
    sessions = Sessions(AsyncSessionClient(ADDRESS))
    app = FastAPI()
    sessions.install(app, providers=[provider], backchannel="/oidc")
    token = KEY.sign(logout_claims(datetime.now(UTC)))
    sent = asgi_door(app, endings).send(
        "POST", "/oidc/logout", f"logout_token={token}".encode(), FORM
    )
    assert sent.status == 200
    with pytest.raises(ValueError, match="the path must have the form"):
        sessions.install(FastAPI(), providers=[provider], backchannel="/oidc/")


async def test_a_body_that_never_ends_is_refused_at_the_limit(
    keys: KeySite, endings: Endings
) -> None:
    settings = load_gateway_settings(
        None,
        providers=[{"issuer": ISSUER, "client_id": CLIENT_ID, "jwks_url": f"{keys.address}/keys"}],
    )
    application = new_application(new_parts(settings, AsyncSessionClient(ADDRESS)), lambda: True)
    parts = 0
    sent: list[Any] = []

    async def receive() -> Any:
        nonlocal parts
        parts += 1
        await asyncio.sleep(0)
        return {"type": "http.request", "body": b"a" * 1024, "more_body": True}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": "POST",
        "path": EVENTS,
        "raw_path": EVENTS.encode(),
        "query_string": b"",
        "headers": [(b"content-type", EVENT.encode())],
    }
    await application(scope, receive, send)
    assert sent[0]["status"] == 413
    assert parts == 17


async def test_a_provider_that_disconnects_ends_nothing(keys: KeySite, endings: Endings) -> None:
    settings = load_gateway_settings(None, providers=[{"issuer": ISSUER, "client_id": CLIENT_ID}])
    application = new_application(new_parts(settings, AsyncSessionClient(ADDRESS)), lambda: True)
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": "POST",
        "path": LOGOUT,
        "raw_path": LOGOUT.encode(),
        "query_string": b"",
        "headers": [(b"content-type", FORM.encode())],
    }
    await application(scope, receive, send)
    assert sent[0]["status"] == 400
    assert endings.calls == []


def test_a_django_site_answers_if_the_provider_disconnects(
    keys: KeySite, endings: Endings, monkeypatch: pytest.MonkeyPatch
) -> None:
    with django_door(keys, endings) as door:
        from django.http import HttpRequest, UnreadablePostError

        def read(*_: object) -> bytes:
            raise UnreadablePostError

        monkeypatch.setattr(HttpRequest, "read", read)
        assert door.logout().status == 400
    assert endings.calls == []
