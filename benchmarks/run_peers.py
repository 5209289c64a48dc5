"""Compare this project with its alternatives on the same machine.

    .venv/bin/python -m benchmarks.run_peers [--rounds N] [--seconds N] [--environment FOLDER] [--only WORD] [--at N]

The servers run on one core. Redis, PostgreSQL and the load run on the other. The subjects take turns, each with many
sessions, and every answer is checked.

"CPU" covers all processes that take part in a validation: the server and its store. For the client library and the
near cache it includes the client. It never includes the load generator.

The alternatives are installed into a temporary folder, or into FOLDER, where the next run reuses them.
"""

import argparse
import asyncio
import contextlib
import json
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import NamedTuple

import uvloop
from tests.support import postgresql

from benchmarks.support import authority, http1, rows
from benchmarks.support.engines import postgresql_cluster
from benchmarks.support.load import Result, drive
from benchmarks.support.process import LOAD_CORE, cpu_seconds_of_all, pin, started
from session_authority import AsyncSessionClient, Session
from session_authority.v1 import session_service_pb2 as pb

_CONCURRENCIES = (1, 8, 64)
_TOKENS = 1_000
_USERS = 200
_BETTER_AUTH_USERS = 100  # Each sign-in hashes a password.
_BATCH = 64
_PEERS = Path(__file__).parent / "support" / "peers"
_PYTHON_PACKAGES = (
    *("starlette", "uvicorn", "uvloop", "httptools", "redis", "hiredis", "starsessions"),
    *("django", "psycopg[binary]", "gunicorn", "pyjwt", "cryptography"),
)
_NODE_PACKAGES = ("better-auth", "pg")
_START_SECONDS = 30.0


class _Run(NamedTuple):
    rate: float
    p99_ms: float
    cpu_us: float


@dataclass
class _Subject:
    """A subject of the comparison.

    Attributes:
        name: The name in the output.
        pids: The processes whose CPU counts, apart from this one.
        ask: Calls the subject, with a number of concurrent calls and for a number of seconds.
        validations: The number of sessions that one call validates.
        counts_client: Whether the CPU of this process counts.
    """

    name: str
    pids: Sequence[int]
    ask: Callable[[int, float], Awaitable[Result]]
    validations: int = 1
    counts_client: bool = False

    async def run(self, concurrency: int, seconds: float) -> _Run:
        before, own = cpu_seconds_of_all(self.pids), time.process_time()
        result = await self.ask(concurrency, seconds)
        own = time.process_time() - own if self.counts_client else 0.0
        if result.wrong:
            raise SystemExit(f"{self.name}: {result.wrong} wrong answers")
        count = len(result.latencies) * self.validations
        used = (cpu_seconds_of_all(self.pids) - before + own) / count * 1e6
        return _Run(count / result.seconds, result.percentile_ms(99), used)


def _environment(folder: Path) -> tuple[Path, Path]:
    """Install the alternatives. Return the folder of Python programs and the folder for Node."""
    venv, node = folder / "venv", folder / "node"
    if not venv.exists():
        subprocess.run([sys.executable, "-m", "venv", venv], check=True)
        subprocess.run([venv / "bin" / "pip", "install", "-q", *_PYTHON_PACKAGES], check=True)
    if not node.exists():
        node.mkdir()
        subprocess.run(["npm", "install", "--silent", *_NODE_PACKAGES], cwd=node, check=True)
    shutil.copy(_PEERS / "better_auth.mjs", node)
    return venv / "bin", node


