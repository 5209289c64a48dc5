"""Measure validations beside 1,000 streams and 100 revocations a second, and the delay of a stream.

    .venv/bin/python -m benchmarks.run_watch [--engine sqlite|postgresql] [--streams N] [--endings N] [--rounds N]

Prints the rate of ValidateSession with the streams as a ratio to the rate without them, at concurrency 64. Also prints
the time from the answer of SignOut until a stream receives the eviction, with 100 streams and no other load.
"""

import argparse
import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterator
from functools import partial
from statistics import median
from typing import cast

import grpc
import uvloop

from benchmarks.support import authority, rows
from benchmarks.support.engines import add_engine, fresh
from benchmarks.support.http2 import END_STREAM, frame, header_block, opening
from benchmarks.support.load import CALLS_OF_A_CONNECTION, drive
from session_authority.v1 import session_service_pb2 as pb
from session_authority.v1 import session_watch_service_pb2 as watch_pb
from session_authority.v1.session_service_pb2_grpc import SessionServiceStub

_WATCH = "/session_authority.v1.SessionWatchService/WatchSessions"
_PING_SECONDS = 1.0  # Like the client.
_SECONDS = 4.0
_DATA, _SETTINGS, _PING, _ACK = 0, 4, 6, 1

Token = tuple[str, str]


class _Watchers(asyncio.Protocol):
    """A connection with several streams. Each stream pings, and records when it receives which eviction."""

    def __init__(self, authority_name: str, streams: int, heard: dict[str, list[float]]) -> None:
        self._headers = header_block(_WATCH, authority_name, timeout=False)
        self._streams = streams
        self._heard = heard
        self._buffer = b""
        self.pongs = 0
        self.ended = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._transport.write(opening())
        self._transport.write(
            b"".join(
                frame(1, 0x4, 2 * number + 1, self._headers) for number in range(self._streams)
            )
        )
        self.ping(1)

    def ping(self, ping_id: int) -> None:
        ping = watch_pb.WatchSessionsRequest(ping=watch_pb.Ping(ping_id=ping_id))
        message = ping.SerializeToString()
        payload = b"\0" + len(message).to_bytes(4) + message
        self._transport.write(
            b"".join(frame(_DATA, 0, 2 * number + 1, payload) for number in range(self._streams))
        )

    def data_received(self, data: bytes) -> None:
        now = time.perf_counter()
        buffer = self._buffer + data
        at, out = 0, []
        while len(buffer) - at >= 9:
            size = int.from_bytes(buffer[at : at + 3])
            if len(buffer) - at < 9 + size:
                break
            kind, flags = buffer[at + 3], buffer[at + 4]
            payload = buffer[at + 9 : at + 9 + size]
            if kind == _DATA and size > 5:
                self._take(payload[5:], now)
            elif kind == _SETTINGS and not flags & _ACK:
                out.append(frame(_SETTINGS, _ACK, 0, b""))
            elif kind == _PING and not flags & _ACK:
                out.append(frame(_PING, _ACK, 0, payload))
            elif kind in {1, 3} and flags & END_STREAM:
                self.ended += 1
            at += 9 + size
        self._buffer = buffer[at:]
        if out:
            self._transport.write(b"".join(out))

    def _take(self, message: bytes, now: float) -> None:
        if message[0] == 0x12:  # A pong.
            self.pongs += 1
        elif self._heard:
            response = watch_pb.WatchSessionsResponse.FromString(message)
            for session_id in response.evict.session_ids:
                if session_id in self._heard:
                    self._heard[session_id].append(now)


def _same(watchers: _Watchers) -> _Watchers:
    return watchers


@contextlib.asynccontextmanager
async def _watching(
    address: str, streams: int, heard: dict[str, list[float]]
) -> AsyncIterator[None]:
    loop = asyncio.get_running_loop()
    host, port = address.rsplit(":", 1)
    opened = []
    for start in range(0, streams, CALLS_OF_A_CONNECTION):
        count = min(CALLS_OF_A_CONNECTION, streams - start)
        watchers = _Watchers(address, count, heard)
        transport, _ = await loop.create_connection(partial(_same, watchers), host, int(port))
        opened.append((watchers, transport))
        while watchers.pongs < count:  # Wait until every stream is established.
            await asyncio.sleep(0.01)

    async def ping() -> None:
        ping_id = 1
        while True:
            ping_id += 1
            for watchers, _ in opened:
                watchers.ping(ping_id)
                await asyncio.sleep(_PING_SECONDS / len(opened))

    pinging = asyncio.create_task(ping())
    await asyncio.sleep(1)
    before = sum(watchers.pongs for watchers, _ in opened)
    started = time.perf_counter()
    try:
        yield
    finally:
        took = time.perf_counter() - started
        pinging.cancel()
        pongs = sum(watchers.pongs for watchers, _ in opened) - before
        print(f"  {streams} streams had {pongs / took / streams:.1f} pongs/s each")
        if any(watchers.ended for watchers, _ in opened) or not pongs:
            raise SystemExit("a stream ended, or had no pongs")
        for _, transport in opened:
            transport.close()
        await asyncio.sleep(0.5)


