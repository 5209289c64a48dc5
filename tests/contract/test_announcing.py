"""Whatever keeps a token from being valid, but for its session's own times, is told when it is committed."""

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
from session_authority_server.domain.retry import AnsweredAttempt
from session_authority_server.domain.session import (
    Changes,
    Ending,
    EndReason,
    InitiatingEntity,
    Session,
    Sweep,
)
from session_authority_server.ports import (
    PendingErasure,
    SessionStore,
    Touch,
    Transaction,
    UpkeepStore,
)
from session_authority_server.store.engine import postgresql
from session_authority_server.store.sessions import SqlSessionStore
from tests.support.engines import MINUTE, SECOND, START, Engine, a_session, at, opened

ENDING = Ending(START + SECOND, EndReason.REVOKED, InitiatingEntity.USER)
SWEEP = Sweep(START + SECOND, InitiatingEntity.USER)
LATER = START + MINUTE

Work = Callable[[Transaction, Session], Awaitable[object]]


@dataclass
class Told:
    """A store, and what it has told of so far."""

    store: SqlSessionStore
    hear: Callable[[], Awaitable[Changes]]


@dataclass
class Recorder:
    """A listener within the process (`ports.Listener`)."""

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
async def telling(engine: Engine) -> AsyncIterator[Told]:
    """Give a store that tells, and what to ask for what it told."""
    if not engine.database.dialect.takes_arrays:
        recorder = Recorder()

        async def recorded() -> Changes:
            assert recorder.under_way == 0
            assert all(recorder.certain)
            heard, recorder.changes = recorder.changes, Changes()
            return heard

        yield Told(SqlSessionStore(engine.database, listener=recorder), recorded)
        return
    url = engine.url
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        await connection.execute(f"LISTEN {postgresql.CHANNEL}".encode())

        async def notified() -> Changes:
            # What was committed before is delivered before this is answered.
            heard = Changes()
            connection.add_notify_handler(
                lambda notify: heard.add(postgresql.read_payload(notify.payload))
            )
            await connection.execute("SELECT 1")
            return heard

        yield Told(SqlSessionStore(engine.database), notified)


@pytest.fixture
async def told(engine: Engine) -> AsyncIterator[Told]:
    async with telling(engine) as found:
        yield found


async def _renew(transaction: Transaction, session: Session) -> object:
    renewed = replace(session, secret_hash=b"n" * 32)
    return await transaction.renew_session(renewed, replaces=session.secret_hash)


async def _sweep_user(transaction: Transaction, session: Session) -> None:
    await transaction.lock_user(session.user_id)
    await transaction.sweep_user(session.user_id, SWEEP)


async def _end_beyond(transaction: Transaction, session: Session) -> object:
    return await transaction.end_live_over_limit(session.user_id, LATER, 0, ENDING)


