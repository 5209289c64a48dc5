"""Questions that are asked at the same time, in both clients."""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest

from session_authority import (
    AsyncSessionClient,
    DeadlineExceeded,
    InternalError,
    InvalidArgument,
    SessionClient,
    Unavailable,
)
from session_authority.near_cache.core import Due
from session_authority.near_cache.questions import (
    CALLS_LIMIT,
    QUESTION_LIMIT_BYTES,
    SHARED_QUESTIONS,
    Questions,
)
from session_authority.v1 import session_service_pb2 as v1
from tests.unit.client.fake_authority import FakeAuthority, batch_of, fault
from tests.unit.client.near_cache.conftest import NearTwin, answer_by_token, tokens_asked, until


class Gate:
    """Makes the calls of an authority wait until the test opens it."""

    def __init__(self, authority: FakeAuthority) -> None:
        self._held = authority.hold = threading.Event()

    def open(self) -> None:
        self._held.set()


@pytest.fixture
def gate(near: NearTwin, authority: FakeAuthority) -> Iterator[Gate]:
    gate = Gate(authority)
    yield gate
    gate.open()


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(64) as pool:
        yield pool


Ask = Callable[..., "asyncio.Future[Any]"]


def asking(near: NearTwin, threads: ThreadPoolExecutor) -> Ask:
    """Ask in a task or a thread of its own."""

    def asks(token: str, **question: Any) -> "asyncio.Future[Any]":
        client = near.client
        if isinstance(client, AsyncSessionClient):
            return asyncio.ensure_future(client.validate(token, **question))
        loop = asyncio.get_running_loop()
        return loop.run_in_executor(threads, lambda: client.validate(token, **question))

    return asks


@pytest.fixture
def ask(near: NearTwin, gate: Gate, threads: ThreadPoolExecutor) -> Ask:
    return asking(near, threads)


async def fill(ask: Ask, authority: FakeAuthority) -> "list[asyncio.Future[Any]]":
    """Have as many calls in flight as there may be."""
    calls = []
    for number in range(CALLS_LIMIT):
        calls.append(ask(f"t-first-{number}"))
        expected = number + 1
        await until(lambda: len(authority.calls) == expected)  # noqa: B023 - awaited here
    return calls


async def queued(near: NearTwin, expected: int) -> None:
    """Wait until as many different questions wait behind the calls in flight."""
    near_cache: Any = near.client._near
    asker = (
        near_cache._asker() if isinstance(near.client, AsyncSessionClient) else near_cache._asker
    )
    await until(lambda: len(asker._questions) == expected)


async def test_what_comes_while_all_calls_are_in_flight_goes_out_together(
    near: NearTwin, authority: FakeAuthority, gate: Gate, ask: Ask
) -> None:
    first = await fill(ask, authority)
    others = [ask(f"t-{number}") for number in range(50)]
    await queued(near, 50)
    assert len(authority.calls) == CALLS_LIMIT
    gate.open()
    sessions = await asyncio.gather(*first, *others)
    assert [session.session_id for session in sessions[CALLS_LIMIT:]] == [
        f"s-{number}" for number in range(50)
    ]
    methods = [call.method for call in authority.calls]
    assert methods == ["ValidateSession"] * CALLS_LIMIT + ["BatchValidateSessions"]
    assert near.statistics.size == CALLS_LIMIT + 50


@pytest.mark.parametrize("client_type", [AsyncSessionClient])
async def test_what_many_ask_at_once_is_shared_by_the_calls_that_are_free(
    near: NearTwin, authority: FakeAuthority, gate: Gate, ask: Ask
) -> None:
    many = [ask(f"t-{number}") for number in range(CALLS_LIMIT * SHARED_QUESTIONS)]
    await until(lambda: len(authority.calls) == CALLS_LIMIT)
    gate.open()
    sessions = await asyncio.gather(*many)
    assert [session.session_id for session in sessions] == [
        f"s-{number}" for number in range(len(many))
    ]
    assert len(authority.calls) == CALLS_LIMIT


async def test_the_same_question_is_asked_once_while_it_waits(
    near: NearTwin, authority: FakeAuthority, gate: Gate, ask: Ask
) -> None:
    first = await fill(ask, authority)
    alike = [ask("t-1") for _ in range(10)]
    await queued(near, 1)
    different = [ask("t-1", user_id="eve"), ask("t-1", passive=True)]
    await queued(near, 3)
    await asyncio.sleep(0.1)  # for the slowest of the ten threads
    gate.open()
    await asyncio.gather(*first, *alike, *different)
    assert tokens_asked(authority)[CALLS_LIMIT:] == ["t-1"] * 3


async def test_an_answer_that_is_on_its_way_is_not_shared(
    near: NearTwin, authority: FakeAuthority, gate: Gate, ask: Ask
) -> None:
    # It may have been made before an ending that was answered before the second question was asked.
    first = ask("t-1")
    await until(lambda: len(authority.calls) == 1)
    second = ask("t-1")
    await until(lambda: len(authority.calls) == 2)
    gate.open()
    assert (await first).session_id == (await second).session_id == "s-1"


async def test_questions_that_one_of_them_spoils_are_asked_one_by_one(
    near: NearTwin, authority: FakeAuthority, gate: Gate, ask: Ask
) -> None:
    refusal = fault(
        grpc.StatusCode.INVALID_ARGUMENT,
        "INVALID_FIELD",
        violations={"user_id": "has control characters"},
    )
    authority.answers("BatchValidateSessions", refusal)
    authority.answers_by(
        "ValidateSession", lambda asked: refusal if asked.user_id else answer_by_token(asked)
    )
    first = await fill(ask, authority)
    good, bad = ask("t-1"), ask("t-2", user_id="\t")
    await queued(near, 2)
    gate.open()
    assert (await good).session_id == "s-1"
    with pytest.raises(InvalidArgument, match="user_id: has control characters"):
        await bad
    await asyncio.gather(*first)


