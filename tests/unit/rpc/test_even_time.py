import asyncio
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import pytest

from session_authority_server.rpc.even_time import PERIOD_SECONDS, even_time


class Loop:
    """A loop whose clock is moved by hand."""

    def __init__(self, real: asyncio.AbstractEventLoop) -> None:
        self.now = 1_000.0
        self.called: list[tuple[float, Callable[..., None], Any]] = []
        self.create_future = real.create_future

    def time(self) -> float:
        return self.now

    def call_at(self, when: float, callback: Callable[..., None], *given: Any) -> None:
        self.called.append((when, callback, *given))


@pytest.fixture
def loop(monkeypatch: pytest.MonkeyPatch) -> Iterator[Loop]:
    with closing(asyncio.new_event_loop()) as real:
        made = Loop(real)
        monkeypatch.setattr(asyncio, "get_running_loop", lambda: made)
        yield made


@pytest.mark.parametrize(
    ("took_periods", "answered_after"),
    [(0, 1), (0.2, 1), (0.99, 1), (1.01, 2), (7.5, 8)],
)
def test_an_answer_waits_for_a_whole_number_of_periods(
    loop: Loop, took_periods: float, answered_after: int
) -> None:
    end_of_period = even_time()
    loop.now += took_periods * PERIOD_SECONDS
    ended = end_of_period()
    [(when, end, _)] = loop.called
    assert when == pytest.approx(1_000 + answered_after * PERIOD_SECONDS, abs=1e-9)
    assert not ended.done()
    end(ended)
    assert ended.done()


def test_who_has_gone_away_is_not_answered(loop: Loop) -> None:
    ended = even_time()()
    ended.cancel()
    [(_, end, _)] = loop.called
    end(ended)
    assert ended.cancelled()
