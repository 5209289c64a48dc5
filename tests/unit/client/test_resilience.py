import asyncio
import contextlib
import inspect
import resource
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeAlias

import grpc
import pytest

from session_authority import (
    AsyncSessionClient,
    ClientClosed,
    DeadlineExceeded,
    SessionClient,
    Unavailable,
)
from session_authority.v1 import session_service_pb2 as v1
from tests.support.fake_authority import (
    TOKEN,
    FakeAuthority,
    Fault,
    RunningAuthority,
    Silence,
    ThreadedAuthority,
    accepted,
    batch_of,
    created,
    fault,
    session_message,
)
from tests.unit.client.conftest import Twin

pytestmark = pytest.mark.usefixtures("brief_retries")

DOWN = fault(grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE")


@pytest.fixture
def threaded() -> Iterator[FakeAuthority]:
    authority = ThreadedAuthority()
    yield authority.fake
    authority.stop_now()


async def test_a_creation_is_repeated_with_the_same_retry_secret(
    twin: Twin, authority: FakeAuthority
) -> None:
    authority.answers("CreateSession", DOWN, DOWN, created())

    await twin.create("ana")

    assert len(authority.requests) == 3
    assert len({request.retry_secret for request in authority.requests}) == 1


async def test_a_reauthentication_is_repeated_with_the_same_retry_secret(
    twin: Twin, authority: FakeAuthority
) -> None:
    renewed = v1.ReauthenticateSessionResponse(session=session_message(), session_token=TOKEN)
    authority.answers("ReauthenticateSession", DOWN, renewed)

    await twin.reauthenticate(TOKEN)

    assert len(authority.requests) == 2
    assert len({request.retry_secret for request in authority.requests}) == 1


async def test_an_outage_is_unavailable_after_four_attempts(
    twin: Twin, authority: FakeAuthority
) -> None:
    authority.answers("ValidateSession", DOWN)
    with pytest.raises(Unavailable, match="keep the user's cookie"):
        await twin.validate(TOKEN)
    assert len(authority.calls) == 4


async def test_a_call_that_an_overloaded_server_refused_is_repeated(
    twin: Twin, authority: FakeAuthority
) -> None:
    busy = fault(grpc.StatusCode.RESOURCE_EXHAUSTED, "SERVER_OVERLOADED")
    authority.answers("CreateSession", busy, created())

    await twin.create("ana")

    assert len(authority.requests) == 2


async def test_an_error_that_is_not_an_outage_is_not_retried(
    twin: Twin, authority: FakeAuthority
) -> None:
    authority.answers("ValidateSession", Fault(grpc.StatusCode.INTERNAL))
    with pytest.raises(Exception, match="INTERNAL"):
        await twin.validate(TOKEN)
    assert len(authority.calls) == 1


async def test_a_call_without_an_answer_ends_at_the_deadline(
    client_type: type[SessionClient | AsyncSessionClient], authority: FakeAuthority
) -> None:
    authority.answers("ValidateSession", Silence())
    twin = Twin(client_type(authority.address, deadline_seconds=0.2))

    began = time.monotonic()
    with pytest.raises(DeadlineExceeded) as caught:
        await twin.validate(TOKEN)

    assert time.monotonic() - began < 4  # the default is 5 seconds
    assert isinstance(caught.value, Unavailable)
    await twin.close()


async def test_a_stopped_server_is_reported_unavailable_quickly(
    twin: Twin, running: RunningAuthority
) -> None:
    running.fake.answers("ValidateSession", accepted())
    assert await twin.validate(TOKEN)
    await running.stop()

    with pytest.raises(Unavailable) as caught:
        await twin.validate(TOKEN)

    assert not isinstance(caught.value, DeadlineExceeded)  # the call did not wait for the deadline


async def test_nothing_connects_before_the_first_call(
    client_type: type[SessionClient | AsyncSessionClient],
) -> None:
    client = client_type("nowhere.invalid:1")
    assert client._connections == {}
    await Twin(client).close()


async def test_a_closed_client_raises_a_clear_error(twin: Twin, authority: FakeAuthority) -> None:
    authority.answers("ValidateSession", accepted())
    await twin.validate(TOKEN)
    await twin.close()
    await twin.close()
    for token in (TOKEN, None):
        with pytest.raises(ClientClosed, match="closed: create another"):
            await twin.validate(token)


def test_a_client_is_closed_at_the_end_of_its_block(threaded: FakeAuthority) -> None:
    threaded.answers("ValidateSession", accepted())
    with SessionClient(threaded.address) as client:
        assert client.validate(TOKEN)
    with pytest.raises(ClientClosed), client:
        pass


async def test_an_async_client_is_closed_at_the_end_of_its_block(threaded: FakeAuthority) -> None:
    threaded.answers("ValidateSession", accepted())
    async with AsyncSessionClient(threaded.address) as client:
        assert await client.validate(TOKEN)
    with pytest.raises(ClientClosed):
        async with client:
            pass


def test_closing_ends_the_calls_of_other_threads(threaded: FakeAuthority) -> None:
    threaded.answers("ValidateSession", Silence())
    client = SessionClient(threaded.address)
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(client.validate, TOKEN)
        while not threaded.calls:
            time.sleep(0.01)
        client.close()
        with pytest.raises(ClientClosed):
            waiting.result(5)


async def test_closing_ends_the_calls_of_other_tasks_without_cancelling_them(
    threaded: FakeAuthority,
) -> None:
    threaded.answers("ValidateSession", Silence())
    client = AsyncSessionClient(threaded.address)
    waiting = asyncio.create_task(client.validate(TOKEN))
    while not threaded.calls:
        await asyncio.sleep(0.01)
    await client.close()
    with pytest.raises(ClientClosed):
        await waiting


async def test_a_cancelled_task_stays_cancelled(threaded: FakeAuthority) -> None:
    threaded.answers("ValidateSession", Silence())
    async with AsyncSessionClient(threaded.address) as client:
        waiting = asyncio.create_task(client.validate(TOKEN))
        while not threaded.calls:
            await asyncio.sleep(0.01)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting


def test_a_connection_closed_before_its_call_began_is_a_closed_client(
    threaded: FakeAuthority,
) -> None:
    client = SessionClient(threaded.address)
    connection = client._connection()
    connection.channel.close()
    with pytest.raises(ValueError, match="closed channel"):
        client.validate(TOKEN)

    client = SessionClient(threaded.address)
    client._closed = True
    with pytest.raises(ClientClosed):
        client._connection()


async def test_an_async_connection_closed_before_its_call_began_is_a_closed_client(
    threaded: FakeAuthority,
) -> None:
    client = AsyncSessionClient(threaded.address)
    waiting = asyncio.create_task(client.validate(TOKEN))
    closing = asyncio.create_task(client.close())
    with pytest.raises(ClientClosed):
        await waiting
    await closing

    with pytest.raises(ClientClosed):
        client._connection()

    client = AsyncSessionClient(threaded.address)
    await client._connection().channel.close()
    with pytest.raises(grpc.aio.UsageError):
        await client.validate(TOKEN)


def test_threads_share_one_connection(threaded: FakeAuthority) -> None:
    threaded.answers("ValidateSession", accepted())
    threaded.answers_by("BatchValidateSessions", batch_of(lambda _: accepted()))
    together = threading.Barrier(8)

    with SessionClient(threaded.address) as client, ThreadPoolExecutor(8) as threads:

        def validate(_: int) -> bool:
            together.wait()
            return all(client.validate(TOKEN) for _ in range(20))

        assert all(threads.map(validate, range(8)))
        assert len(client._connections) == 1
    asked = sum(
        len(call.request.requests) if call.method == "BatchValidateSessions" else 1
        for call in threaded.calls
    )
    assert 20 <= asked <= 160


def test_threads_that_race_to_connect_keep_one_connection(
    threaded: FakeAuthority, monkeypatch: pytest.MonkeyPatch
) -> None:
    threaded.answers("ValidateSession", accepted())
    together = threading.Barrier(2)
    make_channel = grpc.insecure_channel

    def make_channel_together(*arguments: object) -> grpc.Channel:
        together.wait(5)
        return make_channel(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(grpc, "insecure_channel", make_channel_together)
    with SessionClient(threaded.address) as client, ThreadPoolExecutor(2) as threads:
        assert all(threads.map(client.validate, [TOKEN, TOKEN]))
        assert len(client._connections) == 1


def test_an_async_client_serves_one_event_loop_after_another(threaded: FakeAuthority) -> None:
    threaded.answers("ValidateSession", accepted())
    client = AsyncSessionClient(threaded.address)

    async def validate_and_close(close: bool) -> bool:
        valid = bool(await client.validate(TOKEN))
        assert len(client._connections) == 1
        if close:
            await client.close()
        return valid

    assert [asyncio.run(validate_and_close(close)) for close in (False, False, True)] == [True] * 3


async def test_an_async_client_serves_several_event_loops_at_a_time(
    threaded: FakeAuthority,
) -> None:
    threaded.answers("ValidateSession", accepted())
    client = AsyncSessionClient(threaded.address)
    assert await client.validate(TOKEN)

    async def validate() -> bool:
        return bool(await client.validate(TOKEN))

    assert await asyncio.to_thread(asyncio.run, validate())
    assert len(client._connections) == 2
    assert await client.validate(TOKEN)
    await client.close()


@pytest.mark.parametrize(("kind", "calls"), [("sync", 5), ("aio", 3)])
def test_every_forked_process_gets_its_own_connection(
    threaded: FakeAuthority, kind: str, calls: int
) -> None:
    threaded.answers("ValidateSession", accepted())
    ran = subprocess.run(
        [sys.executable, Path(__file__).with_name("forking.py"), kind, threaded.address, TOKEN],
        capture_output=True,
        check=False,
        text=True,
        timeout=30,
    )
    assert ran.returncode == 0, ran.stderr
    assert len(threaded.calls) == calls


SIGN_INS = 12
Ask: TypeAlias = Callable[[Any, str], Coroutine[Any, Any, Any]]


@pytest.fixture
def ask() -> Iterator[Ask]:
    """Return a function that makes many concurrent calls of a method, with either client."""
    with ThreadPoolExecutor(2 * SIGN_INS) as threads:

        async def ask(method: Any, argument: str) -> Any:
            if inspect.iscoroutinefunction(method):
                return await method(argument)
            return await asyncio.get_running_loop().run_in_executor(threads, method, argument)

        yield ask


async def test_sign_ins_that_wait_for_the_store_delay_no_validation(
    twin: Twin, authority: FakeAuthority, ask: Ask
) -> None:
    authority.answers("CreateSession", Silence())
    authority.answers("ValidateSession", accepted())
    waiting = [asyncio.create_task(ask(twin.client.create, "ana")) for _ in range(SIGN_INS)]
    async with asyncio.timeout(20):
        while len(authority.calls) < len(waiting):
            await asyncio.sleep(0.01)
        assert await ask(twin.client.validate, TOKEN)
    authority.released.set()
    await twin.close()
    await asyncio.gather(*waiting, return_exceptions=True)


_SETTINGS_AND_GOAWAY = b"\0\0\0\4\0\0\0\0\0" + b"\0\0\x08\7\0\0\0\0\0" + bytes(8)


@pytest.mark.parametrize("callers", [1, 16])
@pytest.mark.parametrize("hangs_up", [False, True])
async def test_a_server_that_rejects_every_connection_costs_no_memory_and_no_extra_time(
    client_type: type[SessionClient | AsyncSessionClient],
    ask: Ask,
    callers: int,
    hangs_up: bool,
) -> None:
    listener = socket.create_server(("127.0.0.1", 0), backlog=128)
    port = listener.getsockname()[1]
    connections: list[socket.socket] = []

    def reject_connections() -> None:
        with contextlib.suppress(OSError):  # the listener was shut down
            while True:
                connection, _ = listener.accept()
                connections.append(connection)
                with contextlib.suppress(OSError):
                    connection.sendall(_SETTINGS_AND_GOAWAY)
                if hangs_up:
                    connection.close()

    turning_away = threading.Thread(target=reject_connections, daemon=True)
    turning_away.start()
    client: Any = client_type(f"127.0.0.1:{port}", deadline_seconds=4)
    before = _resident_mib()
    calls = [ask(client.validate, TOKEN) for _ in range(callers)]
    for failure in await asyncio.gather(*calls, return_exceptions=True):
        assert isinstance(failure, Unavailable)
        assert not isinstance(failure, DeadlineExceeded)
    assert _resident_mib() - before < 50
    await Twin(client).close()
    listener.shutdown(socket.SHUT_RDWR)
    turning_away.join()
    for each in (listener, *connections):
        each.close()


def _resident_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20
