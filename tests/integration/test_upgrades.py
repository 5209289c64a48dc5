"""An upgrade under load, from the program before the newest migration: the schema first, then server by server."""

import asyncio
import contextlib
import random
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path

import psycopg
import pytest

from session_authority import AsyncSessionClient, NewSession, SessionToken
from session_authority.errors import SessionAuthorityError
from tests.integration.near_cache_history import Ending, Validation, Verdict, judge
from tests.support import postgresql
from tests.support.previous_program import previous_program, previous_revision
from tests.support.program import COMMAND, Program, running
from tests.support.soak import soaked
from tests.support.waiting import until

UPGRADES = soaked(long=10, short=1)
ENDINGS = 8  # in each phase of the upgrade
RECENT = 120  # of these sessions, one is validated next
# Long enough that near caches hold a session when it ends.
LIFE_SECONDS = 0.3


class Server:
    """A server that can be replaced by another program on the same port."""

    def __init__(self, folder: Path, database: str, running_servers: contextlib.ExitStack) -> None:
        self._folder = folder
        self._database = database
        self._running = running_servers
        self.address = f"127.0.0.1:{postgresql.free_port()}"
        self.programs: list[Program] = []

    def start(self, command: Sequence[str | Path], environment: Mapping[str, str]) -> None:
        """Start a program. Drain the present one first, as a supervisor does."""
        if self.programs:
            assert self.programs[-1].stop() == 0
        settings = {"SESSION_AUTHORITY_DATABASE_URL": self._database, **environment}
        options = ("serve", "--insecure", "--listen", self.address)
        program = self._running.enter_context(
            running(*options, cwd=self._folder, settings=settings, command=command)
        )
        assert program.address == self.address
        self.programs.append(program)


class Load:
    """Clients with and without a near cache, which validate sessions while these end.

    Attributes:
        failures: Calls that raised an error, and wrong answers.
        counts: How often each call succeeded.
    """

    def __init__(self) -> None:
        self.failures: list[str] = []
        self.counts: Counter[str] = Counter()
        self._tokens: list[SessionToken] = []
        self._ended: set[int] = set()
        self._endings: list[Ending] = []
        self._histories: dict[str, list[Validation]] = {}

    def verdict(self) -> Verdict:
        """Return which sessions were accepted after their ending."""
        return judge(self._endings, self._histories)

    async def progress(self) -> None:
        """Wait until further sessions have ended, and each client has validated since."""
        wanted = len(self._endings) + ENDINGS
        before = {name: len(history) for name, history in self._histories.items()}
        await until(
            lambda: (
                len(self._endings) >= wanted
                and all(len(self._histories[name]) > count for name, count in before.items())
            )
        )

    async def validate(self, name: str, client: AsyncSessionClient) -> None:
        """Validate recent sessions, one after another. Other tasks must not use the client."""
        history = self._histories.setdefault(name, [])
        while True:
            await asyncio.sleep(0.01)
            if not self._tokens:
                continue
            known = len(self._tokens)
            session = random.randrange(max(known - RECENT, 0), known)
            wall_time, monotonic, before = time.time(), time.monotonic(), _hits(client)
            with self._counted(name):
                accepted = bool(await client.validate(self._tokens[session]))
                hit = _hits(client) > before
                history.append(Validation(session, wall_time, monotonic, accepted, hit))
                if not accepted and session not in self._ended:
                    self.failures.append(f"{name}: session {session} is live, but was rejected")

    async def end(self, number: int, client: AsyncSessionClient) -> None:
        """Create pairs of sessions, and end the second of each pair."""
        while True:
            for way in ("revoke", "revoke_others", "sign_out"):
                user_id = f"user-{number}-{len(self._tokens)}"
                with self._counted("create"):
                    first, second = [await client.create(user_id) for _ in range(2)]
                    self._tokens += [first.token, second.token]
                    session = len(self._tokens) - 1
                await asyncio.sleep(LIFE_SECONDS)
                self._ended.add(session)
                with self._counted(way):
                    effective = await _end(client, way, first, second)
                    ending = Ending(way, session, effective.timestamp(), time.monotonic())
                    self._endings.append(ending)
                with self._counted("list"):
                    listed = [each.session_id for each in await client.list(first.token)]
                    if listed != [first.session.session_id]:
                        self.failures.append(f"after {way}, the list is wrong")

    @contextlib.contextmanager
    def _counted(self, call: str) -> Iterator[None]:
        try:
            yield
        except SessionAuthorityError as error:
            self.failures.append(f"{call}: {error!r}")
        else:
            self.counts[call] += 1


