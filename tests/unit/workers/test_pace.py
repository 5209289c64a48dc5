import asyncio

import pytest

from session_authority_workers.pace import Pace, Stride

PACE = Pace(batch=100, smallest_batch=20, batch_seconds=0.02, pause_share=0)


async def sizes(stride: Stride, seconds: float, count: int, *, full: bool = True) -> list[int]:
    """Return how large batches were that took so long."""
    seen: list[int] = []

    async def batch(limit: int) -> None:
        seen.append(limit)
        await asyncio.sleep(seconds)

    for _ in range(count):
        await stride.take(batch, lambda _, __: full)
    return seen


async def test_batches_grow_while_the_store_is_quick_but_not_beyond_the_largest() -> None:
    seen = await sizes(Stride(PACE, 400), 0, 8)
    assert seen[0] == PACE.batch
    assert seen == sorted(seen)
    assert seen[-1] == 400


async def test_batches_that_find_little_say_nothing_about_larger_ones() -> None:
    assert await sizes(Stride(PACE, 400), 0, 3, full=False) == [100, 100, 100]


async def test_batches_shrink_while_the_store_is_slow_but_not_to_nothing() -> None:
    stride = Stride(PACE, 400)
    seen = await sizes(stride, 2 * PACE.batch_seconds, 9)
    assert seen == [100, 50, 25, 20, 20, 20, 20, 20, 20]
    assert (await sizes(stride, 0, 3)) == [20, 40, 80]


async def test_a_batch_that_fails_for_its_length_is_tried_smaller() -> None:
    stride = Stride(PACE, 400)

    async def fail(_limit: int) -> None:
        await asyncio.sleep(2 * PACE.batch_seconds)
        raise TimeoutError

    with pytest.raises(TimeoutError):
        await stride.take(fail, lambda _, __: True)
    assert await sizes(stride, 0, 1) == [50]


async def test_the_store_is_left_alone_in_proportion_to_what_a_batch_took() -> None:
    stride = Stride(Pace(pause_share=3), 400)
    loop = asyncio.get_running_loop()
    started = loop.time()
    await sizes(stride, 0.02, 1)
    assert loop.time() - started >= 4 * 0.02
