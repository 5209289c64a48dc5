"""Each change that makes a token invalid is announced at its commit, except a session's own expiry."""

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any
from uuid import UUID

import psycopg
import pytest
from sqlalchemy.ext.asyncio import AsyncConnection

from session_authority_server.domain.errors import StoreUnavailable
from session_authority_server.domain.event import SessionEstablished
from session_authority_server.domain.identity import Part, key_of
from session_authority_server.domain.retry import AnsweredAttempt
from session_authority_server.domain.session import (
    Changes,
    Ending,
    EndReason,
    InitiatingEntity,
    Session,
    Sweep,
)
from session_authority_server.ports.store import PendingErasure, SessionStore, Touch, Transaction
from session_authority_server.ports.upkeep import UpkeepStore
from session_authority_server.store.engine import postgresql
from session_authority_server.store.sessions import SqlSessionStore
from tests.support.engines import MINUTE, SECOND, START, Engine, a_session, at, opened

ENDING = Ending(START + SECOND, EndReason.REVOKED, InitiatingEntity.USER)
SWEEP = Sweep(START + SECOND, InitiatingEntity.USER)
LATER = START + MINUTE
KEY = key_of(Part.SUBJECT, "https://id.example", "u-1")

Work = Callable[[Transaction, Session], Awaitable[object]]


@dataclass
class Announcing:
    """A store, and the changes that it has announced since the last call of `committed`."""

    store: SqlSessionStore
    announced: Callable[[], Awaitable[Changes]]


@dataclass
class Recorder:
    """A listener within the process (`ports.store.Listener`)."""

    under_way: int = 0
    certain: list[bool] = field(default_factory=list)
    changes: Changes = field(default_factory=Changes)

    def committing(self) -> None:
        self.under_way += 1

    def committed(self, changes: Changes, *, certain: bool) -> None:
        self.under_way -= 1
        self.certain.append(certain)
        self.changes.add(changes)


@asynccontextmanager
async def announcing_store(engine: Engine) -> AsyncIterator[Announcing]:
    """Yield a store that announces changes, and a function that returns them."""
    if not engine.database.dialect.takes_arrays:
        recorder = Recorder()

        async def recorded() -> Changes:
            assert recorder.under_way == 0
            assert all(recorder.certain)
            heard, recorder.changes = recorder.changes, Changes()
            return heard

        yield Announcing(SqlSessionStore(engine.database, listener=recorder), recorded)
        return
    url = engine.url
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        await connection.execute(f"LISTEN {postgresql.CHANNEL}".encode())

        async def notified() -> Changes:
            # PostgreSQL delivers earlier notifications before it answers this statement.
            heard = Changes()
            connection.add_notify_handler(
                lambda notify: heard.add(postgresql.read_payload(notify.payload))
            )
            await connection.execute("SELECT 1")
            return heard

        yield Announcing(SqlSessionStore(engine.database), notified)


@pytest.fixture
async def announcing(engine: Engine) -> AsyncIterator[Announcing]:
    async with announcing_store(engine) as found:
        yield found


async def _renew(transaction: Transaction, session: Session) -> object:
    renewed = replace(session, secret_hash=b"n" * 32)
    return await transaction.renew_session(renewed, replaces=session.secret_hash)


async def _sweep_user(transaction: Transaction, session: Session) -> None:
    await transaction.lock_user(session.user_id)
    await transaction.sweep_user(session.user_id, SWEEP)


async def _end_beyond(transaction: Transaction, session: Session) -> object:
    return await transaction.end_live_over_limit(session.user_id, LATER, 0, ENDING)


# The announcement of each method that invalidates a token. A new method of the store must be added to a table here.
ANNOUNCED: dict[str, tuple[Work, Callable[[Session], Changes]]] = {
    "end_session": (
        lambda transaction, session: transaction.end_session(session.session_id, ENDING),
        lambda session: Changes({session.session_id}),
    ),
    "end_live_over_limit": (_end_beyond, lambda session: Changes({session.session_id})),
    "end_created_by": (
        lambda transaction, _: transaction.end_created_by("", LATER, UUID(int=0), 1_000, ENDING),
        lambda session: Changes({session.session_id}),
    ),
    "end_with_identity": (
        lambda transaction, _: transaction.end_with_identity(KEY, LATER, 1_000, ENDING),
        lambda session: Changes({session.session_id}),
    ),
    "renew_session": (_renew, lambda session: Changes({session.session_id})),
    "sweep_user": (_sweep_user, lambda session: Changes(user_ids={session.user_id})),
    "sweep_everybody": (
        lambda transaction, _: transaction.sweep_everybody(SWEEP),
        lambda _: Changes(everybody=True),
    ),
}


