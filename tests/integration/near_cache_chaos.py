"""Fault injection for near caches: two servers on one PostgreSQL, and clients whose links and processes fail.

Each round creates sessions, caches them, and ends them in every possible way at either server. Meanwhile processes
freeze, links are slow, stuck or cut, and servers and connections die. Afterwards `near_cache_history` checks which
sessions the clients accepted.

.venv/bin/python -m tests.integration.near_cache_chaos [rounds] [seed]
"""

import asyncio
import contextlib
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc

from session_authority import SessionClient
from session_authority.v1.session_admin_service_pb2_grpc import SessionAdminServiceStub
from session_authority_server.domain.api_key import Permission
from session_authority_server.domain.clock import SystemClock
from session_authority_server.store.database import Database
from session_authority_server.store.keys import SqlKeyStore
from session_authority_server.store.schema import migrate
from session_authority_server.usecases.api_keys import ApiKeys
from tests.integration.near_cache_history import Verdict, judge
from tests.integration.near_cache_scene import SESSION_LIMIT, Scene
from tests.integration.near_cache_validator import Validator, validator
from tests.support import postgresql
from tests.support.postgresql import Cluster
from tests.support.program import Program, serving
from tests.support.unruly_link import Links, unruly_links

# Sizes of the caches. One holds all sessions. The other is too small, so that requests are always in flight.
ROOMY, CRAMPED = 100, 6
ENDINGS_WITHIN_SECONDS = 1.2
# Time to keep validating after the last effective_time. A violation appears during the faults or just after them.
AFTERWARDS_SECONDS = 0.3
_READY_SECONDS = 3.0
_PATIENCE_SECONDS = 60.0
_LISTENERS = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'LISTEN %'"


@dataclass(frozen=True)
class Keys:
    """The API keys of the callers, and the id of the key whose sessions RevokeKeySessions ends."""

    app: str
    batch: str
    batch_id: str
    operator: str


class Server:
    """A server process that can restart on its port, and its links to the database."""

    def __init__(self, folder: Path, links: Links, number: int) -> None:
        self._folder = folder
        self._links = links
        self._ways = (2 * number, 2 * number + 1)
        self.port = postgresql.free_port()
        self._running = contextlib.ExitStack()
        self.program: Program

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def transactions(self) -> int:
        """The link for transactions and probes."""
        return self._ways[0]

    @property
    def notifications(self) -> int:
        """The link that notifications arrive on."""
        return self._ways[1]

    def start(self) -> None:
        urls = [
            f"postgresql://postgres@127.0.0.1:{self._links.ports[way]}/postgres"
            for way in self._ways
        ]
        given = ("--listen", self.address, "--no-worker")
        settings = {
            "SESSION_AUTHORITY_DATABASE_URL": urls[0],
            "SESSION_AUTHORITY_WATCH_DATABASE_URL": urls[1],
            "SESSION_AUTHORITY_SESSION_LIMIT": str(SESSION_LIMIT),
            "SESSION_AUTHORITY_DRAIN_SECONDS": "0.5",
            "SESSION_AUTHORITY_LOG_LEVEL": "error",
        }
        self.program = self._running.enter_context(
            serving(self._folder, *given, settings=settings, asking_for_keys=True)
        )

    def stop(self, *, kills: bool = False) -> None:
        if kills:
            self.program.kill()
        self._running.close()


