"""Ten times the load that a server can carry: what becomes of those it takes on, and of the others."""

import argparse
import asyncio
import functools
import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import deque
from pathlib import Path
from typing import Any, cast

import uvloop

from benchmarks.authority import VALIDATE
from benchmarks.load import _WINDOW, PREFACE, Result, drive, frame, header_block
from session_authority import AsyncSessionClient, Unavailable
from session_authority._channel import _CONNECTIONS
from session_authority._throttle import Begun, Throttle
from session_authority.v1 import session_service_pb2 as pb

_SESSIONS = 2_000
_CLIENTS = 32
_TICK_SECONDS = 0.002
_METRICS = "127.0.0.1:50559"
_DATA, _HEADERS, _RST, _SETTINGS, _PING, _GOAWAY = 0, 1, 3, 4, 6, 7
_MAX_CONCURRENT_STREAMS = 3


class _Connection(asyncio.Protocol):
    """A connection of a client's, which sends no more than HTTP/2 lets it."""

    def __init__(self, client: "_Client") -> None:
        self._client = client
        self._stream = 1
        self._credit = 65_535
        self._streams_limit = 2**31
        self._answered: set[int] = set()
        self._buffer = b""
        self._out: list[bytes] = []
        self.open: dict[int, tuple[float, Begun | None]] = {}

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        big_window = (0x4).to_bytes(2) + (2**30).to_bytes(4)
        self._transport.write(
            PREFACE
            + frame(_SETTINGS, 0, 0, big_window)
            + frame(_WINDOW, 0, 0, (2**31 - 2**16).to_bytes(4))
        )

    @property
    def has_room(self) -> bool:
        return len(self.open) < self._streams_limit and self._credit > 1_000

    def send(self, call: tuple[float, Begun | None], headers: bytes, body: bytes) -> None:
        stream, self._stream = self._stream, self._stream + 2
        self.open[stream] = call
        self._credit -= len(body)
        self._out.append(frame(_HEADERS, 4, stream, headers))
        self._out.append(frame(_DATA, 1, stream, body))

    def flush(self) -> None:
        if self._out:
            self._transport.write(b"".join(self._out))
            self._out.clear()

    def data_received(self, data: bytes) -> None:
        buffer = self._buffer + data if self._buffer else data
        at, end, now = 0, len(buffer), time.perf_counter()
        while end - at >= 9:
            size = int.from_bytes(buffer[at : at + 3])
            if end - at < 9 + size:
                break
            kind, flags = buffer[at + 3], buffer[at + 4]
            stream = int.from_bytes(buffer[at + 5 : at + 9])
            if stream == 0:
                self._manage(kind, flags, buffer[at + 9 : at + 9 + size])
            elif kind == _DATA:
                self._answered.add(stream)
            if stream in self.open and (kind == _RST or (kind < 2 and flags & 1)):
                accepted = stream in self._answered
                self._answered.discard(stream)
                self._client.ended(self.open.pop(stream), now, accepted=accepted)
            at += 9 + size
        self._buffer = buffer[at:]
        self._client.send_waiting()

    def _manage(self, kind: int, flags: int, payload: bytes) -> None:
        if kind == _WINDOW:
            self._credit += int.from_bytes(payload)
        elif kind == _SETTINGS and not flags & 1:
            for at in range(0, len(payload), 6):
                if int.from_bytes(payload[at : at + 2]) == _MAX_CONCURRENT_STREAMS:
                    self._streams_limit = int.from_bytes(payload[at + 2 : at + 6])
            self._transport.write(frame(_SETTINGS, 1, 0, b""))
        elif kind == _PING and not flags & 1:
            self._transport.write(frame(_PING, 1, 0, payload))
        elif kind == _GOAWAY:
            raise SystemExit("the server hung up")


