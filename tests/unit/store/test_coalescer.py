import asyncio
import time
from collections.abc import Sequence
from uuid import UUID, uuid4

import pytest

from session_authority_server.domain.errors import StoreUnavailable
from session_authority_server.domain.session import Session
from session_authority_server.store import coalescer
from session_authority_server.store.coalescer import (
    BREATH_SECONDS,
    READS_IN_FLIGHT_LIMIT,
    STALLED_SECONDS,
    CoalescedReads,
)
from tests.contract.engines import a_session


class Statement:
    """A read under way, which ends as the test says."""

    def __init__(self, ids: Sequence[UUID]) -> None:
        self.ids = set(ids)
        self.sent = time.monotonic()
        self.answer: asyncio.Future[dict[UUID, Session]] = asyncio.Future()

    def succeed(self, *sessions: Session) -> None:
        self.answer.set_result({session.session_id: session for session in sessions})


class Store:
    """A store whose statements wait for the test, unless told to answer at once."""

    def __init__(self) -> None:
        self.statements: list[Statement] = []
        self.answers_at_once = False

    async def read_many(self, ids: Sequence[UUID]) -> dict[UUID, Session]:
        statement = Statement(ids)
        self.statements.append(statement)
        if self.answers_at_once:
            return {}
        return await statement.answer


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
def reads(store: Store) -> CoalescedReads:
    return CoalescedReads(store.read_many)


async def settle() -> None:
    """Let everything happen that can without time passing."""
    for _ in range(10):
        await asyncio.sleep(0)


def ask(reads: CoalescedReads, *ids: UUID) -> list[asyncio.Task[Session | None]]:
    return [asyncio.create_task(reads.read(session_id)) for session_id in ids]


async def test_a_lone_call_is_sent_at_once(store: Store, reads: CoalescedReads) -> None:
    session = a_session()
    for _ in range(3):  # and again, one after the other
        (call,) = ask(reads, session.session_id)
        await settle()
        store.statements[-1].succeed(session)
        assert await call is session
    assert [statement.ids for statement in store.statements] == [{session.session_id}] * 3


async def test_what_nobody_has_is_answered_with_none(store: Store, reads: CoalescedReads) -> None:
    (call,) = ask(reads, uuid4())
    await settle()
    store.statements[0].succeed(a_session())
    assert await call is None


async def test_calls_that_come_while_one_is_in_flight_share_the_next(
    store: Store, reads: CoalescedReads
) -> None:
    sessions = [a_session() for _ in range(3)]
    (first,) = ask(reads, uuid4())
    await settle()
    calls = ask(reads, *(session.session_id for session in sessions))
    await settle()
    assert len(store.statements) == 1
    store.statements[0].succeed()
    await first
    await settle()
    assert store.statements[1].ids == {session.session_id for session in sessions}
    store.statements[1].succeed(*sessions)
    assert await asyncio.gather(*calls) == sessions


async def test_a_call_never_joins_a_statement_already_sent(
    store: Store, reads: CoalescedReads
) -> None:
    """The very same id is asked for again, since a commit may lie between."""
    before, after = a_session(), a_session()
    after.session_id = before.session_id
    (first,) = ask(reads, before.session_id)
    await settle()
    (second,) = ask(reads, before.session_id)
    await settle()
    store.statements[0].succeed(before)
    assert await first is before
    await settle()
    assert not second.done()
    store.statements[1].succeed(after)
    assert await second is after


async def test_calls_for_the_same_session_share_a_statement(
    store: Store, reads: CoalescedReads
) -> None:
    (first,) = ask(reads, uuid4())
    await settle()
    session = a_session()
    calls = ask(reads, *[session.session_id] * 5)
    await settle()
    store.statements[0].succeed()
    await first
    await settle()
    assert store.statements[1].ids == {session.session_id}
    store.statements[1].succeed(session)
    assert await asyncio.gather(*calls) == [session] * 5


async def serve_several(store: Store, reads: CoalescedReads, count: int) -> None:
    """Have one statement serve several callers, as none does the first."""
    (first,) = ask(reads, uuid4())
    await settle()
    several = ask(reads, *(uuid4() for _ in range(count)))
    await settle()
    store.statements[0].succeed()
    await settle()
    store.statements[1].succeed()
    await asyncio.gather(first, *several)


async def test_after_a_statement_that_served_several_the_next_takes_a_breath(
    store: Store, reads: CoalescedReads
) -> None:
    await serve_several(store, reads, 3)
    served = time.monotonic()
    (next_call,) = ask(reads, uuid4())
    await settle()
    assert len(store.statements) == 2
    joining = ask(reads, uuid4())
    await asyncio.sleep(BREATH_SECONDS * 4)
    assert len(store.statements[2].ids) == 2
    assert store.statements[2].sent - served >= BREATH_SECONDS * 0.8
    store.statements[2].succeed()
    await asyncio.gather(next_call, *joining)


