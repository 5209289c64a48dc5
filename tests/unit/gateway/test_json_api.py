"""The JSON API without a network: errors that gRPC makes, and deadlines."""

import asyncio
import json
from collections.abc import Mapping
from typing import Any

import grpc
import pytest

from session_authority_gateway import json_api
from session_authority_gateway.json_api import JsonApi
from session_authority_server.rpc.error_table import DETAILS_KEY
from tests.support.json_gateway import SERVICE


async def test_an_authority_that_is_away_is_unavailable() -> None:
    async with grpc.aio.insecure_channel("127.0.0.1:1") as channel:
        status, headers, body = await ask(JsonApi(channel), SERVICE + "SignOut", {})
    assert (status, headers["retry-after"]) == (503, "5")
    assert json.loads(body) == {
        "code": "unavailable",
        "message": "the authority can't be reached, or is overloaded; try again",
    }


MADE_BY_GRPC = {
    grpc.StatusCode.UNAVAILABLE: (503, "unavailable"),
    grpc.StatusCode.RESOURCE_EXHAUSTED: (503, "unavailable"),
    grpc.StatusCode.CANCELLED: (503, "unavailable"),
    grpc.StatusCode.DEADLINE_EXCEEDED: (504, "deadline_exceeded"),
    grpc.StatusCode.UNIMPLEMENTED: (501, "unimplemented"),
    grpc.StatusCode.INTERNAL: (500, "internal"),
    grpc.StatusCode.UNKNOWN: (500, "internal"),
}


class FailingChannel:
    """A channel on which every call fails with an error that gRPC made, and that quotes a secret."""

    def __init__(self, code: grpc.StatusCode, *trailing: tuple[str, bytes]) -> None:
        self._error = grpc.aio.AioRpcError(
            code, grpc.aio.Metadata(), grpc.aio.Metadata(*trailing), "Bearer sak_secret"
        )

    def unary_unary(self, _path: str) -> Any:
        async def call(*_request: object, **_options: object) -> bytes:
            raise self._error

        return call


@pytest.mark.parametrize("code", MADE_BY_GRPC, ids=str)
async def test_an_error_that_grpc_made_is_not_repeated(code: grpc.StatusCode) -> None:
    channel: Any = FailingChannel(code)
    status, headers, body = await ask(JsonApi(channel), SERVICE + "SignOut", {})
    assert (status, json.loads(body)["code"]) == MADE_BY_GRPC[code]
    assert headers.get("retry-after") == ("5" if status == 503 else None)
    assert b"sak_secret" not in body


async def test_details_that_cannot_be_read_are_left_out() -> None:
    code = grpc.StatusCode.UNAUTHENTICATED
    channel: Any = FailingChannel(code, (DETAILS_KEY, b"\xff"))
    status, _, body = await ask(JsonApi(channel), SERVICE + "SignOut", {})
    assert (status, set(json.loads(body))) == (401, {"code", "message"})


class SlowChannel:
    """A channel on which a call waits until it may end."""

    def __init__(self) -> None:
        self.begun = asyncio.Semaphore(0)
        self.go_on = asyncio.Event()

    def unary_unary(self, _path: str) -> Any:
        async def call(_request: bytes, *, timeout: float, **_options: object) -> bytes:
            assert timeout > 0
            self.begun.release()
            await self.go_on.wait()
            return b""

        return call


async def test_a_call_ends_at_its_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_api, "CALLS_AT_ONCE_LIMIT", 1)
    channel: Any = SlowChannel()
    application = JsonApi(channel)
    running = asyncio.create_task(ask(application, SERVICE + "SignOut", {}))
    await channel.begun.acquire()
    # The first call has the only place, and the second one waits for it.
    soon = {"connect-timeout-ms": "20"}
    status, _, body = await ask(application, SERVICE + "SignOut", {}, soon)
    assert (status, json.loads(body)["code"]) == (504, "deadline_exceeded")
    channel.go_on.set()
    assert (await running)[0] == 200
    assert (await ask(application, SERVICE + "SignOut", {}))[0] == 200


async def ask(
    application: JsonApi, path: str, request: Any, headers: Mapping[str, str] | None = None
) -> tuple[int, dict[str, str], bytes]:
    """Make a call without a network."""
    sent: list[Any] = []
    given = {"content-type": "application/json"} | dict(headers or {})
    scope = {
        "type": "http",
        "method": "POST",
        "path": path,
        "raw_path": path.encode(),
        "headers": [(name.encode(), value.encode()) for name, value in given.items()],
        "client": None,
    }

    async def receive() -> Any:
        return {"type": "http.request", "body": json.dumps(request).encode()}

    async def send(message: Any) -> None:
        sent.append(message)

    await application(scope, receive, send)
    found = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return sent[0]["status"], found, sent[1]["body"]
