"""Check that callers that wait for their answers are never refused.

    .venv/bin/python -m benchmarks.run_honest_load [--engine sqlite|postgresql] [--seconds N]

Runs both hosts, with and without two busy loops on the machine. Prints answers per second, latency, and how many
calls were refused, failed or had a wrong answer.
"""

import argparse
import asyncio
import sys
from collections import Counter

from tests.support.honest_load import SHAPES

from benchmarks.support import authority, rows
from benchmarks.support.engines import add_engine, fresh
from benchmarks.support.load import percentile_ms
from benchmarks.support.process import busy_loops, resident_mib

_TOKENS = 10_000


def _measure(host: str, given: argparse.Namespace) -> int:
    """Return how many calls were refused, failed or had a wrong answer."""
    bad = 0
    with fresh(given.engine, "sessions") as (database,):
        sample = rows.fill(database, 2 * _TOKENS, sample=_TOKENS)
        with authority.process(database, host=host) as (address, pid):
            for loops in (0, 2):
                with busy_loops(loops):
                    for name, shape in SHAPES.items():
                        tally = asyncio.run(shape(address, sample, given.seconds))
                        bad += tally.wrong + len(tally.failures)
                        print(
                            f"{given.engine}, {host}, {loops} busy loops, {name}: "
                            f"{len(tally.right) / tally.seconds:,.0f}/s, p50 "
                            f"{percentile_ms(tally.right, 50):.1f} ms, p99 "
                            f"{percentile_ms(tally.right, 99):.0f} ms; {len(tally.failures)} failed, "
                            f"{tally.wrong} wrong; {resident_mib(pid):.0f} MiB",
                            flush=True,
                        )
                        for failure, count in Counter(tally.failures).most_common(3):
                            print(f"  {count} times: {failure}")
    return bad


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--host", choices=authority.HOSTS, action="append")
    add_engine(parser)
    given = parser.parse_args()
    bad = sum(_measure(host, given) for host in given.host or authority.HOSTS)
    if bad:
        sys.exit(f"{bad} calls were refused, failed or had a wrong answer")
    print("no call was refused or failed, and every answer was right")


if __name__ == "__main__":
    main()
