"""Concurrent validations by both clients, with and without a near cache."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest

from session_authority import (
    AsyncSessionClient,
    ClientClosed,
    DeadlineExceeded,
    InternalError,
    InvalidArgument,
    RejectionReason,
    SessionClient,
    Unavailable,
)
from session_authority._batching import (
    CALLS_LIMIT,
    QUESTION_LIMIT_BYTES,
    SHARED_QUESTIONS,
    Questions,
)
from session_authority.v1 import session_service_pb2 as v1
from tests.support.fake_authority import FakeAuthority, batch_of, fault
from tests.support.waiting import until
from tests.unit.client.conftest import Ask, Gate, answer_by_token, asking, tokens_asked
from tests.unit.client.near_cache.conftest import NearTwin

pytestmark = pytest.mark.usefixtures("brief_retries")


@pytest.fixture(params=["plain", "near"])
def near_cache(request: pytest.FixtureRequest) -> bool:
    kind: str = request.param
    return kind == "near"


@pytest.fixture
async def twin(
    client_type: type[SessionClient | AsyncSessionClient],
    authority_by_token: FakeAuthority,
    near_cache: bool,
) -> AsyncIterator[NearTwin]:
    client = client_type(
        authority_by_token.address, api_key="key-1", deadline_seconds=5, near_cache=near_cache
    )
    twin = NearTwin(client)
    if near_cache:
        await twin.connected()
        authority_by_token.calls.clear()
    yield twin
    await twin.close()


@pytest.fixture
def gate(twin: NearTwin, authority: FakeAuthority) -> Iterator[Gate]:
    gate = Gate(authority)
    yield gate
    gate.open()


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(64) as pool:
        yield pool


@pytest.fixture
def ask(twin: NearTwin, gate: Gate, threads: ThreadPoolExecutor) -> Ask:
    return asking(twin, threads)


async def fill(ask: Ask, authority: FakeAuthority) -> "list[asyncio.Future[Any]]":
    """Start the maximum number of calls in flight."""
    calls = []
    for number in range(CALLS_LIMIT):
        calls.append(ask(f"t-first-{number}"))
        expected = number + 1
        await until(lambda: len(authority.calls) == expected)  # noqa: B023 - awaited here
    return calls


async def queued(twin: NearTwin, expected: int) -> None:
    """Wait until a number of different questions wait behind the calls in flight."""
    client: Any = twin.client
    batcher = client._connection().batcher
    await until(lambda: len(batcher._questions) == expected)


async def test_a_single_validation_is_sent_at_once_and_unbatched(
    twin: NearTwin, authority: FakeAuthority
) -> None:
    assert (await twin.validate("t-1")).session_id == "s-1"
    assert (await twin.validate("t-2", user_id="ana")).session_id == "s-2"
    assert [call.method for call in authority.calls] == ["ValidateSession"] * 2


async def test_a_batch_has_all_arguments_of_each_question(
    twin: NearTwin, authority: FakeAuthority, gate: Gate, ask: Ask
) -> None:
    first = await fill(ask, authority)
    others = [
        ask("t-1", ip_address="192.0.2.1"),
        ask("t-2", user_id="ana"),
        ask("t-3", passive=True),
    ]
    await queued(twin, 3)
    gate.open()
    await asyncio.gather(*first, *others)
    [batch] = [call for call in authority.calls if call.method == "BatchValidateSessions"]
    asked = sorted(batch.request.requests, key=lambda question: question.session_token)
    assert asked == [
        v1.ValidateSessionRequest(session_token="t-1", ip_address="192.0.2.1"),
        v1.ValidateSessionRequest(session_token="t-2", user_id="ana"),
        v1.ValidateSessionRequest(session_token="t-3", passive=True),
    ]
    assert batch.metadata["authorization"] == "Bearer key-1"


async def test_a_rejection_in_a_batch_concerns_only_its_caller(
    twin: NearTwin, authority: FakeAuthority, gate: Gate, ask: Ask
) -> None:
    first = await fill(ask, authority)
    dead, alive = ask("x-dead"), ask("t-1")
    await queued(twin, 2)
    gate.open()
    assert (await dead).reason is RejectionReason.REVOKED
    assert (await alive).session_id == "s-1"
    await asyncio.gather(*first)


async def test_closing_ends_the_calls_in_flight_and_those_that_wait_behind_them(
    twin: NearTwin, authority: FakeAuthority, gate: Gate, ask: Ask
) -> None:
    calls = await fill(ask, authority)
    calls += [ask(f"t-{number}") for number in range(5)]
    await queued(twin, 5)
    await twin.close()
    async with asyncio.timeout(4):  # less than the calls' deadline
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
    assert {type(outcome) for outcome in outcomes} == {ClientClosed}


async def test_a_client_without_batching_makes_a_call_for_each_question(
    client_type: type[SessionClient | AsyncSessionClient],
    authority_by_token: FakeAuthority,
    threads: ThreadPoolExecutor,
) -> None:
    twin = NearTwin(client_type(authority_by_token.address, batching=False))
    gate = Gate(authority_by_token)
    asks = asking(twin, threads)
    calls = [asks(f"t-{number}") for number in range(2 * CALLS_LIMIT)]
    await until(lambda: len(authority_by_token.calls) == len(calls))
    gate.open()
    answers = await asyncio.gather(*calls)
    assert [answer.session_id for answer in answers] == [f"s-{n}" for n in range(len(calls))]
    assert {call.method for call in authority_by_token.calls} == {"ValidateSession"}
    await twin.close()


async def test_questions_that_wait_for_a_call_are_sent_together(
    twin: NearTwin, authority: FakeAuthority, gate: Gate, ask: Ask, near_cache: bool
) -> None:
    first = await fill(ask, authority)
    others = [ask(f"t-{number}") for number in range(50)]
    await queued(twin, 50)
    assert len(authority.calls) == CALLS_LIMIT
    gate.open()
    sessions = await asyncio.gather(*first, *others)
    assert [session.session_id for session in sessions[CALLS_LIMIT:]] == [
        f"s-{number}" for number in range(50)
    ]
    methods = [call.method for call in authority.calls]
    assert methods == ["ValidateSession"] * CALLS_LIMIT + ["BatchValidateSessions"]
    if near_cache:
        assert twin.statistics.size == CALLS_LIMIT + 50


@pytest.mark.parametrize("client_type", [AsyncSessionClient])
async def test_many_questions_are_split_over_the_free_calls(
    twin: NearTwin, authority: FakeAuthority, gate: Gate, ask: Ask
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
    twin: NearTwin, authority: FakeAuthority, gate: Gate, ask: Ask
) -> None:
    first = await fill(ask, authority)
    alike = [ask("t-1") for _ in range(10)]
    await queued(twin, 1)
    different = [ask("t-1", user_id="eve"), ask("t-1", passive=True)]
    await queued(twin, 3)
    await asyncio.sleep(0.1)  # time for the slowest of the ten threads
    gate.open()
    await asyncio.gather(*first, *alike, *different)
    assert tokens_asked(authority)[CALLS_LIMIT:] == ["t-1"] * 3


async def test_an_answer_in_flight_is_not_shared_with_later_questions(
    twin: NearTwin, authority: FakeAuthority, gate: Gate, ask: Ask
) -> None:
    # The answer in flight may be older than an ending that was answered before the second question.
    first = ask("t-1")
    await until(lambda: len(authority.calls) == 1)
    second = ask("t-1")
    await until(lambda: len(authority.calls) == 2)
    gate.open()
    assert (await first).session_id == (await second).session_id == "s-1"


async def test_questions_of_a_refused_batch_are_asked_one_by_one(
    twin: NearTwin, authority: FakeAuthority, gate: Gate, ask: Ask
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
    await queued(twin, 2)
    gate.open()
    assert (await good).session_id == "s-1"
    with pytest.raises(InvalidArgument, match="user_id: has control characters"):
        await bad
    await asyncio.gather(*first)


async def test_a_question_that_could_fail_a_batch_is_asked_alone(
    twin: NearTwin, authority: FakeAuthority, gate: Gate, ask: Ask
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
async def test_each_caller_of_a_failed_batch_gets_its_own_exception(
    twin: NearTwin,
    authority: FakeAuthority,
    gate: Gate,
    ask: Ask,
    answer: Any,
    expected: type[Exception],
) -> None:
    authority.answers("BatchValidateSessions", answer)
    first = await fill(ask, authority)
    others = [ask(f"t-{number}") for number in range(5)]
    await queued(twin, 5)
    gate.open()
    await asyncio.gather(*first)
    errors = await asyncio.gather(*others, return_exceptions=True)
    assert {type(error) for error in errors} == {expected}
    assert len({id(error) for error in errors}) == 5
    assert len({str(error) for error in errors}) == 1


async def test_a_malformed_answer_affects_no_other_answer_of_its_batch(
    twin: NearTwin, authority: FakeAuthority, gate: Gate, ask: Ask
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
    await queued(twin, 2)
    gate.open()
    assert (await good).session_id == "s-1"
    with pytest.raises(InternalError, match="neither a session nor a rejection"):
        await bad
    await asyncio.gather(*first)


async def test_a_question_that_waits_too_long_ends_at_its_deadline(
    client_type: type[SessionClient | AsyncSessionClient],
    authority_by_token: FakeAuthority,
    threads: ThreadPoolExecutor,
    near_cache: bool,
) -> None:
    authority = authority_by_token
    twin = NearTwin(client_type(authority.address, deadline_seconds=1, near_cache=near_cache))
    if near_cache:
        await twin.connected()
        authority.calls.clear()
    gate = Gate(authority)
    asks = asking(twin, threads)
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
    assert await twin.validate("t-1")
    await twin.close()


@pytest.mark.parametrize(
    "client_type", [AsyncSessionClient], ids=["aio"]
)  # a thread can't be cancelled
async def test_a_cancelled_question_affects_no_other(
    twin: NearTwin, authority: FakeAuthority, gate: Gate, ask: Ask, near_cache: bool
) -> None:
    first = await fill(ask, authority)
    gone, alike, other = ask("t-1"), ask("t-1"), ask("t-2")
    await queued(twin, 2)
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
    if near_cache:
        await until(lambda: twin.statistics.size == CALLS_LIMIT + 2)  # its answer is cached, too


def test_the_number_of_waiting_reports_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("session_authority._batching.WAITING_LIMIT", 2)
    questions: Questions[None] = Questions()
    for number in range(3):
        questions.report(v1.ValidateSessionRequest(session_token=f"t-{number}"))
    assert [question.message.session_token for question in questions.take()] == ["t-0", "t-1"]


@pytest.mark.parametrize(
    ("waiting", "shares"),
    [(1, [1]), (65, [64, 1]), (200, [64, 64, 64, 8]), (1_000, [250] * 4), (5_000, [1_000] * 4)],
)
def test_questions_are_split_only_if_there_are_enough(waiting: int, shares: list[int]) -> None:
    questions: Questions[None] = Questions()
    for number in range(waiting):
        questions.report(v1.ValidateSessionRequest(session_token=f"t-{number}"))
    free = range(CALLS_LIMIT, CALLS_LIMIT - len(shares), -1)
    assert [len(questions.take(calls)) for calls in free] == shares


async def test_a_fault_in_the_library_is_raised_for_every_waiting_caller(
    twin: NearTwin, near_cache: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> Any:
        raise ZeroDivisionError("here")

    inside = "near_cache.operations.settle" if near_cache else "_batching._outcome"
    monkeypatch.setattr(f"session_authority.{inside}", broken)
    for _ in range(CALLS_LIMIT + 1):
        with pytest.raises(ZeroDivisionError, match="here"):
            await twin.validate("t-1")
    monkeypatch.undo()
    assert await twin.validate("t-1")
