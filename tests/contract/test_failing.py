"""A failing store raises an error soon and never returns an invented answer."""

import asyncio
import re
from collections.abc import Awaitable, Callable
from uuid import uuid4

import pytest
from sqlalchemy import text

from session_authority_server.domain.errors import StoreUnavailable
from session_authority_server.domain.session import InitiatingEntity
from session_authority_server.ports.store import PendingErasure, SessionStore, Touch
from session_authority_server.ports.upkeep import PendingSweep, UpkeepStore
from tests.conftest import PATIENCE_SECONDS
from tests.support.engines import DAY, START, Engine, a_session, stored_fields

CALLS: dict[str, Callable[[Engine], Awaitable[object]]] = {
    "read_sessions": lambda engine: engine.sessions.read_sessions([uuid4()]),
    "transact": lambda engine: engine.add(a_session()),
    "touch": lambda engine: engine.sessions.touch([Touch(uuid4(), START, None)], lambda: START),
    "list_live": lambda engine: engine.sessions.list_live("ann", START, None, 10),
    "count_live": lambda engine: engine.sessions.count_live("ann", START, 10),
    "list_used_since": lambda engine: engine.sessions.list_used_since(
        "ann", START, START, START, None, 10
    ),
    "list_ended": lambda engine: engine.sessions.list_ended("ann", START, None, 10),
    "erase_some": lambda engine: engine.sessions.erase_some(PendingErasure("ann", 1), 10),
    "pending_erasures": lambda engine: engine.upkeep.pending_erasures(10),
    "purge_revoked_identities": lambda engine: engine.upkeep.purge_revoked_identities(START, 10),
    "purge_erasures": lambda engine: engine.upkeep.purge_erasures(START, 10),
    "note_clock_time": lambda engine: engine.upkeep.note_clock_time(START, DAY),
    "end_overdue": lambda engine: engine.upkeep.end_overdue(START, 10),
    "pending_sweeps": lambda engine: engine.upkeep.pending_sweeps(10),
    "end_swept": lambda engine: engine.upkeep.end_swept(PendingSweep("ann", 1), START, None, 10),
    "settle_sweep": lambda engine: engine.upkeep.settle_sweep(PendingSweep("ann", 1)),
    "count_overdue": lambda engine: engine.upkeep.count_overdue(START, 10),
    "oldest_overdue": lambda engine: engine.upkeep.oldest_overdue(START),
    "estimate_live": lambda engine: engine.upkeep.estimate_live(START),
    "count_swept": lambda engine: engine.upkeep.count_swept(PendingSweep("ann", 1), 10),
    "count_attempts": lambda engine: engine.upkeep.count_attempts(START, 10),
    "purge_sweeps": lambda engine: engine.upkeep.purge_sweeps(START, 10),
    "purge_ended": lambda engine: engine.upkeep.purge_ended(START, 10),
    "count_purgeable": lambda engine: engine.upkeep.count_purgeable(START, 10),
    "missing_partitions": lambda engine: engine.upkeep.missing_partitions(START),
    "old_partitions": lambda engine: engine.upkeep.old_partitions(START, START),
    "make_partition": lambda engine: engine.upkeep.make_partition(START),
    "drop_partition": lambda engine: engine.upkeep.drop_partition("sessions_until_20260308"),
    "forget_attempts": lambda engine: engine.upkeep.forget_attempts(START, 10),
}
TABLES = (
    "sessions",
    "users",
    "authority",
    "sweeps",
    "attempts",
    "erasures",
    "revoked_identities",
    "upkeep",
)


async def assert_unavailable(call: Callable[[Engine], Awaitable[object]], engine: Engine) -> None:
    with pytest.raises(StoreUnavailable) as failure:
        await asyncio.wait_for(call(engine), PATIENCE_SECONDS / 2)
    assert "INSERT" not in str(failure.value)


def test_every_method_of_the_stores_has_a_failing_call() -> None:
    methods = {
        name
        for protocol in (SessionStore, UpkeepStore)
        for name in vars(protocol)
        if not name.startswith("_")
    }
    assert set(CALLS) == methods


async def test_every_method_raises_at_once_if_the_tables_are_missing(engine: Engine) -> None:
    await engine.execute(*(text(f"DROP TABLE {table}") for table in TABLES))
    for call in CALLS.values():
        await assert_unavailable(call, engine)


async def test_a_failure_within_a_transaction_rolls_it_back(engine: Engine) -> None:
    session = a_session()
    await engine.add(session)
    await engine.execute(text("DROP TABLE sweeps"))
    with pytest.raises(StoreUnavailable):
        await engine.sweep("ann", START, InitiatingEntity.USER)
    found = await engine.get(session.session_id)
    assert found.current_user_epoch == 0


async def test_a_store_names_the_cause_of_a_failure_and_works_again_after_a_repair(
    engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    session = a_session()
    await engine.add(session)
    await engine.execute(text("ALTER TABLE sessions RENAME TO lost"))
    await assert_unavailable(CALLS["read_sessions"], engine)
    assert re.search('failed while reading: .*"?sessions', caplog.text)
    await assert_unavailable(CALLS["transact"], engine)
    await engine.execute(text("ALTER TABLE lost RENAME TO sessions"))
    assert stored_fields(await engine.get(session.session_id)) == stored_fields(session)
    await engine.add(a_session())


async def test_the_log_of_a_failure_contains_no_session_data(
    engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    await engine.execute(text("DROP TABLE sessions"))
    session = a_session("somebody@example.com")
    with pytest.raises(StoreUnavailable):
        await engine.add(session)
    assert "the store failed while writing" in caplog.text
    assert "somebody" not in caplog.text
    assert session.secret_hash.hex() not in caplog.text