class _Peers:
    """Starts the alternatives. They run until the context ends."""

    def __init__(
        self, stack: contextlib.ExitStack, cluster: postgresql.Cluster, environment: Path
    ) -> None:
        self._stack = stack
        self._cluster = cluster
        self._bin, self._node = _environment(environment)
        self._redis_port = postgresql.free_port()
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        redis = ("redis-server", "--port", str(self._redis_port), "--bind", "127.0.0.1")
        self._redis = stack.enter_context(
            started((*redis, "--save", "", "--dir", folder), core=LOAD_CORE)
        ).pid

    def subjects(self) -> Iterator[_Subject]:
        uvicorn = (self._bin / "uvicorn", "--app-dir", _PEERS, "--no-access-log", "--port")
        for module, name in (
            ("starlette_redis", "Starlette + Redis GET, by hand"),
            ("starsessions_redis", "starsessions + Redis"),
        ):
            port = postgresql.free_port()
            yield self._http(name, (*uvicorn, str(port), f"{module}:app"), port, [self._redis])
        for engine in ("db", "cached_db"):
            port = postgresql.free_port()
            gunicorn = (
                self._bin / "gunicorn",
                "--chdir",
                _PEERS,
                "-k",
                "gthread",
                "--threads",
                "4",
            )
            yield self._http(
                f"Django sessions, {engine}",
                (*gunicorn, "--keep-alive", "60", "-b", f"127.0.0.1:{port}", "django_sessions:app"),
                port,
                [self._redis, self._cluster.pid],
                database=f"django_{engine}",
                SESSION_ENGINE=engine,
            )
        port = postgresql.free_port()
        yield self._http(
            "better-auth getSession",
            ("node", self._node / "better_auth.mjs"),
            port,
            [self._cluster.pid],
            database="better_auth",
            users=_BETTER_AUTH_USERS,
            PORT=str(port),
        )

    def _http(
        self,
        name: str,
        command: Sequence[str | Path],
        port: int,
        stores: Sequence[int],
        *,
        database: str = "",
        users: int = _USERS,
        **variables: str,
    ) -> _Subject:
        if database:
            self._cluster.psql(f"CREATE DATABASE {database}")
        environment = {
            "REDIS_URL": f"redis://127.0.0.1:{self._redis_port}/0",
            "POSTGRES_URL": self._cluster.url(database or "postgres"),
            **variables,
        }
        process = self._stack.enter_context(
            started(command, environment=environment, output=subprocess.DEVNULL)
        )
        names = [f"user-{number:06d}" for number in range(users)]
        _wait_for(port, name, process)
        cookies = [http1.log_in(port, each) for each in names]
        expected = [each.encode() for each in names]

        async def ask(concurrency: int, seconds: float) -> Result:
            return await http1.drive(
                port, cookies, expected, concurrency=concurrency, seconds=seconds
            )

        return _Subject(name, [process.pid, *stores], ask)

    def jwt(self, seconds: float) -> None:
        """Print the cost of verifying a JWT."""
        done = subprocess.run(
            ["taskset", "-c", "0", self._bin / "python", _PEERS / "pyjwt.py", str(seconds)],
            check=True,
            capture_output=True,
            text=True,
        )
        for name, found in json.loads(done.stdout).items():
            print(
                f"| {name} | {found['rate']:,.0f}/s, {found['p99_ms']:.2f} ms, {found['cpu_us']:.0f} us | | |"
            )


def _wait_for(port: int, name: str, process: "subprocess.Popen[str]") -> None:
    deadline = time.monotonic() + _START_SECONDS
    while True:
        try:
            http1.log_in(port, "probe")
        except (urllib.error.URLError, ConnectionError) as error:
            if time.monotonic() > deadline or process.poll() is not None:
                raise SystemExit(f"{name} did not start: {error}") from None
            time.sleep(0.1)
        else:
            return


def _ours(stack: contextlib.ExitStack, cluster: postgresql.Cluster) -> Iterator[_Subject]:
    for host in authority.HOSTS:
        cluster.psql(f"CREATE DATABASE {host}")
        known = rows.fill(cluster.url(host), 20 * _TOKENS, sample=_TOKENS)
        address, pid = stack.enter_context(authority.process(cluster.url(host), host=host))
        pids = pid, cluster.pid
        requests = [pb.ValidateSessionRequest(session_token=token) for token, _ in known]
        expected = [session_id.encode() for _, session_id in known]
        unary = partial(
            _drive,
            address,
            authority.VALIDATE,
            [each.SerializeToString() for each in requests],
            expected,
        )
        yield _Subject(f"ValidateSession, {host} host", pids, unary)
        batches = [
            pb.BatchValidateSessionsRequest(requests=requests[at : at + _BATCH]).SerializeToString()
            for at in range(0, len(requests) - _BATCH, _BATCH)
        ]
        # The first frame of the answer contains the first session of the batch.
        first = expected[: len(batches) * _BATCH : _BATCH]
        batch = partial(_drive, address, authority.BATCH, batches, first)
        yield _Subject(f"BatchValidateSessions of {_BATCH}, {host} host", pids, batch, _BATCH)
        for near_cache in (False, True):
            if host == "native":
                what = "near cache, warm" if near_cache else "AsyncSessionClient, native host"
                ask = partial(_through_client, address, known, near_cache)
                yield _Subject(what, pids, ask, counts_client=True)


