"""Failovers under load, by Patroni in strict synchronous mode."""

import asyncio
import itertools
import os
import sys
import time
from collections import defaultdict
from pathlib import Path
from statistics import median

import pytest

from tests.support import patroni
from tests.support.ledger import LATE, REFUSED, UNAVAILABLE, Ledger, calling, settings, under_load
from tests.support.patroni import Patroni
from tests.support.program import run, serving
from tests.support.soak import soaked

FAILOVERS = soaked(long=50, short=0)
AT_ONCE = 10  # failovers until the answers are compared with the database
CALLERS = 8
# Validations that hang in an outage of many seconds make others wait until they are refused.
EXPECTED = (UNAVAILABLE, LATE, REFUSED)
KINDS = ("switchover", "crash of PostgreSQL", "crash of the machine")

pytestmark = [
    pytest.mark.soak,
    pytest.mark.skipif(not FAILOVERS, reason="it takes a quarter of an hour: make soak"),
    pytest.mark.skipif(
        patroni.ETCD is None and "CI" not in os.environ, reason="etcd is not installed"
    ),
]


async def fail_over(cluster: Patroni, kind: str, ledger: Ledger) -> float:
    """Change the leader, and wait until calls succeed. Return how long no revocation was answered, in seconds."""
    old = cluster.leader
    node = cluster.nodes[old]
    before = ledger.successes["revoke"]
    if kind == "switchover":
        await asyncio.to_thread(cluster.switch_over)
    elif kind == "crash of PostgreSQL":
        await asyncio.to_thread(node.crash_postgresql)
    else:
        await asyncio.to_thread(node.crash_machine)
    longest = 0.0
    changed = asyncio.create_task(asyncio.to_thread(cluster.wait_for_new_leader, old))
    back = None
    while back is None or ledger.successes["revoke"] <= back:
        now = ledger.successes["revoke"]
        longest, before = max(longest, now - before), now
        if changed.done():
            await changed
            back = back or time.monotonic()
        await asyncio.sleep(0.005)
    longest = max(longest, ledger.successes["revoke"] - before)
    if not node.is_up:
        node.start()
    await asyncio.to_thread(cluster.wait_until_complete)
    await ledger.passes(back=time.monotonic())
    return longest


async def test_failovers_lose_no_answered_ending_and_revive_no_session(tmp_path: Path) -> None:
    times: dict[str, list[float]] = defaultdict(list)
    answered = 0
    with patroni.patroni() as cluster:
        options = settings(cluster.url)
        migrated = await asyncio.to_thread(run, "migrate", cwd=tmp_path, settings=options)
        assert migrated.returncode == 0, migrated.stderr
        with serving(tmp_path, settings=options) as program:
            kinds = itertools.cycle(KINDS)
            for _ in range(FAILOVERS // AT_ONCE):
                # At its end, the load compares every answer with the database.
                async with (
                    calling(program) as calls,
                    under_load(calls, CALLERS, EXPECTED) as ledger,
                ):
                    await ledger.passes(back=time.monotonic())
                    for kind in itertools.islice(kinds, AT_ONCE):
                        times[kind].append(await fail_over(cluster, kind, ledger))
                        report(kind, times[kind])
                answered += len(ledger.revoke_answered)
                sys.stderr.write(f"{answered} endings were answered, and none was lost\n")
            assert program.stop() == 0
            assert "Traceback" not in program.stderr
    assert sum(map(len, times.values())) == FAILOVERS
    assert answered > FAILOVERS


def report(kind: str, seconds: list[float]) -> None:
    """Print the distribution of the times without answers."""
    ordered = sorted(seconds)
    line = f"{kind}: {len(ordered)} failovers; no revocation was answered for {ordered[0]:.1f} to {ordered[-1]:.1f} s"
    sys.stderr.write(f"{line}, median {median(ordered):.1f} s\n")