async def _insert(transaction: Transaction, session: Session) -> object:
    return await transaction.insert_session(a_session(session.user_id))


async def _erase(transaction: Transaction, session: Session) -> object:
    await transaction.lock_user(session.user_id)
    return await transaction.begin_erasure(session.user_id, LATER)


async def _confirm_end(transaction: Transaction, _session: Session) -> None:
    transaction.confirm_end()


async def _record(transaction: Transaction, session: Session) -> None:
    transaction.record(SessionEstablished(session))


async def _report(transaction: Transaction, session: Session) -> None:
    transaction.report(SessionEstablished(session))


# The methods that leave each valid token valid.
SILENT: dict[str, Work] = {
    "record": _record,
    "report": _report,
    "confirm_end": _confirm_end,
    "lock_user": lambda transaction, session: transaction.lock_user(session.user_id),
    "read_session": lambda transaction, session: transaction.read_session(session.session_id),
    "live_over_limit": lambda transaction, session: transaction.live_over_limit(
        session.user_id, LATER, 0
    ),
    "insert_session": _insert,
    "name_session": lambda transaction, session: transaction.name_session(
        session.session_id, "Study", LATER
    ),
    "read_swept_time": lambda transaction, _: transaction.read_swept_time(),
    "correct_swept_time": lambda transaction, session: transaction.correct_swept_time(
        session.user_id, LATER
    ),
    "revoke_identity": lambda transaction, _: transaction.revoke_identity(KEY, LATER),
    "begin_erasure": _erase,  # its user's sessions are already swept
    "exempt_from_sweep": lambda transaction, session: transaction.exempt_from_sweep(
        session.session_id
    ),
    "read_attempt": lambda transaction, _: transaction.read_attempt(b"h" * 32),
    "write_attempt": lambda transaction, session: transaction.write_attempt(
        AnsweredAttempt(b"h" * 32, b"p" * 32, session.session_id, b"s" * 32, LATER)
    ),
}

# The stores' own methods. `transact` runs the methods above.
STORE_ANNOUNCED = {"transact"}
STORE_SILENT = {
    "read_sessions",
    "touch",  # extends an idle timeout
    "erase_some",  # its sessions are already swept
    "list_live",
    "count_live",
    "list_used_since",
    "list_ended",
}
# Upkeep handles sessions that ended by their own times, or by a sweep that was announced before.
UPKEEP_SILENT = {
    "note_clock_time",
    "end_overdue",
    "pending_sweeps",
    "end_swept",
    "settle_sweep",
    "count_overdue",
    "count_swept",
    "purge_sweeps",
    "count_attempts",
    "count_purgeable",
    "oldest_overdue",
    "estimate_live",
    "purge_ended",
    "missing_partitions",
    "old_partitions",
    "drop_partition",
    "make_partition",
    "forget_attempts",
    "pending_erasures",
    "purge_erasures",
    "purge_revoked_identities",
}


def _methods(protocol: type) -> set[str]:
    found = inspect.getmembers(protocol, inspect.isfunction)
    return {name for name, _ in found if not name.startswith("_")}


def test_every_method_of_the_stores_is_listed_as_announced_or_silent() -> None:
    assert _methods(Transaction) == ANNOUNCED.keys() | SILENT.keys()
    assert _methods(SessionStore) == STORE_ANNOUNCED | STORE_SILENT
    assert _methods(UpkeepStore) == UPKEEP_SILENT


@pytest.mark.parametrize("name", ANNOUNCED)
async def test_a_change_is_announced_when_it_is_committed(
    engine: Engine, announcing: Announcing, name: str
) -> None:
    work, expected = ANNOUNCED[name]
    [session] = await engine.add(replace(a_session(), subject_hash=KEY.digest))

    await announcing.store.transact(lambda transaction: work(transaction, session))

    assert await announcing.announced() == expected(session)


