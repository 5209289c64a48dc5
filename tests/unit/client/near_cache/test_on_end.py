"""Subscriptions to the ends of sessions, in both clients, against an authority with scripted answers and streams."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator
from contextvars import ContextVar
from datetime import timedelta
from functools import partial
from typing import Any

import pytest

from session_authority import (
    AsyncSessionClient,
    ClientClosed,
    ConfigurationError,
    EndSubscription,
    NearCache,
    RejectionReason,
    SessionAuthorityError,
    SessionClient,
    SessionNotLive,
    Unavailable,
)
from session_authority._concurrency_sync import CALLBACK_THREADS_LIMIT, Callbacks
from session_authority.v1 import session_service_pb2 as v1
from tests.support.fake_authority import FakeAuthority, RunningAuthority, batch_of, rejected
from tests.support.waiting import until, wait_until
from tests.unit.client.conftest import answer_by_token, tokens_asked
from tests.unit.client.near_cache.conftest import NearTwin


class Ends:
    """The sessions that have ended, and the callbacks that were called."""

    def __init__(self, authority: FakeAuthority) -> None:
        self.ended: set[str] = set()
        self.calls: list[tuple[str, SessionAuthorityError]] = []
        authority.answers_by("ValidateSession", self._answer)
        authority.answers_by("BatchValidateSessions", batch_of(self._answer))

    def _answer(self, request: v1.ValidateSessionRequest) -> v1.ValidateSessionResponse:
        if request.session_token in self.ended:
            return rejected(v1.REJECTION_REASON_REVOKED)
        return answer_by_token(request)

    def callback(self, name: str) -> Any:
        return lambda error: self.calls.append((name, error))

    @property
    def names(self) -> list[str]:
        return sorted(name for name, _ in self.calls)


@pytest.fixture
def ends(authority: FakeAuthority, near: NearTwin) -> Ends:
    return Ends(authority)


@pytest.fixture
async def near(
    client_type: type[SessionClient | AsyncSessionClient], authority_by_token: FakeAuthority
) -> AsyncIterator[NearTwin]:
    authority_by_token.watch.lease = timedelta(seconds=2)
    near = NearTwin(client_type(authority_by_token.address, near_cache=NearCache(max_sessions=2)))
    await near.connected()
    authority_by_token.calls.clear()
    yield near
    await near.close()


async def test_the_callback_gets_the_reason_once_the_stream_reports_the_end(
    near: NearTwin, authority: FakeAuthority, ends: Ends
) -> None:
    subscription = await near.on_end("t-1", ends.callback("first"))
    await near.on_end("t-1", ends.callback("second"))
    await near.on_end("t-2", ends.callback("other"))
    assert isinstance(subscription, EndSubscription)
    assert subscription.ended is None
    ends.ended.add("t-1")
    authority.watch.evict("s-1")
    await until(lambda: len(ends.calls) == 2)
    assert ends.names == ["first", "second"]
    error = subscription.ended
    assert isinstance(error, SessionNotLive)
    assert error.rejection is not None
    assert error.rejection.reason is RejectionReason.REVOKED
    assert all(isinstance(each, SessionNotLive) for _, each in ends.calls)
    assert len({id(each) for _, each in ends.calls}) == 2  # raising one does not change the other


async def test_a_cached_answer_makes_on_end_free_of_calls(
    near: NearTwin, authority: FakeAuthority, ends: Ends
) -> None:
    await near.validate("t-1")
    await near.on_end("t-1", ends.callback("first"))
    await near.on_end("t-1", ends.callback("second"))
    assert tokens_asked(authority) == ["t-1"]


@pytest.mark.parametrize("change", ["session", "user", "everything"])
async def test_a_change_that_leaves_the_session_live_calls_nothing(
    near: NearTwin, authority: FakeAuthority, ends: Ends, change: str
) -> None:
    await near.on_end("t-1", ends.callback("live"))
    before = len(authority.calls)
    if change == "session":  # it got a newer token before this one was issued
        authority.watch.evict("s-1")
    else:
        authority.watch.evict(
            users=("ana",) if change == "user" else (), everything=change == "everything"
        )
    await until(lambda: len(authority.calls) > before)
    assert all(request.passive for request in authority.requests[before:])
    await near.on_end("t-3", ends.callback("other"))
    ends.ended.add("t-3")
    authority.watch.evict("s-3")
    await until(lambda: ends.names == ["other"])


async def test_displaced_sessions_keep_their_subscriptions(
    near: NearTwin, authority: FakeAuthority, ends: Ends
) -> None:
    for number in range(5):
        await near.on_end(f"t-{number}", ends.callback(f"{number}"))
    assert near.statistics.size <= 2
    ends.ended |= {"t-0", "t-3"}
    authority.watch.evict("s-0", "s-3")
    await until(lambda: ends.names == ["0", "3"])


async def test_a_change_during_on_end_is_not_missed(
    near: NearTwin, authority: FakeAuthority, ends: Ends
) -> None:
    gate = authority.hold = threading.Event()
    client = near.client
    if isinstance(client, AsyncSessionClient):
        pending = asyncio.ensure_future(client.on_end("t-1", ends.callback("end")))
    else:
        pending = asyncio.ensure_future(
            asyncio.to_thread(client.on_end, "t-1", ends.callback("end"))
        )
    await until(lambda: tokens_asked(authority) == ["t-1"])  # the answer is live, but held
    ends.ended.add("t-1")
    authority.watch.evict("s-1", "s-9")
    authority.hold = None
    gate.set()
    await pending
    await until(lambda: ends.names == ["end"])


async def test_an_authority_that_stops_makes_sessions_unavailable_within_the_lease(
    near: NearTwin, running: RunningAuthority, ends: Ends
) -> None:
    subscription = await near.on_end("t-1", ends.callback("end"))
    began = time.monotonic()
    await running.stop()
    await until(lambda: ends.names == ["end"])
    assert type(ends.calls[0][1]) is Unavailable
    assert isinstance(subscription.ended, Unavailable)
    assert time.monotonic() - began > 0.4  # not at once: the lease may still be renewed


async def test_a_session_stays_watched_while_only_the_stream_is_down(
    near: NearTwin, authority: FakeAuthority, ends: Ends
) -> None:
    authority.watch.lease = timedelta(seconds=0.4)
    await until(lambda: near.statistics.lease_seconds == 0.4)
    subscription = await near.on_end("t-1", ends.callback("end"))
    authority.watch.mute = True
    before = len(tokens_asked(authority))
    await until(lambda: len(tokens_asked(authority)) > before + 4)  # asked within each lease
    assert subscription.ended is None
    ends.ended.add("t-1")
    await until(lambda: ends.names == ["end"])
    assert isinstance(ends.calls[0][1], SessionNotLive)


async def test_an_invalid_token_is_refused_at_once(
    near: NearTwin, authority: FakeAuthority, ends: Ends
) -> None:
    ends.ended.add("t-1")
    with pytest.raises(SessionNotLive) as caught:
        await near.on_end("t-1", ends.callback("end"))
    assert caught.value.rejection is not None
    assert caught.value.rejection.reason is RejectionReason.REVOKED
    calls = len(authority.calls)
    for token in (None, "", "ä"):
        with pytest.raises(SessionNotLive):
            await near.on_end(token, ends.callback("end"))
    assert len(authority.calls) == calls
    assert ends.calls == []


async def test_on_end_fails_during_an_outage(
    near: NearTwin, running: RunningAuthority, ends: Ends
) -> None:
    await running.stop()
    with pytest.raises(Unavailable):
        await near.on_end("t-1", ends.callback("end"))
    assert ends.calls == []


async def test_without_a_near_cache_the_error_says_how_to_enable_it(
    client_type: type[SessionClient | AsyncSessionClient],
) -> None:
    client = NearTwin(client_type("127.0.0.1:1"))
    with pytest.raises(
        ConfigurationError, match=r"near_cache=True .* SESSION_AUTHORITY_NEAR_CACHE"
    ):
        await client.on_end("t-1", print)
    await client.close()


async def test_a_callback_that_cannot_be_called_is_refused(near: NearTwin) -> None:
    with pytest.raises(TypeError, match="callback must be a function, not str"):
        await near.on_end("t-1", "close")


async def test_a_cancelled_subscription_calls_nothing(
    near: NearTwin, authority: FakeAuthority, ends: Ends
) -> None:
    cancelled = await near.on_end("t-1", ends.callback("cancelled"))
    await near.on_end("t-1", ends.callback("kept"))
    cancelled.cancel()
    cancelled.cancel()
    ends.ended.add("t-1")
    authority.watch.evict("s-1")
    await until(lambda: ends.names == ["kept"])
    cancelled.cancel()
    assert ends.names == ["kept"]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
async def test_a_callback_that_raises_harms_no_other(
    near: NearTwin, authority: FakeAuthority, ends: Ends
) -> None:
    reported: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))
    for error in (
        ValueError("app"),
        SystemExit(1) if near.client.__class__ is SessionClient else KeyError("app"),
    ):

        def fail(_: object, error: BaseException = error) -> None:
            raise error

        await near.on_end("t-1", fail)
        await near.on_end("t-1", ends.callback("other"))
    ends.ended.add("t-1")
    authority.watch.evict("s-1")
    await until(lambda: ends.names == ["other", "other"])
    await near.on_end("t-2", ends.callback("later"))
    ends.ended.add("t-2")
    authority.watch.evict("s-2")
    await until(lambda: "later" in ends.names)
    if isinstance(near.client, AsyncSessionClient):
        assert len(reported) == 2


async def test_closing_the_client_calls_every_callback(near: NearTwin, ends: Ends) -> None:
    await near.on_end("t-1", ends.callback("1"))
    await near.on_end("t-2", ends.callback("2"))
    await near.close()
    await until(lambda: ends.names == ["1", "2"])
    assert all(isinstance(error, ClientClosed) for _, error in ends.calls)
    with pytest.raises(ClientClosed):
        await near.on_end("t-1", ends.callback("3"))


async def test_the_number_of_subscriptions_is_limited(
    near: NearTwin, ends: Ends, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("session_authority.near_cache.endings.SUBSCRIPTIONS_LIMIT", 2)
    first = await near.on_end("t-1", ends.callback("1"))
    await near.on_end("t-1", ends.callback("2"))
    with pytest.raises(Unavailable, match="already has 2 subscriptions, its limit"):
        await near.on_end("t-2", ends.callback("3"))
    first.cancel()
    await near.on_end("t-2", ends.callback("3"))


async def test_subscriptions_start_no_further_threads_or_tasks_and_leave_nothing(
    near: NearTwin, ends: Ends
) -> None:
    (await near.on_end("t-0", ends.callback("0"))).cancel()
    threads, tasks = threading.active_count(), len(asyncio.all_tasks())
    subscriptions = [await near.on_end(f"t-{n}", ends.callback("")) for n in range(100)]
    # gRPC and the client's own calls start some of each. A hundred subscriptions start none.
    assert threading.active_count() < threads + 10
    assert len(asyncio.all_tasks()) < tasks + 10
    endings = subscriptions[0]._endings
    assert len(endings) == 100
    for subscription in subscriptions:
        subscription.cancel()
    assert len(endings) == 0
    assert not endings._watched
    assert not endings._uncovered
    assert not endings._keys


async def test_no_repr_shows_the_token(near: NearTwin, ends: Ends) -> None:
    subscription = await near.on_end("t-secret", ends.callback("1"))
    endings, watched = subscription._endings, subscription._watched
    endings.changed([*endings._watched])
    shown = repr((subscription, endings, watched, endings.step(), subscription.ended))
    assert "t-secret" not in shown


async def test_a_child_process_cannot_hang_on_the_lock_of_its_parent(
    near: NearTwin, ends: Ends, monkeypatch: pytest.MonkeyPatch
) -> None:
    subscription = await near.on_end("t-1", ends.callback("1"))
    with subscription._endings._lock:  # as another thread of the parent may have held it
        monkeypatch.setattr(subscription._endings, "_process_id", 0)
        subscription.cancel()


# Only one of the clients.


async def test_a_coroutine_function_is_run_on_the_loop_and_in_the_context_of_its_subscriber(
    authority_by_token: FakeAuthority,
) -> None:
    name: ContextVar[str] = ContextVar("name", default="none")
    seen: list[tuple[str, asyncio.AbstractEventLoop]] = []

    async def ended(_: SessionAuthorityError) -> None:
        await asyncio.sleep(0)
        seen.append((name.get(), asyncio.get_running_loop()))

    async def subscribe(value: str) -> None:
        name.set(value)
        await client.on_end("t-1", ended)

    async def elsewhere() -> None:
        await subscribe("elsewhere")
        subscribed.set()
        await until(lambda: len(seen) == 3)

    async with AsyncSessionClient(authority_by_token.address, near_cache=True) as client:
        await asyncio.create_task(subscribe("a"))
        await asyncio.create_task(subscribe("b"))
        subscribed = threading.Event()
        other = asyncio.create_task(asyncio.to_thread(asyncio.run, elsewhere()))
        await until(subscribed.is_set)
        ends = Ends(authority_by_token)
        ends.ended.add("t-1")
        authority_by_token.watch.evict("s-1")
        await other
    assert sorted(value for value, _ in seen) == ["a", "b", "elsewhere"]
    assert len({loop for _, loop in seen}) == 2


def test_callbacks_that_block_delay_no_other_and_their_threads_end() -> None:
    callbacks = Callbacks()
    released = threading.Event()
    called: list[int] = []

    def note(number: int, _: SessionAuthorityError) -> None:
        called.append(number)

    for _ in range(CALLBACK_THREADS_LIMIT - 1):
        callbacks.later(lambda _: released.wait(60))(ClientClosed())
    for number in range(50):
        callbacks.later(partial(note, number))(ClientClosed())
    wait_until(lambda: len(called) == 50)
    assert called == [*range(50)]  # in order, because one thread was free
    released.set()
    wait_until(lambda: callbacks._threads == 0)
    callbacks.later(partial(note, 50))(ClientClosed())
    wait_until(lambda: 50 in called)
