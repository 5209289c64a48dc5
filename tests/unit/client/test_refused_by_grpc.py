"""gRPC refuses calls to a server that is too busy to accept them."""

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from itertools import islice
from typing import Any

import grpc
import pytest

from session_authority import SessionClient, Unavailable
from tests.support.fake_authority import TOKEN, accepted

PENDING_CALLS = 4
CALLERS = 24


class Busy:
    """A server whose event loop is blocked until the test releases it."""

    def __init__(self) -> None:
        self.calls = 0
        self.address = ""
        self.go_on = threading.Event()
        self._serving = threading.Event()
        self._end = asyncio.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=[self._serve()])
        self._thread.start()
        assert self._serving.wait(10)

    async def _serve(self) -> None:
        limits = ("max_pending_requests", "max_pending_requests_hard_limit")
        server = grpc.aio.server(
            options=[(f"grpc.server.{name}", PENDING_CALLS) for name in limits]
        )
        method: Any = grpc.unary_unary_rpc_method_handler(self._validate)
        handlers = {"ValidateSession": method}
        server.add_registered_method_handlers("session_authority.v1.SessionService", handlers)
        self.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
        await server.start()
        self._loop.call_later(0.05, self._be_busy)
        await self._end.wait()
        await server.stop(None)

    def _be_busy(self) -> None:
        self._serving.set()
        self.go_on.wait(10)

    async def _validate(self, _request: bytes, _context: Any) -> bytes:
        self.calls += 1
        return accepted().SerializeToString()

    def stop(self) -> None:
        self.go_on.set()
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join()
        self._loop.close()


@pytest.fixture
def busy() -> Iterator[Busy]:
    busy = Busy()
    yield busy
    busy.stop()


def test_a_client_reports_the_overload_and_asks_again_later(busy: Busy) -> None:
    def why_not(_: int) -> str | None:
        try:
            assert client.validate(TOKEN)
        except Unavailable as error:
            return error.reason
        return None

    with (
        SessionClient(busy.address, batching=False) as client,
        ThreadPoolExecutor(CALLERS) as callers,
    ):
        asked = [callers.submit(why_not, number) for number in range(CALLERS)]
        refused = [each.result() for each in islice(as_completed(asked, 10), CALLERS // 2)]
        assert set(refused) == {"SERVER_OVERLOADED"}
        busy.go_on.set()
        answered = [each.result() for each in asked].count(None)
        assert PENDING_CALLS <= answered == busy.calls
        assert client.validate(TOKEN)
