"""Two servers and two workers on one PostgreSQL, everything at once: one truth explains every answer.

One of the servers reaches the database on a way that is slow now and then, so that a statement of its own
can be old news by the time that it is answered, and others come between the statements of a transaction.

SESSION_AUTHORITY_RACE_SEED makes another one of it.
"""

import asyncio
import contextlib
import os
import random
import re
import time
from collections import defaultdict
from collections.abc import Awaitable, Coroutine, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TypeAlias

import grpc
import psycopg
import pytest

from session_authority import (
    AsyncSessionClient,
    AuthenticationTooOld,
    Rejection,
    Session,
    SessionAuthorityError,
    SessionNotLive,
    SessionToken,
    Unavailable,
    ValidationRequest,
)
from session_authority._channel import channel_options
from session_authority._error_details import error_of
from session_authority._settings import Settings
from session_authority.v1 import session_admin_service_pb2 as pb
from session_authority.v1 import session_admin_service_pb2_grpc
from session_authority_server.domain.clock import SystemClock
from session_authority_server.store.database import Database
from session_authority_server.store.schema import migrate
from session_authority_server.store.sql_store import SqlSessionStore
from session_authority_workers.pace import Pace
from tests.integration.race_history import (
    ANSWERS,
    NOT_LIVE,
    OK,
    UNKNOWN,
    Call,
    Change,
    Count,
    History,
    violations,
)
from tests.support import audit, postgresql
from tests.support.postgresql import Cluster
from tests.support.program import Program, run, running
from tests.support.slow_link import slow_link
from tests.support.soak import soaked

Admin: TypeAlias = "session_admin_service_pb2_grpc.SessionAdminServiceAsyncStub"

SECONDS = soaked(long=120.0, short=2.0)
PATIENCE_SECONDS = 60.0  # for everything to happen on a busy machine
SEED = int(os.environ.get("SESSION_AUTHORITY_RACE_SEED", "1"))
ROUND_SECONDS = 2.0
HASTY = ("ann", "bob", "cyd", "dan")
STEADY = ("eve", "fay", "gil", "hal")  # whose sessions live long enough to be used twice
USERS = (*HASTY, *STEADY)
LONER = "ivy"  # whose calls meet no others
RACERS_A_USER = 3
LIMIT = 4
REPORT_SECONDS = 5
SHORT_SECONDS = 1.0
RESOLUTION_SECONDS = 1
RECENT = 6
WATCHERS = 4
CONTEST_SECONDS = 0.08
CROWD_SIZE = 3_000
KINDS = {
    "create": 18,
    "validate": 34,
    "batch": 8,
    "revoke": 10,
    "revoke_others": 6,
    "revoke_user": 2,
    "sign_out": 6,
    "reauthenticate": 8,
    "contest": 8,
    "duel": 4,
}
STEADY_KINDS = KINDS | {
    "create": 6,
    "validate": 60,
    "revoke": 6,
    "revoke_others": 4,
    "revoke_user": 1,
    "sign_out": 4,
    "reauthenticate": 4,
    "contest": 6,
    "duel": 4,
}
# The worker is to meet live sessions too, of which it has to find that they live: right after those that it
# looked at last, and early enough before they expire for it not to have found that already.
NUDGE = (
    "UPDATE sessions SET check_time = expired_until + interval '1 microsecond' FROM upkeep "
    "WHERE session_id IN (SELECT session_id FROM sessions WHERE end_time IS NULL "
    "AND expire_time > now() ORDER BY session_id FOR NO KEY UPDATE SKIP LOCKED)"
)
# And so much work at once that both are at it: some of it to be recorded, and some not.
CROWD = (
    "INSERT INTO users (user_id, epoch) VALUES ('crowd', 0) ON CONFLICT DO NOTHING; "
    "INSERT INTO sessions SELECT (jsonb_populate_record(s, jsonb_build_object("
    "'session_id', gen_random_uuid(), 'user_id', 'crowd', 'user_epoch', 0, 'idle_timeout', "
    "CASE WHEN n % 2 = 0 THEN interval '1 second' END, "
    "'last_active_time', now() - interval '1 hour', "
    "'expire_time', now() - interval '10 seconds', "
    "'check_time', greatest(expired_until + interval '1 microsecond', now() - interval '1 minute'), "
    "'end_time', null, 'end_reason', null, 'initiating_entity', null))).* "
    f"FROM sessions AS s, upkeep, generate_series(1, {CROWD_SIZE}) AS n LIMIT {CROWD_SIZE}"
)