class _Client:
    """A client that makes calls at set times, however many are unanswered.

    Raw, it has one connection, and what that can't take is not sent, and counted. With the throttle of the client
    library, it is the library but for gRPC, which would cost more than the whole server: it has as many connections,
    and what the throttle lets through waits for its turn.
    """

    def __init__(self, authority: str, messages: list[bytes], outcomes: list[Any]) -> None:
        self._headers = header_block(VALIDATE, authority)
        self._bodies = [b"\0" + len(each).to_bytes(4) + each for each in messages]
        self._next = 0
        self._connections: list[_Connection] = []
        self._outcomes = outcomes
        self._throttle: Throttle | None = None
        self._waiting: deque[tuple[float, Begun | None]] = deque()
        self.held_back = 0
        self.refused_at_home: list[tuple[float, float]] = []

    async def open(self, address: str, *, throttled: bool) -> None:
        if throttled:
            self._throttle = Throttle(time.perf_counter)
        host, port = address.rsplit(":", 1)
        for _ in range(_CONNECTIONS if throttled else 1):
            connection = _Connection(self)
            await asyncio.get_running_loop().create_connection(
                functools.partial(_same, connection), host, int(port)
            )
            self._connections.append(connection)

    def send(self, count: int) -> None:
        for _ in range(count):
            now = time.perf_counter()
            begun = None
            if self._throttle is not None:
                try:
                    begun = self._throttle.begin(VALIDATE)
                except Unavailable:
                    self.refused_at_home.append((now, time.perf_counter() - now))
                    continue
            self._waiting.append((now, begun))
        self.send_waiting()
        if self._throttle is None:
            self.held_back += len(self._waiting)
            self._waiting.clear()

    def send_waiting(self) -> None:
        for connection in self._connections:
            while self._waiting and connection.has_room:
                body = self._bodies[self._next % len(self._bodies)]
                self._next += 1
                connection.send(self._waiting.popleft(), self._headers, body)
            connection.flush()

    def ended(self, call: tuple[float, Begun | None], now: float, *, accepted: bool) -> None:
        sent, begun = call
        self._outcomes.append((sent, now - sent, accepted))
        if self._throttle is not None and begun is not None:
            self._throttle.end(begun, answered=accepted)

    @property
    def unanswered(self) -> int:
        return len(self._waiting) + sum(len(each.open) for each in self._connections)


def _same(connection: _Connection) -> _Connection:
    return connection


async def _generate(
    address: str,
    messages: list[bytes],
    phases: list[list[float]],
    *,
    throttled: bool,
    count: int,
) -> Any:
    """Offer calls at a rate for so many seconds, then at the next.

    Gives for each phase what became of its calls: when sent, how long it took, whether accepted.
    """
    outcomes: list[Any] = []
    clients = []
    for number in range(count):
        shift = number * len(messages) // count
        client = _Client(address, messages[shift:] + messages[:shift], outcomes)
        await client.open(address, throttled=throttled)
        clients.append(client)
    await asyncio.sleep(0.2)
    results: list[dict[str, Any]] = []
    for rate, seconds in phases:
        held_back = sum(each.held_back for each in clients)
        started, offered = time.perf_counter(), 0
        while (passed := time.perf_counter() - started) < seconds:
            due = int(passed * rate) - offered
            # One call to each client in turn: a tick's worth arrives spread, as from many clients.
            for number in range(min(due, count)):
                share = due // count + (number < due % count)
                clients[(offered + number) % count].send(share)
            offered += due
            await asyncio.sleep(_TICK_SECONDS)
        results.append(
            {
                "started": started,
                "seconds": time.perf_counter() - started,
                "offered": offered,
                "held_back": sum(each.held_back for each in clients) - held_back,
            }
        )
    deadline = time.perf_counter() + 5
    while any(each.unanswered for each in clients) and time.perf_counter() < deadline:
        await asyncio.sleep(0.01)
    for result in results:
        end = result["started"] + result["seconds"]
        result["outcomes"] = [each for each in outcomes if result["started"] <= each[0] < end]
        result["refused_at_home"] = [
            took
            for each in clients
            for at, took in each.refused_at_home
            if result["started"] <= at < end
        ]
    return results


def _percentile_ms(latencies: list[float], percent: float) -> float:
    ordered = sorted(latencies)
    if not ordered:
        return float("nan")
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))] * 1e3


class _Generator:
    """A generator in a process of its own."""

    def __init__(
        self,
        address: str,
        messages: Path,
        *phases: tuple[float, float],
        throttled: bool = False,
        clients: int = _CLIENTS,
    ) -> None:
        how = json.dumps({"phases": phases, "throttled": throttled, "count": clients})
        arguments = [address, str(messages), how]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.overload", "--generate", *arguments],
            stdout=subprocess.PIPE,
        )
        if (os.cpu_count() or 1) > 1:
            os.sched_setaffinity(self._process.pid, {1})

    def result(self) -> Any:
        out, _ = self._process.communicate()
        return json.loads(out)


def _report(name: str, result: Any) -> tuple[float, float]:
    accepted = [took for _, took, good in result["outcomes"] if good]
    refused = [took for _, took, good in result["outcomes"] if not good]
    offered = result["offered"]
    p99 = _percentile_ms(accepted, 99)
    rate = len(accepted) / result["seconds"]
    at_home = result["refused_at_home"]
    if at_home:
        print(
            f"  refused at home {len(at_home) / offered:.1%}, p50 {_percentile_ms(at_home, 50) * 1e3:.0f} us, "
            f"p99 {_percentile_ms(at_home, 99) * 1e3:.0f} us"
        )
    print(
        f"{name}: offered {offered / result['seconds']:,.0f}/s; accepted {rate:,.0f}/s, "
        f"p50 {_percentile_ms(accepted, 50):.1f} ms, p99 {p99:.1f} ms; refused "
        f"{len(refused) / offered:.1%}, p50 {_percentile_ms(refused, 50):.1f} ms, p99 "
        f"{_percentile_ms(refused, 99):.1f} ms; held back by HTTP/2 {result['held_back'] / offered:.1%}",
        flush=True,
    )
    return rate, p99