async def _drive(
    address: str,
    path: str,
    messages: list[bytes],
    expected: list[bytes],
    concurrency: int,
    seconds: float,
) -> Result:
    return await drive(address, path, messages, expected, concurrency=concurrency, seconds=seconds)


async def _through_client(
    address: str,
    known: list[tuple[str, str]],
    near_cache: bool,
    concurrency: int,
    seconds: float,
) -> Result:
    """Validate through the client library. With a near cache, start once it knows all sessions."""
    latencies: list[float] = []
    wrong = 0
    async with AsyncSessionClient(address, near_cache=near_cache) as client:
        for _ in range(3 if near_cache else 0):
            await asyncio.gather(*(client.validate(token) for token, _ in known))
            await asyncio.sleep(0.2)
        began = time.perf_counter()

        async def ask(number: int) -> None:
            nonlocal wrong
            now = time.perf_counter()
            while now < began + seconds:
                for _ in range(100):
                    token, session_id = known[number % len(known)]
                    number += 1
                    session = await client.validate(token)
                    sent, now = now, time.perf_counter()
                    latencies.append(now - sent)
                    if not isinstance(session, Session) or session.session_id != session_id:
                        wrong += 1
                    if now > began + seconds:
                        break
                if near_cache:
                    await asyncio.sleep(0)
                    now = time.perf_counter()

        await asyncio.gather(
            *(ask(number * len(known) // concurrency) for number in range(concurrency))
        )
    return Result(time.perf_counter() - began, latencies, wrong)


async def _measure(
    subjects: Sequence[_Subject], concurrencies: Sequence[int], rounds: int, seconds: float
) -> None:
    cells: dict[str, list[str]] = {each.name: [] for each in subjects}
    for concurrency in concurrencies:
        runs: dict[str, list[_Run]] = {each.name: [] for each in subjects}
        for subject in subjects:
            await subject.run(concurrency, 1.0)  # Warm up.
        for _ in range(rounds):
            for subject in subjects:
                runs[subject.name].append(await subject.run(concurrency, seconds))
        for name, some in runs.items():
            rate, p99, cpu = (median(each) for each in zip(*some, strict=True))
            cells[name].append(f"{rate:,.0f}/s, {p99:.2g} ms, {cpu:.1f} us")
            print(f"{concurrency} at once, {name}: {cells[name][-1]}", flush=True)
    print("\n| | " + " | ".join(f"{each} at once" for each in concurrencies) + " |")
    print("|---" * (1 + len(concurrencies)) + "|")
    for name, found in cells.items():
        print(f"| {name} | {' | '.join(found)} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--environment", type=Path, help="folder of the alternatives' packages")
    parser.add_argument(
        "--only",
        action="append",
        help="compare only subjects whose name contains this; may be given several times",
    )
    parser.add_argument("--at", type=int, nargs="+", default=_CONCURRENCIES, help="calls at once")
    given = parser.parse_args()
    with contextlib.ExitStack() as stack:
        environment = given.environment or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        cluster = stack.enter_context(postgresql_cluster())
        peers = _Peers(stack, cluster, environment)
        subjects = [*peers.subjects(), *_ours(stack, cluster)]
        pin(0, LOAD_CORE)
        words = given.only or [""]
        chosen = [each for each in subjects if any(word in each.name for word in words)]
        uvloop.run(_measure(chosen, given.at, given.rounds, given.seconds))
        peers.jwt(given.seconds)


if __name__ == "__main__":
    main()