async def _end(
    client: AsyncSessionClient, way: str, first: NewSession, second: NewSession
) -> datetime:
    if way == "revoke":
        revoked = await client.revoke(first.token, second.session.session_id)
        return revoked.effective_time
    if way == "revoke_others":
        return await client.revoke_others(first.token)
    return await client.sign_out(second.token)


def _hits(client: AsyncSessionClient) -> int:
    statistics = client.near_cache_statistics
    return 0 if statistics is None else statistics.hits


@contextlib.asynccontextmanager
async def under_load(addresses: str):  # type: ignore[no-untyped-def]
    """Run the load while the context lasts."""
    load = Load()
    async with contextlib.AsyncExitStack() as stack:
        clients = {
            f"{kind} {number}": await stack.enter_async_context(
                AsyncSessionClient(addresses, near_cache=kind == "near")
            )
            for kind in ("plain", "near")
            for number in range(2)
        }
        tasks = [asyncio.create_task(load.validate(*each)) for each in clients.items()]
        ender = await stack.enter_async_context(AsyncSessionClient(addresses))
        tasks += [asyncio.create_task(load.end(number, ender)) for number in range(4)]
        try:
            yield load
        finally:
            for task in tasks:
                task.cancel()
            done = await asyncio.gather(*tasks, return_exceptions=True)
        assert {type(each) for each in done} == {asyncio.CancelledError}, done


async def upgrade_and_roll_back(folder: Path, database: str) -> tuple[Load, str]:
    """Upgrade the schema, then both servers; then roll one server back. Return the load and the logs."""
    old = await asyncio.to_thread(previous_program, folder / "previous")
    new: tuple[Sequence[str | Path], dict[str, str]] = (COMMAND,), {}

    async def migrate(program: tuple[Sequence[str | Path], dict[str, str]]) -> None:
        command, environment = program
        settings = {"SESSION_AUTHORITY_DATABASE_URL": database, **environment}

        def work() -> int:
            with running("migrate", cwd=folder, settings=settings, command=command) as migrating:
                return migrating.exit_code()

        assert await asyncio.to_thread(work) == 0

    await migrate(old)
    assert version_of(database) == previous_revision()
    with contextlib.ExitStack() as running_servers:
        servers = [Server(folder, database, running_servers) for _ in range(2)]
        await asyncio.gather(*(asyncio.to_thread(each.start, *old) for each in servers))
        async with under_load("ipv4:" + ",".join(each.address for each in servers)) as load:
            await load.progress()
            await migrate(new)
            assert version_of(database) > previous_revision()
            await load.progress()
            for server, program in ((servers[0], new), (servers[1], new), (servers[0], old)):
                await asyncio.to_thread(server.start, *program)
                await load.progress()
        for server in servers:
            assert server.programs[-1].stop() == 0
        logs = "".join(each.stderr for server in servers for each in server.programs)
    return load, logs


def version_of(database: str) -> str:
    with psycopg.connect(database) as connection:
        [(version,)] = connection.execute("SELECT version_num FROM alembic_version").fetchall()
    return str(version)


@pytest.mark.soak
async def test_an_upgrade_and_a_rollback_fail_no_call_and_accept_no_ended_session(
    tmp_path: Path,
) -> None:
    for number in range(UPGRADES):
        folder = tmp_path / str(number)
        folder.mkdir()
        with postgresql.fresh_database() as database:
            load, logs = await upgrade_and_roll_back(folder, database)
        verdict = load.verdict()
        assert load.failures == []
        assert verdict.violations == ()
        assert verdict.hits > 20  # a busy machine ends fewer sessions
        assert verdict.endings >= 5 * ENDINGS
        assert min(load.counts.values()) > 10, load.counts
        assert "Traceback" not in logs