# What each method that changes something must tell of one session. One that is added must be added here too.
TELLING: dict[str, tuple[Work, Callable[[Session], Changes]]] = {
    "end_session": (
        lambda transaction, session: transaction.end_session(session.session_id, ENDING),
        lambda session: Changes({session.session_id}),
    ),
    "end_live_over_limit": (_end_beyond, lambda session: Changes({session.session_id})),
    "end_created_by": (
        lambda transaction, _: transaction.end_created_by("", LATER, UUID(int=0), 1_000, ENDING),
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


async def _record(transaction: Transaction, session: Session) -> None:
    transaction.record(SessionEstablished(session))


# Those that make no token invalid that was valid.
SILENT: dict[str, Work] = {
    "record": _record,
    "lock_user": lambda transaction, session: transaction.lock_user(session.user_id),
    "read_session": lambda transaction, session: transaction.read_session(session.session_id),
    "live_over_limit": lambda transaction, session: transaction.live_over_limit(
        session.user_id, LATER, 0
    ),
    "insert_session": _insert,
    "correct_swept_time": lambda transaction, session: transaction.correct_swept_time(
        session.user_id, LATER
    ),
    "begin_erasure": _erase,  # of sessions that were swept before
    "exempt_from_sweep": lambda transaction, session: transaction.exempt_from_sweep(
        session.session_id
    ),
    "read_attempt": lambda transaction, _: transaction.read_attempt(b"h" * 32),
    "write_attempt": lambda transaction, session: transaction.write_attempt(
        AnsweredAttempt(b"h" * 32, b"p" * 32, session.session_id, b"s" * 32, LATER)
    ),
}

# Of the stores: `transact` is the above.
STORE_TELLING = {"transact"}
STORE_SILENT = {
    "read_sessions",
    "touch",  # moves an idle timeout on
    "erase_some",  # what was swept
    "list_live",
    "count_live",
    "list_used_since",
    "list_ended",
}
# Upkeep records, deletes and counts what is over by the sessions' own times, or was swept, and told of, before.
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
    "purge_ended",
    "missing_partitions",
    "old_partitions",
    "drop_partition",
    "make_partition",
    "forget_attempts",
    "pending_erasures",
    "purge_erasures",
}


def _methods(protocol: type) -> set[str]:
    found = inspect.getmembers(protocol, inspect.isfunction)
    return {name for name, _ in found if not name.startswith("_")}


def test_of_every_method_of_the_store_it_is_decided_here_whether_it_tells() -> None:
    assert _methods(Transaction) == TELLING.keys() | SILENT.keys()
    assert _methods(SessionStore) == STORE_TELLING | STORE_SILENT
    assert _methods(UpkeepStore) == UPKEEP_SILENT


@pytest.mark.parametrize("name", TELLING)
async def test_a_change_is_told_when_it_is_committed(engine: Engine, told: Told, name: str) -> None:
    work, expected = TELLING[name]
    [session] = await engine.add(a_session())

    await told.store.transact(lambda transaction: work(transaction, session))

    assert await told.hear() == expected(session)


@pytest.mark.parametrize("name", TELLING)
async def test_a_change_that_is_rolled_back_is_not_told(
    engine: Engine, told: Told, name: str
) -> None:
    work, _ = TELLING[name]
    [session] = await engine.add(a_session())

    async def fail(transaction: Transaction) -> None:
        await work(transaction, session)
        raise KeyError

    with pytest.raises(KeyError):
        await told.store.transact(fail)
    assert await told.hear() == Changes()


@pytest.mark.parametrize("name", SILENT)
async def test_what_makes_no_token_invalid_is_not_told(
    engine: Engine, told: Told, name: str
) -> None:
    [session] = await engine.add(a_session())
    await told.store.transact(lambda transaction: SILENT[name](transaction, session))
    assert await told.hear() == Changes()


async def test_an_ending_that_another_forestalled_is_not_told_again(
    engine: Engine, told: Told
) -> None:
    [session] = await engine.add(a_session())
    for heard in (Changes({session.session_id}), Changes()):
        await told.store.transact(lambda work: work.end_session(session.session_id, ENDING))
        assert await told.hear() == heard


async def test_all_that_one_transaction_changes_is_told(engine: Engine, told: Told) -> None:
    one, other = await engine.add(a_session("ann"), a_session("bob"))

    async def work(transaction: Transaction) -> None:
        await transaction.end_session(one.session_id, ENDING)
        await _sweep_user(transaction, other)

    await told.store.transact(work)
    assert await told.hear() == Changes({one.session_id}, {"bob"})


async def test_more_sessions_than_a_notification_holds_are_told(engine: Engine, told: Told) -> None:
    await engine.fill([a_session("ann") for _ in range(700)])
    ended = await told.store.transact(
        lambda transaction: transaction.end_live_over_limit("ann", LATER, 10, ENDING)
    )
    assert len(ended) == 690
    assert await told.hear() == Changes(set(ended))


async def test_recording_what_is_over_is_not_told(engine: Engine, told: Told) -> None:
    swept, idle = await engine.add(a_session("ann"), a_session("bob", idle_timeout=MINUTE))
    await engine.sweep("ann", START + SECOND)
    await told.hear()
    done = await engine.upkeep.end_overdue(START + 10 * MINUTE, 1_000)
    assert [each.session_id for each in done.ended] == [idle.session_id]
    [sweep] = await engine.upkeep.pending_sweeps(10)
    batch = await engine.upkeep.end_swept(sweep, LATER, None, 10)
    assert [each.session_id for each in batch.ended] == [swept.session_id]
    await engine.upkeep.purge_ended(START + 20 * MINUTE, 1_000)
    await told.store.touch([Touch(idle.session_id, LATER, None)], at(LATER))
    await told.store.erase_some(PendingErasure("ann", 1), 10)
    assert await told.hear() == Changes()


async def test_a_commit_of_unknown_outcome_is_told_as_such_where_the_process_itself_is(
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


async def test_nothing_is_told_where_nothing_was_changed(engine: Engine, told: Told) -> None:
    async def look(connection: AsyncConnection) -> int:
        return 7

    assert await engine.database.write(look) == 7
    assert await told.hear() == Changes()