@pytest.mark.parametrize("name", ANNOUNCED)
async def test_a_change_that_is_rolled_back_is_not_announced(
    engine: Engine, announcing: Announcing, name: str
) -> None:
    work, _ = ANNOUNCED[name]
    [session] = await engine.add(replace(a_session(), subject_hash=KEY.digest))

    async def fail(transaction: Transaction) -> None:
        await work(transaction, session)
        raise KeyError

    with pytest.raises(KeyError):
        await announcing.store.transact(fail)
    assert await announcing.announced() == Changes()


@pytest.mark.parametrize("name", SILENT)
async def test_a_change_that_leaves_tokens_valid_is_not_announced(
    engine: Engine, announcing: Announcing, name: str
) -> None:
    [session] = await engine.add(replace(a_session(), subject_hash=KEY.digest))
    await announcing.store.transact(lambda transaction: SILENT[name](transaction, session))
    assert await announcing.announced() == Changes()


async def test_ending_an_ended_session_is_not_announced_again(
    engine: Engine, announcing: Announcing
) -> None:
    [session] = await engine.add(a_session())
    for heard in (Changes({session.session_id}), Changes()):
        await announcing.store.transact(lambda work: work.end_session(session.session_id, ENDING))
        assert await announcing.announced() == heard


async def test_every_change_of_a_transaction_is_announced(
    engine: Engine, announcing: Announcing
) -> None:
    one, other = await engine.add(a_session("ann"), a_session("bob"))

    async def work(transaction: Transaction) -> None:
        await transaction.end_session(one.session_id, ENDING)
        await _sweep_user(transaction, other)

    await announcing.store.transact(work)
    assert await announcing.announced() == Changes({one.session_id}, {"bob"})


async def test_more_sessions_than_one_notification_holds_are_announced(
    engine: Engine, announcing: Announcing
) -> None:
    await engine.fill([a_session("ann") for _ in range(700)])
    ended = await announcing.store.transact(
        lambda transaction: transaction.end_live_over_limit("ann", LATER, 10, ENDING)
    )
    assert len(ended) == 690
    assert await announcing.announced() == Changes(set(ended))


async def test_recording_and_purging_old_endings_is_not_announced(
    engine: Engine, announcing: Announcing
) -> None:
    swept, idle = await engine.add(a_session("ann"), a_session("bob", idle_timeout=MINUTE))
    await engine.sweep("ann", START + SECOND)
    await announcing.announced()
    done = await engine.upkeep.end_overdue(START + 10 * MINUTE, 1_000)
    assert [each.session_id for each in done.ended] == [idle.session_id]
    [sweep] = await engine.upkeep.pending_sweeps(10)
    batch = await engine.upkeep.end_swept(sweep, LATER, None, 10)
    assert [each.session_id for each in batch.ended] == [swept.session_id]
    await engine.upkeep.purge_ended(START + 20 * MINUTE, 1_000)
    await announcing.store.touch([Touch(idle.session_id, LATER, None)], at(LATER))
    await announcing.store.erase_some(PendingErasure("ann", 1), 10)
    assert await announcing.announced() == Changes()


async def test_a_listener_in_the_process_learns_that_a_commit_is_uncertain(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened("sqlite", tmp_path) as engine:
        [session] = await engine.add(a_session())
        recorder = Recorder()
        store = SqlSessionStore(engine.database, listener=recorder)

        async def broken(self: object) -> None:
            raise StoreUnavailable("writing")

        monkeypatch.setattr("sqlalchemy.ext.asyncio.AsyncTransaction.commit", broken)
        with pytest.raises(StoreUnavailable):
            await store.transact(lambda work: work.end_session(session.session_id, ENDING))
        assert recorder.changes == Changes({session.session_id})
        assert recorder.certain == [False]
        assert recorder.under_way == 0


async def test_a_transaction_without_changes_announces_nothing(
    engine: Engine, announcing: Announcing
) -> None:
    async def look(connection: AsyncConnection) -> int:
        return 7

    assert await engine.database.write(look) == 7
    assert await announcing.announced() == Changes()
