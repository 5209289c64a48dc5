"""Measure what 100 events a second cost 64 concurrent validations.

    .venv/bin/python -m benchmarks.run_events [--engine sqlite|postgresql] [--rounds N] [--events N]

Two servers answer the same load in turn: 64 concurrent validations, and sign-ins at a fixed rate. One of them has a
receiver that wants an event of each sign-in. A worker on the other core delivers the events to this process. The run
fails if one does not arrive. The CPU time of the servers for each validation is compared, because the load and the
worker share a core.
"""

import argparse
import asyncio
import contextlib
import os
import secrets
import subprocess
import sys
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from statistics import median

import uvloop

from benchmarks.support import authority, engines, rows
from benchmarks.support.load import Result, drive
from benchmarks.support.process import LOAD_CORE, cpu_seconds, started
from session_authority import AsyncSessionClient
from session_authority.v1 import session_service_pb2 as pb

_CALLS = 64
_SESSIONS = 5_000
_START_SECONDS = 12  # longer than a new receiver waits for its first event
_ARRIVAL_SECONDS = 60
_COMMAND = Path(sys.executable).parent / "session-authority"

Known = tuple[str, str]
Served = tuple[str, int, list[Known]]  # the address, the process id and the sessions


class Receiver:
    """An HTTP server that counts the events it receives."""

    def __init__(self) -> None:
        self.count = 0

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the requests of a connection with 204."""
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                length = head.partition(b"content-length:")[2].partition(b"\r\n")[0]
                await reader.readexactly(int(length))
                self.count += 1
                writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")
        writer.close()


@contextlib.asynccontextmanager
async def receiving() -> AsyncIterator[tuple[Receiver, str]]:
    """Run a receiver. Yield it and its URL."""
    receiver = Receiver()
    async with await asyncio.start_server(receiver.answer, "127.0.0.1", 0) as server:
        host, port = server.sockets[0].getsockname()
        yield receiver, f"http://{host}:{port}/events"


async def _sign_in(address: str, rate: int, seconds: float) -> int:
    """Sign in at a fixed rate. Return how many sign-ins succeeded."""
    loop = asyncio.get_running_loop()
    began, calls = loop.time(), []
    async with AsyncSessionClient(address) as client:
        for number in range(int(rate * seconds)):
            await asyncio.sleep(max(0, began + number / rate - loop.time()))
            calls.append(asyncio.create_task(client.create(f"new-{number % 1_000}")))
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
    return sum(not isinstance(each, BaseException) for each in outcomes)


async def _run(address: str, known: list[Known], rate: int, seconds: float) -> tuple[Result, int]:
    messages = [
        pb.ValidateSessionRequest(session_token=token).SerializeToString() for token, _ in known
    ]
    expected = [session_id.encode() for _, session_id in known]
    validating = drive(
        address, authority.VALIDATE, messages, expected, concurrency=_CALLS, seconds=seconds
    )
    result, count = await asyncio.gather(validating, _sign_in(address, rate, seconds))
    if result.wrong:
        raise SystemExit(f"{result.wrong} wrong answers")
    return result, count


async def _compare(
    plain: Served, reporting: Served, worker: int, receiver: Receiver, given: argparse.Namespace
) -> str:
    await asyncio.sleep(_START_SECONDS)
    ratios, asked, done, sent = [], 0, 0, 0
    used = cpu_seconds(worker)
    for _ in range(given.rounds):
        costs = []
        for address, server, known in (plain, reporting):
            before = cpu_seconds(server)
            result, count = await _run(address, known, given.events, given.seconds)
            costs.append((cpu_seconds(server) - before) / len(result.latencies))
            asked += int(given.events * given.seconds)
            done += count
        sent += count
        ratios.append(costs[1] / costs[0])
    deadline = asyncio.get_running_loop().time() + _ARRIVAL_SECONDS
    while receiver.count < sent and asyncio.get_running_loop().time() < deadline:
        await asyncio.sleep(0.1)
    if receiver.count < sent:
        raise SystemExit(f"only {receiver.count} of {sent} events arrived")
    used = cpu_seconds(worker) - used
    return (
        f"{_CALLS} validations beside {given.events} sign-ins a second: CPU of a validation with events, compared to "
        f"without: {median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}); the worker used "
        f"{used / receiver.count * 1e3:.1f} ms for each of {receiver.count} events; {asked - done} of {asked} sign-ins "
        "failed"
    )


async def _measure(
    given: argparse.Namespace, plain: str, reporting: str, known: list[list[Known]]
) -> None:
    async with receiving() as (receiver, url):
        with contextlib.ExitStack() as stack:
            serve = partial(authority.process, host=given.host)
            one = stack.enter_context(serve(plain))
            other = stack.enter_context(serve(reporting))
            where = {
                "SESSION_AUTHORITY_DATABASE_URL": reporting,
                "SESSION_AUTHORITY_EVENT_KEY": secrets.token_hex(32),
            }
            add = (_COMMAND, "receivers", "add", "all", url, "--event", "session-established")
            subprocess.run(add, check=True, capture_output=True, env=os.environ | where)
            worker = stack.enter_context(
                started((_COMMAND, "worker"), core=LOAD_CORE, environment=where)
            )
            print(await _compare((*one, known[0]), (*other, known[1]), worker.pid, receiver, given))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    engines.add_engine(parser)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--events", type=int, default=100, help="sign-ins a second")
    parser.add_argument("--host", choices=authority.HOSTS, default="native")
    given = parser.parse_args()
    with engines.fresh(given.engine, "plain", "reporting") as (plain, reporting):
        known = [rows.fill(each, _SESSIONS, sample=_SESSIONS) for each in (plain, reporting)]
        uvloop.run(_measure(given, plain, reporting, known))


if __name__ == "__main__":
    main()