@dataclass(frozen=True)
class Held:
    """A token that somebody holds, good or not."""

    session_id: str
    user_id: str
    token: SessionToken
    version: int = 0


class Race:
    """The callers, what they hold, and what they saw."""

    def __init__(self, clients: list[AsyncSessionClient], admins: list[Admin], seed: int) -> None:
        self.history = History(LIMIT)
        self._clients = clients
        self._admins = admins
        self._seed = seed
        self._held: dict[str, list[Held]] = defaultdict(list)
        self._dead: set[tuple[str, int]] = set()

    async def run(self, round_number: int, seconds: float) -> None:
        """Let every racer race for a while, and end with nobody asking anything."""
        stop_at = time.monotonic() + seconds
        async with asyncio.TaskGroup() as racers:
            for user_id in USERS:
                for number in range(RACERS_A_USER):
                    chance = random.Random(f"{self._seed} {round_number} {user_id} {number}")
                    racers.create_task(self._race(user_id, chance, stop_at))

    async def do_each_once(self) -> None:
        """Have one user make every kind of call, one after the other, however busy the machine."""
        chance = random.Random(self._seed)
        while len(self._held[LONER]) < LIMIT:
            await self._create(LONER, chance)
        mine, revoked, signed_out, other = self._held[LONER]
        await self._reauthenticate(mine, chance)
        renewed = self._held[LONER][-1]
        await self._revoke(renewed, revoked, chance)
        await self._sign_out(signed_out, chance)
        await self._revoke_others(renewed, chance)
        await self._validate(other, chance)
        await self._revoke_user(renewed, chance)

    async def crowd_in(self) -> None:
        """Let everybody sign in more often than allowed, all at once."""
        chance = random.Random(self._seed)
        await asyncio.gather(
            *(self._create(user_id, chance) for user_id in USERS for _ in range(2 * LIMIT))
        )

    async def look_at_all(self) -> None:
        """Ask every server about every token."""
        for client in self._clients:
            for held in self._held.values():
                await self._validate_many(client, held)

    async def _race(self, user_id: str, chance: random.Random, stop_at: float) -> None:
        kinds = STEADY_KINDS if user_id in STEADY else KINDS
        while time.monotonic() < stop_at:
            [kind] = chance.choices(list(kinds), list(kinds.values()))
            held = self._held[user_id]
            if not held or kind == "create":
                await self._create(user_id, chance)
                continue
            mine, other = self._choose(held, chance), self._choose(held, chance)
            match kind:
                case "batch":
                    await self._validate_many(chance.choice(self._clients), held[-2 * RECENT :])
                case "revoke":
                    await self._revoke(mine, other, chance)
                case "duel":
                    await self._duel(mine, other, chance)
                case _:
                    with_one = {
                        "validate": self._validate,
                        "revoke_others": self._revoke_others,
                        "revoke_user": self._revoke_user,
                        "sign_out": self._sign_out,
                        "contest": self._contest,
                        "reauthenticate": self._reauthenticate,
                    }
                    await with_one[kind](mine, chance)

    def _choose(self, held: list[Held], chance: random.Random) -> Held:
        """Choose one, rather a late one, and rather one of which nobody has heard that it is dead."""
        late = held[-RECENT:] if chance.random() < 0.9 else held
        hopeful = [each for each in late if (each.session_id, each.version) not in self._dead]
        return chance.choice(hopeful if hopeful and chance.random() < 0.9 else late)

    async def _create(self, user_id: str, chance: random.Random) -> None:
        short = user_id != LONER and chance.random() < 0.3
        begin = time.monotonic()
        creating = chance.choice(self._clients).create(
            user_id,
            lifetime=timedelta(seconds=SHORT_SECONDS) if short else None,
            idle_timeout=timedelta(minutes=1) if chance.random() < 0.5 else None,
        )
        try:
            new = await creating
        except SessionAuthorityError as error:
            self._note("create", begin, Held("", user_id, SessionToken("none")), _answer(error))
            return
        held = Held(new.session.session_id, user_id, new.token)
        if short:
            self.history.lifetimes[held.session_id] = SHORT_SECONDS
        self._note("create", begin, held)
        self._held[user_id].append(held)

    async def _validate(self, held: Held, chance: random.Random) -> None:
        client, address = chance.choice(self._clients), f"203.0.113.{chance.randrange(250)}"
        begin = time.monotonic()
        try:
            answer = _verdict(await client.validate(held.token, ip_address=address))
        except Unavailable:
            return  # it says nothing about the session
        except SessionAuthorityError as error:
            answer = _answer(error)
        self._note("validate", begin, held, answer)

    async def _validate_many(self, client: AsyncSessionClient, asked: list[Held]) -> None:
        asked = list(asked)
        begin = time.monotonic()
        try:
            answers = await client.validate_many([ValidationRequest(held.token) for held in asked])
        except Unavailable:
            return
        for held, answer in zip(asked, answers, strict=True):
            self._note("validate", begin, held, _verdict(answer))

    async def _revoke(self, mine: Held, other: Held, chance: random.Random) -> None:
        revoking = chance.choice(self._clients).revoke(mine.token, other.session_id)
        await self._watching(other, chance, self._do("revoke", mine, revoking, other.session_id))

    async def _revoke_others(self, mine: Held, chance: random.Random) -> None:
        ending = chance.choice(self._clients).revoke_others(mine.token)
        other = chance.choice(self._held[mine.user_id][-RECENT:])
        await self._watching(other, chance, self._do("revoke_others", mine, ending))

    async def _revoke_user(self, mine: Held, chance: random.Random) -> None:
        request = pb.RevokeUserSessionsRequest(user_id=mine.user_id)

        async def ask() -> None:
            try:
                await chance.choice(self._admins).RevokeUserSessions(request)
            except grpc.RpcError as error:
                raise error_of(error) from None

        await self._watching(mine, chance, self._do("revoke_user", mine, ask()))

    async def _sign_out(self, mine: Held, chance: random.Random) -> None:
        ending = chance.choice(self._clients).sign_out(mine.token)
        await self._watching(mine, chance, self._do("sign_out", mine, ending))

    async def _contest(self, mine: Held, chance: random.Random) -> None:
        """Renew a session while it is ended, and ended otherwise."""

        async def soon(rival: Coroutine[object, object, None]) -> None:
            await asyncio.sleep(chance.uniform(0, CONTEST_SECONDS))
            await rival

        revoking = chance.choice(self._clients).revoke(mine.token, mine.session_id)
        signing_out = chance.choice(self._clients).sign_out(mine.token)
        await asyncio.gather(
            self._reauthenticate(mine, chance),
            soon(self._do("revoke", mine, revoking, mine.session_id)),
            soon(self._do("sign_out", mine, signing_out)),
        )

    async def _duel(self, one: Held, other: Held, chance: random.Random) -> None:
        """Let two sessions end each other."""

        async def strike(by: Held, at: Held) -> None:
            client = chance.choice(self._clients)
            if chance.random() < 0.5:
                await self._do("revoke", by, client.revoke(by.token, at.session_id), at.session_id)
            else:
                await self._do("revoke_others", by, client.revoke_others(by.token))

        if one.session_id != other.session_id:
            await asyncio.gather(strike(one, other), strike(other, one))

    async def _watching(
        self, held: Held, chance: random.Random, ending: Coroutine[object, object, None]
    ) -> None:
        """Ask about a session all the time while it is ended, and once more right after."""
        ended = asyncio.create_task(ending)

        async def watch() -> None:
            while not ended.done():
                await self._validate(held, chance)

        watching = [asyncio.create_task(watch()) for _ in range(WATCHERS)]
        await ended
        await asyncio.gather(
            *watching, *(self._validate(held, chance) for _ in range(len(self._clients) * 2))
        )

    async def _reauthenticate(self, mine: Held, chance: random.Random) -> None:
        begin = time.monotonic()
        try:
            new = await chance.choice(self._clients).reauthenticate(mine.token)
        except SessionAuthorityError as error:
            self._note("reauthenticate", begin, mine, _answer(error))
            return
        self._note("reauthenticate", begin, mine)
        renewed = Held(mine.session_id, mine.user_id, new.token, mine.version + 1)
        self._held[mine.user_id].append(renewed)
        await self._validate(mine, chance)

    async def _do(self, kind: str, mine: Held, call: Awaitable[object], target: str = "") -> None:
        begin = time.monotonic()
        try:
            await call
        except SessionAuthorityError as error:
            self._note(kind, begin, mine, _answer(error), target)
        else:
            self._note(kind, begin, mine, OK, target)

    def _note(
        self, kind: str, begin: float, held: Held, answer: str = OK, target: str = ""
    ) -> None:
        if answer != OK:
            self._dead.add((held.session_id, held.version))
        self.history.calls.append(
            Call(
                kind,
                begin,
                time.monotonic(),
                held.user_id,
                held.session_id,
                held.version,
                answer,
                target,
            )
        )


