"""Measure validating and listing with few sessions and with many, in alternation.

.venv/bin/python -m benchmarks.run_scale [--engine sqlite|postgresql] [--few N] [--many N] [--rounds N]
"""

import argparse
import time
from statistics import median

import uvloop

from benchmarks.support import authority, rows
from benchmarks.support.engines import add_engine, fresh, size_mib
from benchmarks.support.load import drive
from session_authority.v1 import session_service_pb2 as pb

_SECONDS = 3.0
_TOKENS = 5_000


async def _measure(
    addresses: dict[str, str], samples: dict[str, list[tuple[str, str]]], rounds: int
) -> None:
    for method, path in (("validate", authority.VALIDATE), ("list", authority.LIST)):
        for concurrency in (64, 1):
            rates: dict[str, list[float]] = {size: [] for size in addresses}
            medians: dict[str, list[float]] = {size: [] for size in addresses}
            for _ in range(rounds + 1):  # The first round warms up.
                for size, address in addresses.items():
                    sample = samples[size]
                    request = (
                        pb.ValidateSessionRequest
                        if method == "validate"
                        else pb.ListSessionsRequest
                    )
                    result = await drive(
                        address,
                        path,
                        [request(session_token=token).SerializeToString() for token, _ in sample],
                        [session_id.encode() for _, session_id in sample],
                        concurrency=concurrency,
                        seconds=_SECONDS,
                    )
                    if result.wrong:
                        raise SystemExit(f"{result.wrong} wrong answers")
                    rates[size].append(result.rate)
                    medians[size].append(result.percentile_ms(50))
            few, many = (median(each[1:]) for each in rates.values())
            low, high = (median(each[1:]) for each in medians.values())
            print(
                f"{method} c{concurrency}: {few:.0f}/s p50 {low:.2f} ms with few, "
                f"{many:.0f}/s p50 {high:.2f} ms with many; ratio {many / few:.2f}",
                flush=True,
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--few", type=int, default=10_000)
    parser.add_argument("--many", type=int, default=10_000_000)
    add_engine(parser)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    with fresh(arguments.engine, "few", "many") as (few_sessions, many_sessions):
        samples = {}
        for size, url, count in (
            ("few", few_sessions, arguments.few),
            ("many", many_sessions, arguments.many),
        ):
            started = time.perf_counter()
            samples[size] = rows.fill(url, count, sample=_TOKENS)
            took = time.perf_counter() - started
            print(f"{size}: {count} sessions, {size_mib(url):.0f} MiB, filled in {took:.0f} s")
        with (
            authority.process(few_sessions) as (few, _),
            authority.process(many_sessions) as (many, _),
        ):
            uvloop.run(_measure({"few": few, "many": many}, samples, arguments.rounds))


if __name__ == "__main__":
    main()
