from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.property.near_cache_world import World
from tests.support.soak import soaked

pytestmark = pytest.mark.soak


@settings(max_examples=soaked(long=2_000, short=20), deadline=None)
@given(st.randoms(use_true_random=False), st.integers(1, 300))
def test_the_near_cache_agrees_with_the_naive_cache_and_keeps_its_promise(
    chance: Random, steps: int
) -> None:
    world = World(chance)
    for _ in range(steps):
        world.step()
        world.check()


def test_the_near_cache_keeps_its_promise_in_a_long_run() -> None:
    world = World(Random(2030))
    for _ in range(soaked(long=1_000_000, short=30_000)):
        world.step()
        world.check()
    # The run had hits, and endings that were still in flight.
    assert world.counts["hit"] > 200
    assert world.counts["hit within the lease of an ending"] > 5