def _verdict(answer: Session | Rejection) -> str:
    return answer.reason.name if isinstance(answer, Rejection) else OK


def _answer(error: SessionAuthorityError) -> str:
    if isinstance(error, SessionNotLive):
        return NOT_LIVE
    if isinstance(error, AuthenticationTooOld):
        return "AUTHENTICATION_TOO_OLD"
    if isinstance(error, Unavailable):
        return UNKNOWN
    return f"{type(error).__name__}: {error}"


def _missing(history: History) -> set[object]:
    """Return what a race must have seen and has not: an accepted call of each kind, each rejection."""
    accepted = {call.kind for call in history.calls if call.answer == OK}
    rejections = {call.answer for call in history.calls if call.kind == "validate"}
    kinds = set(KINDS) - {"batch", "contest", "duel"}
    return (kinds - accepted) | (ANSWERS["validate"] - rejections)


async def _nudge(url: str) -> None:
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        while True:
            await connection.execute(NUDGE)
            await asyncio.sleep(0.05)


async def _migrate(url: str) -> None:
    database = Database.postgresql(url)
    try:
        await migrate(database)
    finally:
        await database.close()


async def _crowd(url: str) -> None:
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        await connection.execute(CROWD.encode())


async def _count(url: str, history: History) -> None:
    database = Database.postgresql(url)
    try:
        store, now = SqlSessionStore(database), SystemClock().now()
        for user_id in USERS:
            live = await store.list_live(user_id, now, None, 100)
            history.counts.append(Count(user_id, len(live)))
    finally:
        await database.close()


