import pytest

from session_authority_workers import pace
from session_authority_workers.pace import Pace, Stride

PACE = Pace(batch=100, smallest_batch=20, batch_seconds=0.02, pause_share=0)


class Time:
    """A clock that advances only during batches and pauses."""

    def __init__(self) -> None:
        self.now = 0.0

    def get_running_loop(self) -> "Time":
        return self

    def time(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Time:
    made = Time()
    monkeypatch.setattr(pace, "asyncio", made)
    return made


async def sizes(
    time: Time, stride: Stride, seconds: float, count: int, *, full: bool = True
) -> list[int]:
    """Return the sizes of batches that each take a given time."""
    seen: list[int] = []

    async def batch(limit: int) -> None:
        seen.append(limit)
        await time.sleep(seconds)

    for _ in range(count):
        await stride.take(batch, lambda _, __: full)
    return seen


async def test_batches_grow_up_to_a_limit_while_the_store_is_quick(time: Time) -> None:
    assert await sizes(time, Stride(PACE, 400), 0, 5) == [100, 200, 400, 400, 400]


async def test_batches_that_find_little_work_do_not_grow(time: Time) -> None:
    assert await sizes(time, Stride(PACE, 400), 0, 3, full=False) == [100, 100, 100]


async def test_batches_shrink_down_to_a_limit_while_the_store_is_slow(time: Time) -> None:
    stride = Stride(PACE, 400)
    seen = await sizes(time, stride, 2 * PACE.batch_seconds, 9)
    assert seen == [100, 50, 25, 20, 20, 20, 20, 20, 20]
    assert (await sizes(time, stride, 0, 3)) == [20, 40, 80]


async def test_a_batch_that_times_out_is_retried_smaller(time: Time) -> None:
    stride = Stride(PACE, 400)

    async def fail(_limit: int) -> None:
        await time.sleep(2 * PACE.batch_seconds)
        raise TimeoutError

    with pytest.raises(TimeoutError):
        await stride.take(fail, lambda _, __: True)
    assert await sizes(time, stride, 0, 1) == [50]


async def test_the_pause_is_proportional_to_the_time_of_a_batch(time: Time) -> None:
    await sizes(time, Stride(Pace(pause_share=3), 400), 0.02, 1)
    assert time.now == pytest.approx(4 * 0.02)