async def test_a_breath_is_over_when_as_many_wait_as_were_there(
    store: Store, reads: CoalescedReads, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(coalescer, "BREATH_SECONDS", 60)
    await serve_several(store, reads, 3)
    back = ask(reads, uuid4(), uuid4())
    await settle()
    assert len(store.statements) == 2
    back += ask(reads, uuid4())
    await settle()
    assert len(store.statements[2].ids) == 3
    late = ask(reads, uuid4(), uuid4())  # of those who are served next
    await settle()
    store.statements[2].succeed()
    await asyncio.gather(*back)
    late += ask(reads, uuid4(), uuid4())
    await settle()
    assert len(store.statements) == 3
    late += ask(reads, uuid4())  # three that were answered and two that waited
    await settle()
    assert len(store.statements[3].ids) == 5
    store.statements[3].succeed()
    await asyncio.gather(*late)


async def test_a_statement_that_stalls_is_passed_by_others(
    store: Store, reads: CoalescedReads
) -> None:
    (stalled,) = ask(reads, uuid4())
    await settle()
    session = a_session()
    (call,) = ask(reads, session.session_id)
    await asyncio.sleep(STALLED_SECONDS / 2)
    assert len(store.statements) == 1
    await asyncio.sleep(STALLED_SECONDS)
    assert len(store.statements) == 2
    store.statements[1].succeed(session)
    assert await call is session
    assert not stalled.done()
    store.statements[0].succeed()
    assert await stalled is None


async def test_only_so_many_statements_are_in_flight(
    store: Store, reads: CoalescedReads, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(coalescer, "STALLED_SECONDS", 0.001)
    calls: list[asyncio.Task[Session | None]] = []
    for _ in range(READS_IN_FLIGHT_LIMIT + 3):
        calls += ask(reads, uuid4())
        await asyncio.sleep(0.004)
    assert len(store.statements) == READS_IN_FLIGHT_LIMIT
    store.statements[2].succeed()  # one comes back, and all that waited go together
    await settle()
    assert len(store.statements) == READS_IN_FLIGHT_LIMIT + 1
    assert len(store.statements[-1].ids) == 3
    for statement in store.statements:
        if not statement.answer.done():
            statement.succeed()
    assert await asyncio.gather(*calls) == [None] * len(calls)


async def test_an_error_reaches_each_caller_of_its_statement_and_no_later_one(
    store: Store, reads: CoalescedReads
) -> None:
    (first,) = ask(reads, uuid4())
    await settle()
    failing = ask(reads, uuid4(), uuid4(), uuid4())
    await settle()
    store.statements[0].succeed()
    assert await first is None
    await settle()
    session = a_session()
    (later,) = ask(reads, session.session_id)
    await settle()
    store.statements[1].answer.set_exception(StoreUnavailable("reading"))
    outcomes = await asyncio.gather(*failing, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [StoreUnavailable] * 3
    await asyncio.sleep(BREATH_SECONDS * 4)
    store.statements[2].succeed(session)
    assert await later is session


async def test_callers_that_are_cancelled_harm_nobody(store: Store, reads: CoalescedReads) -> None:
    (first,) = ask(reads, uuid4())
    await settle()
    session = a_session()
    gone, stays = ask(reads, uuid4(), session.session_id)
    await settle()
    first.cancel()
    gone.cancel()
    await settle()
    store.statements[0].succeed()
    await settle()
    assert store.statements[1].ids == {session.session_id}  # nobody waits for the other
    store.statements[1].succeed(session)
    assert await stays is session
    assert first.cancelled()
    assert gone.cancelled()


async def test_nothing_is_read_for_callers_who_are_all_gone(
    store: Store, reads: CoalescedReads
) -> None:
    (first,) = ask(reads, uuid4())
    await settle()
    gone = ask(reads, uuid4(), uuid4())
    await settle()
    for call in gone:
        call.cancel()
    await settle()
    store.statements[0].succeed()
    await first
    await asyncio.sleep(BREATH_SECONDS * 2)
    assert len(store.statements) == 1
    store.answers_at_once = True
    assert await reads.read(uuid4()) is None


async def test_a_statement_reads_a_batch_at_most_and_the_rest_follows(
    store: Store, reads: CoalescedReads, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(coalescer, "BATCH_LIMIT", 10)
    (first,) = ask(reads, uuid4())
    await settle()
    calls = ask(reads, *(uuid4() for _ in range(25)))
    await settle()
    store.answers_at_once = True
    store.statements[0].succeed()
    assert await asyncio.gather(first, *calls) == [None] * 26
    assert [len(statement.ids) for statement in store.statements] == [1, 10, 10, 5]


async def test_what_exceeds_a_batch_passes_one_that_stalls(
    store: Store, reads: CoalescedReads, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(coalescer, "BATCH_LIMIT", 2)
    (first,) = ask(reads, uuid4())
    await settle()
    calls = ask(reads, *(uuid4() for _ in range(3)))
    await settle()
    store.statements[0].succeed()
    await first
    await asyncio.sleep(STALLED_SECONDS * 2)
    assert [len(statement.ids) for statement in store.statements] == [1, 2, 1]
    store.statements[2].succeed()
    assert await calls[2] is None
    store.statements[1].succeed()
    await asyncio.gather(*calls)


async def test_a_thousand_callers_in_a_loop_are_all_answered(
    store: Store, reads: CoalescedReads
) -> None:
    store.answers_at_once = True

    async def caller() -> int:
        return [await reads.read(uuid4()) for _ in range(5)].count(None)

    assert set(await asyncio.gather(*(caller() for _ in range(1_000)))) == {5}
    assert len(store.statements) < 100