async def _race(url: str, addresses: list[str]) -> Race:
    async with contextlib.AsyncExitStack() as stack:
        race = Race(
            [await stack.enter_async_context(AsyncSessionClient(each)) for each in addresses],
            [
                session_admin_service_pb2_grpc.SessionAdminServiceStub(
                    await stack.enter_async_context(
                        grpc.aio.insecure_channel(each, channel_options(Settings(each)))
                    )
                )
                for each in addresses
            ],
            SEED,
        )
        nudging = asyncio.create_task(_nudge(url))
        await race.do_each_once()
        began, round_number = time.monotonic(), 0
        while (took := time.monotonic() - began) < SECONDS or (
            _missing(race.history) and took < PATIENCE_SECONDS
        ):
            await race.run(round_number, ROUND_SECONDS)
            await race.look_at_all()  # so that sessions are used right before they end
            await race.crowd_in()
            await _count(url, race.history)
            await race.look_at_all()
            await _crowd(url)
            round_number += 1
        nudging.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await nudging
    return race


@contextlib.contextmanager
def _all_running(cluster: Cluster, folder: Path) -> Iterator[tuple[list[Program], list[Program]]]:
    settings = {
        "SESSION_AUTHORITY_SESSION_LIMIT": str(LIMIT),
        "SESSION_AUTHORITY_LAST_ACTIVE_RESOLUTION_SECONDS": str(RESOLUTION_SECONDS),
        "SESSION_AUTHORITY_WORKER_INTERVAL_SECONDS": "0.1",
    }

    def on(port: int) -> dict[str, str]:
        address = f"postgresql://postgres@127.0.0.1:{port}/postgres"
        return settings | {"SESSION_AUTHORITY_DATABASE_URL": address}

    with contextlib.ExitStack() as stack:
        slow = stack.enter_context(slow_link(cluster.port, SEED))
        serve = ("serve", "--listen", "127.0.0.1:0", "--insecure", "--no-worker")
        started = [
            stack.enter_context(running(*command, cwd=folder, settings=on(port)))
            for command, port in (
                (serve, cluster.port),
                (serve, slow),
                (("worker",), cluster.port),
                (("worker",), slow),
            )
        ]
        servers, workers = started[:2], started[2:]
        for server in servers:
            assert server.address
        for worker in workers:
            worker.wait_for("(worker on)")
        yield servers, workers