def _overloaded_count(metrics: str) -> float:
    with urllib.request.urlopen(f"http://{metrics}/metrics") as answer:
        for line in answer.read().decode().splitlines():
            if line.startswith("session_authority_rpc_errors_total") and "OVERLOADED" in line:
                return float(line.rsplit(" ", 1)[1])
    return 0.0


def _by_second(result: Any) -> list[str]:
    seconds: dict[int, list[tuple[float, bool]]] = {}
    for sent, took, good in result["outcomes"]:
        seconds.setdefault(int(sent - result["started"]), []).append((took, good))
    return [
        f"{_percentile_ms([took for took, good in calls if good], 99):.0f} ms"
        f"/{sum(not good for _, good in calls)}"
        for _, calls in sorted(seconds.items())
    ]


async def _sessions(address: str) -> tuple[list[bytes], list[bytes]]:
    async with AsyncSessionClient(address) as client:
        new = [await client.create(f"user-{number}") for number in range(_SESSIONS)]
    messages = [
        pb.ValidateSessionRequest(
            session_token=each.token.reveal(), passive=True
        ).SerializeToString()
        for each in new
    ]
    return messages, [each.session.session_id.encode() for each in new]


def _measure(seconds: float, times: float, limit: int | None) -> None:
    with tempfile.TemporaryDirectory() as folder:
        settings = {
            "SESSION_AUTHORITY_METRICS_LISTEN": _METRICS,
            "SESSION_AUTHORITY_DATABASE_URL": f"sqlite:///{folder}/sessions.sqlite",
        }
        if limit is not None:
            settings["SESSION_AUTHORITY_MAX_IN_FLIGHT_CALLS"] = str(limit)
        server = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "session_authority_server.cli",
                "serve",
                "--listen",
                "127.0.0.1:0",
                "--insecure",
            ],
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | settings,
        )
        try:
            if (os.cpu_count() or 1) > 1:
                os.sched_setaffinity(server.pid, {0})
                os.sched_setaffinity(0, {1})
            assert server.stdout is not None
            address = server.stdout.readline().split(" on ")[1].split(",")[0]
            messages, ids = asyncio.run(_sessions(address))
            file = Path(folder) / "messages"
            file.write_text(json.dumps([each.hex() for each in messages]))
            _overload(address, file, messages, ids, seconds, times)
        finally:
            server.terminate()
            server.wait()


def _overload(
    address: str, file: Path, messages: list[bytes], ids: list[bytes], seconds: float, times: float
) -> None:
    async def closed(connections: int | None = None) -> Result:
        return await drive(
            address, VALIDATE, messages, ids, concurrency=64, seconds=5, connections=connections
        )

    uvloop.run(closed())  # until everything is warm
    for throttled in (False, True):
        full = uvloop.run(closed())
        spread = uvloop.run(closed(_CLIENTS))
        capacity, full_p99 = full.rate, full.percentile_ms(99)
        print(
            f"capacity: {capacity:,.0f}/s at concurrency 64, p99 {full_p99:.1f} ms, {full.wrong} wrong; "
            f"over {_CLIENTS} connections {spread.rate / capacity:.2f} of it"
        )
        half = capacity / 2
        [unloaded] = _Generator(address, file, (half, 5)).result()
        _, unloaded_p99 = _report("half of it", unloaded)
        before = _overloaded_count(_METRICS)
        phases = (times * capacity, seconds), (half, 10)
        heavy, after = _Generator(address, file, *phases, throttled=throttled).result()
        how = "throttled by the client" if throttled else "raw"
        rate, p99 = _report(f"{times:g} times it, {how}", heavy)
        refused = sum(not good for _, _, good in heavy["outcomes"])
        told = (_overloaded_count(_METRICS) - before) / max(refused, 1)
        print(f"  of the refusals {told:.1%} came with reason and RetryInfo")
        print(
            f"  accepted: {rate / capacity:.2f} of capacity; p99 {p99 / full_p99:.1f} times that at capacity, "
            f"{p99 / unloaded_p99:.1f} times that at half of it"
        )
        _report("at once afterwards, half of it", after)
        print("  p99 and refusals by second:", *_by_second(after))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--times", type=float, default=10)
    parser.add_argument("--limit", type=int, help="MAX_IN_FLIGHT_CALLS, in place of its default")
    parser.add_argument("--generate", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.generate:
        address, file, how = given.generate
        messages = [bytes.fromhex(each) for each in json.loads(Path(file).read_text())]
        result = uvloop.run(_generate(address, messages, **json.loads(how)))
        json.dump(result, sys.stdout)
    else:
        _measure(given.seconds, given.times, given.limit)


if __name__ == "__main__":
    main()