async def test_what_could_spoil_a_batch_is_asked_by_itself_at_once(
    near: NearTwin, authority: FakeAuthority, gate: Gate, ask: Ask
) -> None:
    first = await fill(ask, authority)
    alone = [
        ask("t-1", ip_address="junk"),
        ask("t-2", ip_address="fe80::1%eth0"),
        ask("t-3", user_id="u" * QUESTION_LIMIT_BYTES),
    ]
    await until(lambda: len(authority.calls) == CALLS_LIMIT + 3)
    gate.open()
    await asyncio.gather(*first, *alone)
    assert {call.method for call in authority.calls} == {"ValidateSession"}


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (fault(grpc.StatusCode.INTERNAL, "INTERNAL"), InternalError),
        (v1.BatchValidateSessionsResponse(), InternalError),
        (fault(grpc.StatusCode.CANCELLED, "STORE_UNAVAILABLE"), Unavailable),
    ],
    ids=["fault", "too few answers", "outage"],
)
async def test_the_failure_of_a_batch_is_told_to_each_by_an_exception_of_its_own(
    near: NearTwin,
    authority: FakeAuthority,
    gate: Gate,
    ask: Ask,
    answer: Any,
    expected: type[Exception],
) -> None:
    authority.answers("BatchValidateSessions", answer)
    first = await fill(ask, authority)
    others = [ask(f"t-{number}") for number in range(5)]
    await queued(near, 5)
    gate.open()
    await asyncio.gather(*first)
    errors = await asyncio.gather(*others, return_exceptions=True)
    assert {type(error) for error in errors} == {expected}
    assert len({id(error) for error in errors}) == 5
    assert len({str(error) for error in errors}) == 1


async def test_one_answer_that_is_not_understood_spoils_no_other(
    near: NearTwin, authority: FakeAuthority, gate: Gate, ask: Ask
) -> None:
    authority.answers_by(
        "BatchValidateSessions",
        batch_of(
            lambda asked: (
                v1.ValidateSessionResponse()
                if asked.session_token == "t-2"
                else answer_by_token(asked)
            )
        ),
    )
    first = await fill(ask, authority)
    good, bad = ask("t-1"), ask("t-2")
    await queued(near, 2)
    gate.open()
    assert (await good).session_id == "s-1"
    with pytest.raises(InternalError, match="neither a session nor a rejection"):
        await bad
    await asyncio.gather(*first)


async def test_a_question_that_waits_too_long_ends_at_its_deadline(
    client_type: type[SessionClient | AsyncSessionClient],
    authority_by_token: FakeAuthority,
    threads: ThreadPoolExecutor,
) -> None:
    authority = authority_by_token
    near = NearTwin(client_type(authority.address, deadline_seconds=1, near_cache=True))
    await near.connected()
    authority.calls.clear()
    gate = Gate(authority)
    asks = asking(near, threads)
    first = await fill(asks, authority)
    await asyncio.sleep(0.3)
    began = time.monotonic()
    other = asks("t-1")
    with pytest.raises(DeadlineExceeded):
        await first[0]
    with pytest.raises(DeadlineExceeded):
        await other
    assert time.monotonic() - began < 10
    gate.open()
    await asyncio.gather(*first, return_exceptions=True)
    assert await near.validate("t-1")
    await near.close()


@pytest.mark.parametrize(
    "client_type", [AsyncSessionClient], ids=["aio"]
)  # threads are not cancelled
async def test_one_that_no_longer_waits_hurts_no_other(
    near: NearTwin, authority: FakeAuthority, gate: Gate, ask: Ask
) -> None:
    first = await fill(ask, authority)
    gone, alike, other = ask("t-1"), ask("t-1"), ask("t-2")
    await queued(near, 2)
    gone.cancel()
    first[0].cancel()
    with pytest.raises(asyncio.CancelledError):
        await gone
    gate.open()
    assert (await alike).session_id == "s-1"
    assert (await other).session_id == "s-2"
    with pytest.raises(asyncio.CancelledError):
        await first[0]
    await asyncio.gather(*first[1:])
    await until(lambda: near.statistics.size == CALLS_LIMIT + 2)  # even its answer is kept


def test_reports_that_wait_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("session_authority.near_cache.questions.REPORTS_LIMIT", 2)
    questions: Questions[None] = Questions()
    for number in range(3):
        questions.report(Due(f"t-{number}"))
    assert [question.message.session_token for question in questions.take()] == ["t-0", "t-1"]


@pytest.mark.parametrize(
    ("waiting", "shares"),
    [(1, [1]), (65, [64, 1]), (200, [64, 64, 64, 8]), (1_000, [250] * 4), (5_000, [1_000] * 4)],
)
def test_the_calls_that_are_free_share_what_is_worth_sharing(
    waiting: int, shares: list[int]
) -> None:
    questions: Questions[None] = Questions()
    for number in range(waiting):
        questions.report(Due(f"t-{number}"))
    free = range(CALLS_LIMIT, CALLS_LIMIT - len(shares), -1)
    assert [len(questions.take(calls)) for calls in free] == shares


async def test_a_fault_in_the_library_is_raised_and_leaves_nobody_waiting(
    near: NearTwin, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> Any:
        raise ZeroDivisionError("here")

    monkeypatch.setattr("session_authority.near_cache.operations.settle", broken)
    for _ in range(CALLS_LIMIT + 1):
        with pytest.raises(ZeroDivisionError, match="here"):
            await near.validate("t-1")
    monkeypatch.undo()
    assert await near.validate("t-1")