@pytest.mark.soak
def test_one_truth_explains_what_two_servers_and_two_workers_do_at_once(tmp_path: Path) -> None:
    with postgresql.cluster(log_min_messages="error", track_commit_timestamp="on") as cluster:
        url = cluster.url()
        asyncio.run(_migrate(url))
        audit.begin(url)
        with _all_running(cluster, tmp_path) as (servers, workers):
            race = asyncio.run(_race(url, [server.address for server in servers]))
            history = race.history
            history.monotonic_zero = time.time() - time.monotonic()
            _wait_for_reports(url, workers)
            for program in (*servers, *workers):
                program.terminate()
            assert [program.exit_code() for program in (*servers, *workers)] == [0] * 4
        once = {"SESSION_AUTHORITY_DATABASE_URL": url}
        due = SystemClock().now() - Pace().hold_back
        done = run("worker", "--once", cwd=tmp_path, settings=once)
        said = [worker.stderr for worker in workers] + [done.stdout]
        history.worker_said = sum(map(_reported, said))
        audit.end(url, history, due)
        asyncio.run(_count(url, history))
        log = (cluster.folder / "log").read_text()

    found = list(violations(history))
    assert found == [], f"seed {SEED}: {len(found)} violations"
    for text in (*(program.stderr for program in (*servers, *workers)), log):
        assert [line for line in text.splitlines() if _is_trouble(line)] == []
    assert _missing(history) == set()
    assert any(map(_is_touch, history.changes))
    assert history.worker_did > 0


def _wait_for_reports(url: str, workers: list[Program]) -> None:
    """Let the workers finish what they are at, of which they tell at its end only."""
    give_up = time.monotonic() + REPORT_SECONDS
    while time.monotonic() < give_up:  # if they never tell, it is found out later
        left, did = audit.workers_left_and_did(url)
        if not left and did <= sum(_reported(worker.stderr) for worker in workers):
            break
        time.sleep(0.05)


def _reported(text: str) -> int:
    return sum(int(rows) for rows in re.findall(r"expire: (\d+) rows", text))


def _is_touch(change: Change) -> bool:
    before, after = change.before, change.after
    return after.secret == before.secret and after.last_active > before.last_active


def _is_trouble(line: str) -> bool:
    """Say whether a line tells of a fault. Running out of time is none: the machine may be busy."""
    if any(sign in line for sign in ("due to user request", "lock timeout", "statement timeout")):
        return False
    return any(sign in line for sign in ("deadlock", "could not serialize", "Traceback", "ERROR:"))
