"""The events of a transaction are recorded once it is committed, and never if it is rolled back."""

import asyncio

import pytest

from session_authority_server.domain.event import SessionEstablished
from session_authority_server.ports.store import Transaction
from session_authority_server.store.database import RetryTransaction
from session_authority_server.store.sessions import SqlSessionStore
from tests.support.engines import Engine, a_session
from tests.support.usecases import Recorder

SESSION = a_session()
EVENT = SessionEstablished(SESSION)
OTHER_EVENT = SessionEstablished(a_session("bob"))


def recording(engine: Engine) -> tuple[SqlSessionStore, Recorder]:
    recorder = Recorder()
    return SqlSessionStore(engine.database, audit=recorder), recorder


async def test_events_are_recorded_in_order_once_they_are_committed(engine: Engine) -> None:
    store, recorder = recording(engine)

    async def work(transaction: Transaction) -> str:
        transaction.record(EVENT)
        transaction.record(OTHER_EVENT)
        assert recorder.events == []
        return "done"

    assert await store.transact(work) == "done"
    assert recorder.events == [EVENT, OTHER_EVENT]


async def test_events_of_a_transaction_that_is_rolled_back_are_not_recorded(
    engine: Engine,
) -> None:
    store, recorder = recording(engine)

    async def work(transaction: Transaction) -> None:
        await transaction.lock_user("ann")
        transaction.record(EVENT)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await store.transact(work)
    assert recorder.events == []


async def test_events_of_a_retried_transaction_are_recorded_once(engine: Engine) -> None:
    store, recorder = recording(engine)
    turns = iter([EVENT, OTHER_EVENT])

    async def work(transaction: Transaction) -> None:
        event = next(turns)
        transaction.record(event)
        if event is EVENT:
            raise RetryTransaction

    await store.transact(work)
    assert recorder.events == [OTHER_EVENT]


async def test_events_are_recorded_even_if_the_caller_was_cancelled(engine: Engine) -> None:
    store, recorder = recording(engine)
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def work(transaction: Transaction) -> None:
        await transaction.lock_user("ann")
        transaction.record(EVENT)
        begun.set()
        await go_on.wait()

    asking = asyncio.create_task(store.transact(work))
    await begun.wait()
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert recorder.events == []
    go_on.set()
    await engine.add(SESSION)  # waits for the user's lock, or for SQLite's only writer
    assert recorder.events == [EVENT]