@dataclass
class World:
    """Servers, clients, links and database of a run.

    Attributes:
        chance: Source of the random choices.
        cluster: The database.
        servers: Both servers.
        database_ways: The links from the servers to the database.
        validators: The clients' processes.
        ways: The link from each client process to its server.
        endpoints: Direct clients of both servers, for sign-ins and endings.
        operators: Direct clients with the operator key.
        keys: The API keys of the callers.
        counts: Number of occurrences of each event.
    """

    chance: random.Random
    cluster: Cluster
    servers: Sequence[Server]
    database_ways: Links
    validators: Sequence[Validator]
    ways: Sequence[Links]
    endpoints: Sequence[SessionClient]
    batch: SessionClient
    operators: Sequence[Any]
    keys: Keys
    counts: dict[str, int] = field(default_factory=dict)

    def round(self) -> Verdict:
        """Run one round, and check its history."""
        batch = self.batch, self.keys.batch_id
        scene = Scene(self.chance, self.endpoints, self.operators, batch)
        tokens = [new.token.reveal() for new in scene.sessions]
        for each in self.validators:
            each.watch(tokens)
        self._wait_for_hits()
        with ThreadPoolExecutor(16) as pool:
            mishaps = [
                pool.submit(_after, self.chance.uniform(0, 1), happens)
                for happens in self._inject_fault()
            ]
            at = [self.chance.uniform(0, ENDINGS_WITHIN_SECONDS) for _ in scene.endings]
            ends = [
                pool.submit(_after, seconds, end)
                for seconds, end in zip(at, scene.endings, strict=True)
            ]
            endings = [ending for end in ends for ending in end.result()]
            if self.chance.random() < 0.3:
                endings += scene.end_all(self.chance.choice(self.operators))
            for mishap in mishaps:
                mishap.result()
        last = max(ending.effective for ending in endings)
        time.sleep(max(last - time.time(), 0) + AFTERWARDS_SECONDS)
        histories = {each.name: each.history() for each in self.validators}
        return judge(endings, histories)

    def _wait_for_hits(self) -> None:
        # Usually all clients have hits. After some faults a stream reconnects seconds later, perhaps in the next round.
        began = time.monotonic()
        while (waited := time.monotonic() - began) < _PATIENCE_SECONDS:
            ready = sum(each.hits() for each in self.validators)
            if ready == len(self.validators) or (ready and waited > _READY_SECONDS):
                break
            time.sleep(0.05)

    def _inject_fault(self) -> list[Callable[[], None]]:
        """Choose a fault and its duration."""
        named: dict[str, Callable[[float], Callable[[], None]]] = {
            "client stands still": self._freeze_client,
            "server stands still": self._freeze_server,
            "proxy stands still": self._freeze_proxy,
            "database stands still": self._freeze_database,
            "way is slow": self._slow_link,
            "way is slow, back": self._slow_answers,
            "way is stuck": self._stuck_link,
            "way is cut": self._cut_link,
            "transactions are slow": self._slow_transactions,
            "changes come late": self._slow_notifications,
            "listeners die": self._kill_listeners,
            "server dies": self._restart_server,
        }
        chosen = self.chance.choices(list(named), k=self.chance.randint(1, 3))
        if chosen.count("server dies") > 1:
            chosen = ["server dies"]
        for name in chosen:
            self.counts[name] = self.counts.get(name, 0) + 1
        return [named[name](self.chance.uniform(0.2, 3)) for name in chosen]

    def _freeze_client(self, seconds: float) -> Callable[[], None]:
        return _standstill(self.chance.choice(self.validators).pid, seconds)

    def _freeze_server(self, seconds: float) -> Callable[[], None]:
        return _standstill(self.chance.choice(self.servers).program.process.pid, seconds)

    def _freeze_proxy(self, seconds: float) -> Callable[[], None]:
        return _standstill(self.chance.choice([*self.ways, self.database_ways]).pid, seconds)

    def _freeze_database(self, seconds: float) -> Callable[[], None]:
        def freeze() -> None:
            with self.cluster.frozen():
                time.sleep(seconds)

        return freeze

    def _slow_link(self, seconds: float) -> Callable[[], None]:
        there, back = (self.chance.choice([0, 0.03, 0.3, 1.0, 1.9]) for _ in range(2))
        way = self.chance.choice(self.ways)
        return _while(seconds, lambda: way.delay(0, there, back), lambda: way.heal(0))

    def _slow_answers(self, seconds: float) -> Callable[[], None]:
        way, back = self.chance.choice(self.ways), self.chance.uniform(2.2, 2.8)
        return _while(back + 2, lambda: way.delay(0, 0.0, back), lambda: way.heal(0))

    def _stuck_link(self, seconds: float) -> Callable[[], None]:
        way = self.chance.choice(self.ways)
        there, back = self.chance.choice([(True, False), (False, True), (True, True)])
        return _while(seconds, lambda: way.hold(0, there, back), lambda: way.heal(0))

    def _cut_link(self, seconds: float) -> Callable[[], None]:
        way, refuses = self.chance.choice(self.ways), self.chance.random() < 0.5
        return _while(seconds / 2, lambda: way.cut(0, refuses), lambda: way.heal(0))

    def _slow_transactions(self, seconds: float) -> Callable[[], None]:
        way, back = self.chance.choice(self.servers).transactions, self.chance.uniform(0.05, 0.6)
        links = self.database_ways
        return _while(seconds, lambda: links.delay(way, 0.0, back), lambda: links.heal(way))

    def _slow_notifications(self, seconds: float) -> Callable[[], None]:
        way, back = self.chance.choice(self.servers).notifications, self.chance.uniform(0.1, 3.5)
        links = self.database_ways
        return _while(3.5, lambda: links.delay(way, 0.0, back), lambda: links.heal(way))

    def _kill_listeners(self, seconds: float) -> Callable[[], None]:
        return lambda: _ignore(self.cluster.psql(_LISTENERS))

    def _restart_server(self, seconds: float) -> Callable[[], None]:
        server, kills = self.chance.choice(self.servers), self.chance.random() < 0.7

        def restart() -> None:
            server.stop(kills=kills)
            time.sleep(seconds / 4)
            server.start()

        return restart


