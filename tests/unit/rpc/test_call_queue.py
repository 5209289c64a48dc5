"""The call queue, without a host or a service."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from session_authority_server.observability.metrics import QUEUE_REFUSALS
from session_authority_server.rpc import call_queue
from session_authority_server.rpc.authentication import ANONYMOUS
from session_authority_server.rpc.call_queue import BATCH_LIMIT, BATCHES_LIMIT, Call, CallQueue
from session_authority_server.rpc.error_table import ServerOverloaded, answer
from session_authority_server.rpc.methods import METHODS

VALIDATE = METHODS["/session_authority.v1.SessionService/ValidateSession"]
LIST = METHODS["/session_authority.v1.SessionService/ListSessions"]
RUNNING_LIMIT, WAITING_LIMIT = 3, 5
PATIENCE_SECONDS = 10
REFUSED = answer(ServerOverloaded())


class Queued:
    """A queue, the functions that run its calls, and their answers."""

    def __init__(
        self,
        *,
        running_limit: int = RUNNING_LIMIT,
        waiting_limit: int = WAITING_LIMIT,
        batch_pause_seconds: float = 0.0,
    ) -> None:
        self.queue = CallQueue(
            running_limit=running_limit,
            waiting_limit=waiting_limit,
            batch_pause_seconds=batch_pause_seconds,
        )
        self.queue.serve(self._run_one, self._run_validations, self._refuse)
        self.calls: list[Call] = []
        self.answers: list[list[Any]] = []
        self.running: dict[Call, asyncio.Event] = {}
        self.batches: list[Sequence[Call]] = []
        self.go_on: list[asyncio.Event] = []
        self.most_running = 0
        self.most_batches = 0
        self._batches_running = 0

    def put(self, method: Any = LIST) -> Call:
        answers: list[Any] = []
        call = Call(method, ANONYMOUS, None, answers.append)
        self.calls.append(call)
        self.answers.append(answers)
        self.queue.put(call)
        return call

    def answer_of(self, call: Call) -> Any:
        answers = self.answers[self.calls.index(call)]
        assert len(answers) <= 1
        return answers[0] if answers else None

    async def _run_one(self, call: Call) -> None:
        end = self.running[call] = asyncio.Event()
        self.most_running = max(self.most_running, len(self.running))
        try:
            await end.wait()
            call.answer(b"")
        finally:
            del self.running[call]

    async def _run_validations(self, calls: Sequence[Call]) -> None:
        end = asyncio.Event()
        self.batches.append(calls)
        self.go_on.append(end)
        self._batches_running += 1
        self.most_batches = max(self.most_batches, self._batches_running)
        await end.wait()
        self._batches_running -= 1
        for call in calls:
            call.answer(b"")

    def _refuse(self, call: Call) -> None:
        call.answer(REFUSED)

    def end_one(self, at: int = 0) -> None:
        if self.running:
            list(self.running.values())[at % len(self.running)].set()

    def end_everything(self) -> None:
        for end in (*self.running.values(), *self.go_on):
            end.set()


async def turns() -> None:
    """Let every ready task run."""
    for _ in range(6):
        await asyncio.sleep(0)


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not condition():
            await asyncio.sleep(0.001)


@pytest.fixture
async def queued() -> AsyncIterator[Queued]:
    queued = Queued()
    yield queued
    while queued.running or queued._batches_running:
        queued.end_everything()
        await turns()


async def test_calls_run_up_to_the_limit_and_the_others_follow_in_order_of_arrival(
    queued: Queued,
) -> None:
    calls = [queued.put() for _ in range(RUNNING_LIMIT + 2)]
    await turns()
    assert list(queued.running) == calls[:RUNNING_LIMIT]
    assert len(queued.queue) == 2
    for following in calls[RUNNING_LIMIT:]:
        queued.end_one()
        await turns()
        assert list(queued.running)[-1] is following
    assert queued.most_running == RUNNING_LIMIT


async def test_a_call_that_finds_the_queue_full_is_refused_at_once(queued: Queued) -> None:
    for _ in range(RUNNING_LIMIT):
        queued.put()
    await turns()
    waiting = [queued.put() for _ in range(WAITING_LIMIT)]
    before = QUEUE_REFUSALS.value("full")
    refused = queued.put()
    assert queued.answer_of(refused) is REFUSED
    assert QUEUE_REFUSALS.value("full") == before + 1
    assert [queued.answer_of(call) for call in waiting] == [None] * WAITING_LIMIT
    assert queued.queue.running == RUNNING_LIMIT


async def test_a_call_that_has_waited_for_too_long_is_refused(
    queued: Queued, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(call_queue, "WAIT_SECONDS", 0.02)
    running = [queued.put() for _ in range(RUNNING_LIMIT)]
    before = QUEUE_REFUSALS.value("late")
    waiting = queued.put()
    await until(lambda: queued.answer_of(waiting))
    assert queued.answer_of(waiting) is REFUSED
    assert QUEUE_REFUSALS.value("late") == before + 1
    assert list(queued.running) == running
    assert len(queued.queue) == 0


async def test_calls_that_are_late_together_are_refused_a_few_at_a_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(call_queue, "TICK_SECONDS", 60)
    monkeypatch.setattr(call_queue, "REFUSALS_AT_ONCE", 2)
    queued = Queued(running_limit=1, waiting_limit=100)
    running, *late = [queued.put() for _ in range(6)]
    await turns()
    monkeypatch.setattr(call_queue, "WAIT_SECONDS", 0)
    queued.end_one()
    await until(lambda: running.finished)
    await turns()
    # The next call runs although it is late, so that some calls are still answered.
    assert [queued.answer_of(call) for call in late] == [REFUSED, REFUSED, None, None, None]
    assert list(queued.running) == [late[2]]
    queued.end_everything()


async def test_while_late_validations_wait_to_be_refused_the_newest_run_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(call_queue, "TICK_SECONDS", 60)
    monkeypatch.setattr(call_queue, "BATCH_LIMIT", 2)
    monkeypatch.setattr(call_queue, "REFUSALS_AT_ONCE", 1)
    queued = Queued(waiting_limit=100)
    running = queued.put(VALIDATE)
    await until(lambda: queued.batches)
    late = [queued.put(VALIDATE) for _ in range(5)]
    await turns()
    monkeypatch.setattr(call_queue, "WAIT_SECONDS", 0)
    queued.go_on[0].set()
    await until(lambda: len(queued.batches) == 2)
    assert running.finished
    assert queued.answer_of(late[0]) is REFUSED
    assert queued.batches[1] == [late[4], late[3]]
    queued.end_everything()


async def test_refusals_are_logged_in_one_line(queued: Queued) -> None:
    with capture_logs() as logs:
        for _ in range(WAITING_LIMIT + 10):
            queued.put()
    assert [(line["event"], line["waiting_calls"]) for line in logs] == [
        ("overloaded; refusing calls", WAITING_LIMIT)
    ]


async def test_a_call_that_is_cancelled_while_it_waits_never_runs(queued: Queued) -> None:
    running = [queued.put() for _ in range(RUNNING_LIMIT)]
    gone, following = queued.put(), queued.put()
    await turns()
    gone.cancel()
    queued.end_one()
    await turns()
    assert list(queued.running) == [*running[1:], following]
    assert queued.answer_of(gone) is None


async def test_a_call_that_is_cancelled_while_it_runs_frees_its_place(queued: Queued) -> None:
    running = [queued.put() for _ in range(RUNNING_LIMIT)]
    following = queued.put()
    await turns()
    running[1].cancel()
    await turns()
    assert list(queued.running) == [running[0], running[2], following]
    assert queued.answer_of(running[1]) is None


async def test_validations_that_arrive_in_one_turn_run_as_one_batch() -> None:
    queued = Queued(waiting_limit=1_000)
    calls = [queued.put(VALIDATE) for _ in range(5)]
    await turns()
    assert queued.batches == [calls]


async def test_a_cancelled_validation_is_left_out_of_its_batch(queued: Queued) -> None:
    gone, other = queued.put(VALIDATE), queued.put(VALIDATE)
    gone.cancel()
    await turns()
    assert queued.batches == [[other]]


async def test_validations_that_arrive_while_a_batch_runs_wait_for_it_and_run_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(call_queue, "TICK_SECONDS", 60)
    queued = Queued()
    first = queued.put(VALIDATE)
    await turns()
    others = []
    for _ in range(3):
        others.append(queued.put(VALIDATE))
        await turns()
    assert queued.batches == [[first]]
    queued.go_on[0].set()
    await until(lambda: len(queued.batches) == 2)
    assert queued.batches[1] == others
    assert queued.answer_of(first) == b""


@pytest.mark.parametrize(("arrive", "batches"), [(1, 1), (2, 2)])
async def test_after_a_batch_the_next_one_waits_for_as_many_calls_as_were_answered(
    arrive: int, batches: int
) -> None:
    queued = Queued(batch_pause_seconds=60)
    for _ in range(2):
        queued.put(VALIDATE)
    await turns()
    queued.end_everything()
    await turns()

    for _ in range(arrive):
        queued.put(VALIDATE)
        await turns()

    assert len(queued.batches) == batches


async def test_the_number_of_calls_in_a_batch_is_limited() -> None:
    queued = Queued(waiting_limit=10_000)
    calls = [queued.put(VALIDATE) for _ in range(2 * BATCH_LIMIT + 1)]
    for number in range(3):
        await until(lambda: len(queued.batches) > number)  # noqa: B023 - awaited here
        queued.go_on[number].set()
    assert [len(batch) for batch in queued.batches] == [BATCH_LIMIT, BATCH_LIMIT, 1]
    assert [call for batch in queued.batches for call in batch] == calls


async def test_a_limited_number_of_batches_start_while_a_slow_batch_runs(
    queued: Queued, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(call_queue, "TICK_SECONDS", 0.005)
    slow = queued.put(VALIDATE)
    await turns()
    for number in range(1, BATCHES_LIMIT):
        overtaking = queued.put(VALIDATE)
        await until(lambda: len(queued.batches) > number)  # noqa: B023 - awaited here
        queued.go_on[number].set()
        await until(lambda: queued.answer_of(overtaking) == b"")  # noqa: B023
        assert queued.answer_of(slow) is None
    # These batches do not end either. They reach the limit, so no other batch starts.
    for _ in range(BATCHES_LIMIT + 1):
        queued.put(VALIDATE)
        await asyncio.sleep(0.01)
    assert queued.most_batches == BATCHES_LIMIT


async def test_validations_run_even_if_other_calls_take_all_places(queued: Queued) -> None:
    for _ in range(RUNNING_LIMIT + 1):
        queued.put()
    validation = queued.put(VALIDATE)
    await turns()
    assert queued.batches == [[validation]]


ACTIONS = st.lists(
    st.tuples(
        st.sampled_from(
            ["list", "list", "validate", "validate", "cancel", "end", "end batch", "turn"]
        ),
        st.integers(0, 20),
    ),
    max_size=60,
)


def happen(queued: Queued, action: str, number: int) -> None:
    if action == "list":
        queued.put()
    elif action == "validate":
        queued.put(VALIDATE)
    elif action == "cancel" and queued.calls:
        queued.calls[number % len(queued.calls)].cancel()
    elif action == "end":
        queued.end_one(number)
    elif action == "end batch" and queued.go_on:
        queued.go_on[number % len(queued.go_on)].set()


@settings(deadline=None, max_examples=150)
@given(ACTIONS)
def test_each_call_is_answered_once_and_frees_its_place_in_any_order_of_events(
    actions: list[tuple[str, int]],
) -> None:
    async def play() -> None:
        queued = Queued()
        for action, number in actions:
            if action == "turn":
                await turns()
            else:
                happen(queued, action, number)
        while len(queued.queue) or queued.queue.running or queued.queue._batches:
            queued.end_everything()
            await asyncio.sleep(0)
        for call, answers in zip(queued.calls, queued.answers, strict=True):
            assert call.finished
            assert len(answers) <= 1
        assert queued.most_running <= RUNNING_LIMIT
        assert queued.most_batches <= BATCHES_LIMIT
        again = [queued.put() for _ in range(RUNNING_LIMIT)]
        await turns()
        assert list(queued.running) == again
        queued.end_everything()
        await turns()

    async def in_time() -> None:
        async with asyncio.timeout(PATIENCE_SECONDS):
            await play()

    asyncio.run(in_time())
