import math
import sys
import time

import pytest

from session_authority.near_cache import clock


def test_the_clock_of_the_lease_goes_forward() -> None:
    before = clock.lease_clock()
    time.sleep(0.002)
    assert 0.001 < clock.lease_clock() - before < 60


@pytest.mark.parametrize("platform", ["darwin", "win32"])
def test_where_another_clock_counts_suspend_it_is_taken(
    monkeypatch: pytest.MonkeyPatch, platform: str
) -> None:
    monkeypatch.delattr(time, "CLOCK_BOOTTIME", raising=False)
    monkeypatch.setattr(sys, "platform", platform)
    found = clock._suspend_proof()
    assert found is not None
    assert found() == pytest.approx(time.monotonic(), abs=60)


def test_where_no_clock_counts_suspend_no_lease_ever_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(time, "CLOCK_BOOTTIME", raising=False)
    monkeypatch.setattr(sys, "platform", "plan9")
    assert clock._suspend_proof() is None
    assert clock._no_clock() == math.inf