def _after(seconds: float, do: Callable[[], Any]) -> Any:
    time.sleep(seconds)
    return do()


def _while(
    seconds: float, begin: Callable[[], None], end: Callable[[], None]
) -> Callable[[], None]:
    def last() -> None:
        begin()
        try:
            time.sleep(seconds)
        finally:
            end()

    return last


def _standstill(pid: int, seconds: float) -> Callable[[], None]:
    return _while(
        seconds, lambda: _signal(pid, signal.SIGSTOP), lambda: _signal(pid, signal.SIGCONT)
    )


def _signal(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):  # the server has already ended
        os.kill(pid, number)


def _ignore(_: object) -> None:
    """Discard a value."""


@contextlib.contextmanager
def world(seed: int, folder: Path) -> Iterator[World]:
    """Start a world. The seed determines its steps, but not the timing of its processes."""
    with contextlib.ExitStack() as stack:
        enter = stack.enter_context
        cluster = enter(postgresql.cluster())
        keys = asyncio.run(_prepare(cluster.url()))
        database_ways = enter(unruly_links(*(cluster.port,) * 4))
        servers = []
        for number in range(2):
            place = folder / str(number)
            place.mkdir()
            servers.append(server := Server(place, database_ways, number))
            stack.callback(server.stop)
            server.start()
        ways, validators = [], []
        for number, (aio, room) in enumerate(
            ((False, ROOMY), (True, ROOMY), (False, CRAMPED), (True, CRAMPED))
        ):
            way = enter(unruly_links(servers[number % 2 if number < 2 else 1 - number % 2].port))
            name = f"{'async' if aio else 'sync'}, {room} sessions"
            address = f"127.0.0.1:{way.ports[0]}"
            ways.append(way)
            validators.append(enter(validator(name, address, keys.app, aio=aio, max_sessions=room)))
        endpoints = [
            enter(SessionClient(each.address, api_key=keys.app, deadline_seconds=3))
            for each in servers
        ]
        yield World(
            random.Random(seed),
            cluster,
            servers,
            database_ways,
            validators,
            ways,
            endpoints,
            enter(SessionClient(servers[0].address, api_key=keys.batch, deadline_seconds=3)),
            [_Operator(enter(grpc.insecure_channel(each.address)), keys) for each in servers],
            keys,
        )


class _Operator:
    """Return an operator's stub that sends the key."""

    def __init__(self, channel: grpc.Channel, keys: Keys) -> None:
        self._stub: Any = SessionAdminServiceStub(channel)
        self._metadata = (("authorization", f"Bearer {keys.operator}"),)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def call(request: Any, timeout: float) -> Any:
            return getattr(self._stub, name)(request, timeout=timeout, metadata=self._metadata)

        return call


async def _prepare(url: str) -> Keys:
    database = Database.postgresql(url)
    try:
        await migrate(database)
        keys = ApiKeys(SqlKeyStore(database), SystemClock())
        app = {Permission.CREATE, Permission.VALIDATE, Permission.WATCH, Permission.MANAGE}
        _, app_key = await keys.create("app", frozenset(app))
        batch, batch_key = await keys.create("batch", frozenset({Permission.CREATE}))
        _, operator_key = await keys.create("operator", frozenset({Permission.TERMINATE}))
        return Keys(app_key, batch_key, str(batch.key_id), operator_key)
    finally:
        await database.close()


def main() -> None:
    """Run rounds until one fails, and print the results."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else 1
    # This also ends its processes.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(number))
    total, began = Verdict(), time.monotonic()
    with tempfile.TemporaryDirectory() as folder, world(seed, Path(folder)) as made:
        for number in range(1, rounds + 1):
            total += made.round()
            if total.violations or number % 5 == 0 or number == rounds:
                seconds = time.monotonic() - began
                _print(f"{number} rounds of seed {seed} in {seconds:.0f} s: {_summary(total)}")
            if total.violations:
                break
        _print(f"mishaps: {made.counts}")
    for violation in total.violations[:20]:
        _print(violation)
    sys.exit(bool(total.violations))


def _summary(verdict: Verdict) -> str:
    return (
        f"{verdict.validations} validations, {verdict.accepted} accepted, {verdict.hits} of them from memory, "
        f"{verdict.late_hits} of those after an ending was answered; {verdict.endings} endings, "
        f"{len(verdict.violations)} violations"
    )


def _print(line: str) -> None:
    print(line, flush=True)  # noqa: T201 - for the person at the shell


if __name__ == "__main__":
    main()