async def _end(
    address: str, tokens: Iterator[Token], rate: float, answered: dict[str, float]
) -> None:
    """End sessions at a rate until cancelled."""
    async with grpc.aio.insecure_channel(address) as channel:
        stub = SessionServiceStub(channel)
        running: set[asyncio.Task[None]] = set()

        async def end(token: str, session_id: str) -> None:
            try:
                await stub.SignOut(pb.SignOutRequest(session_token=token))
            except grpc.aio.AioRpcError as error:
                print(f"  an ending failed: {error.details()}")
                return
            answered[session_id] = time.perf_counter()

        started = time.perf_counter()
        try:
            for number, (token, session_id) in enumerate(tokens):
                await asyncio.sleep(max(0, started + number / rate - time.perf_counter()))
                task = asyncio.create_task(end(token, session_id))
                running.add(task)
                task.add_done_callback(running.discard)
        finally:
            await asyncio.gather(*running)


@contextlib.asynccontextmanager
async def _ending(
    address: str, tokens: Iterator[Token], rate: float
) -> AsyncIterator[dict[str, float]]:
    answered: dict[str, float] = {}
    task = asyncio.create_task(_end(address, tokens, rate, answered))
    try:
        yield answered
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def _throughput(
    address: str, pid: int, live: list[Token], ended: Iterator[Token], arguments: argparse.Namespace
) -> None:
    messages = [
        pb.ValidateSessionRequest(session_token=token).SerializeToString() for token, _ in live
    ]
    ids = [session_id.encode() for _, session_id in live]

    async def run(name: str) -> float:
        before = authority.cpu_seconds(pid)
        result = await drive(
            address, authority.VALIDATE, messages, ids, concurrency=64, seconds=_SECONDS
        )
        if result.wrong:
            raise SystemExit(f"{result.wrong} wrong answers")
        cpu = (authority.cpu_seconds(pid) - before) / result.seconds
        print(
            f"{name}: {result.rate:6.0f}/s p99 {result.percentile_ms(99):.1f} ms, CPU {cpu:.2f}",
            flush=True,
        )
        return result.rate

    await run("warm")
    against_endings, against_nothing = [], []
    for _ in range(arguments.rounds):
        nothing = await run("neither")
        async with _ending(address, ended, arguments.endings):
            endings = await run(f"{arguments.endings} endings/s")
        async with (
            _watching(address, arguments.streams, {}),
            _ending(address, ended, arguments.endings) as answered,
        ):
            both = await run(f"{arguments.endings} endings/s and {arguments.streams} streams")
        print(f"  {len(answered) / _SECONDS:.0f} endings/s were answered")
        against_endings.append(both / endings)
        against_nothing.append(both / nothing)
    print(
        f"ratio to the same endings without streams {median(against_endings):.2f}, "
        f"to neither {median(against_nothing):.2f} (medians of {arguments.rounds})"
    )


async def _delay(address: str, ended: Iterator[Token], streams: int, number: int) -> None:
    some = [next(ended) for _ in range(number)]
    heard: dict[str, list[float]] = {session_id: [] for _, session_id in some}
    async with _watching(address, streams, heard), _ending(address, iter(some), 23) as answered:
        await asyncio.sleep(number / 23 + 1)
    late = sorted(
        (each - answered[session_id]) * 1e3 for session_id, times in heard.items() for each in times
    )
    if len(late) != streams * number:
        raise SystemExit(f"{streams * number - len(late)} evictions are missing")
    print(
        f"after the answer, {streams} streams had the eviction within: median {median(late):.1f} ms, "
        f"p99 {late[int(len(late) * 0.99)]:.1f} ms, worst {late[-1]:.1f} ms"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--streams", type=int, default=1_000)
    parser.add_argument("--endings", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    add_engine(parser)
    arguments = parser.parse_args()
    with fresh(arguments.engine, "sessions") as (database,):
        sample = rows.fill(database, 50_000, sample=20_000)
        live, ended = sample[:5_000], iter(sample[5_000:])
        with authority.process(database) as (address, pid):
            uvloop.run(_delay(address, ended, 100, 100))
            uvloop.run(_throughput(address, pid, live, ended, arguments))


if __name__ == "__main__":
    main()
