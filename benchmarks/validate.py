"""ValidateSession against an empty RPC of the same process, in alternation.

    .venv/bin/python -m benchmarks.validate [--engine sqlite|postgresql] [--sessions N] [--rounds N]

Prints the ratio of their rates at concurrency 64, and what a lone call adds at concurrency 1.
"""

import argparse
from statistics import median

import uvloop

from benchmarks import authority, rows
from benchmarks.engines import add_engine, fresh
from benchmarks.load import Result, drive
from session_authority.v1 import session_service_pb2 as pb

_SECONDS = 3.0


async def _measure(address: str, pid: int, sample: list[tuple[str, str]], rounds: int) -> None:
    messages = [
        pb.ValidateSessionRequest(session_token=token).SerializeToString() for token, _ in sample
    ]
    ids = [session_id.encode() for _, session_id in sample]

    async def run(path: str, concurrency: int) -> tuple[Result, float]:
        before = authority.cpu_seconds(pid)
        if path == authority.EMPTY:
            result = await drive(
                address, path, [b""], [b"\0\0\0\0\0"], concurrency=concurrency, seconds=_SECONDS
            )
        else:
            result = await drive(
                address, path, messages, ids, concurrency=concurrency, seconds=_SECONDS
            )
        if result.wrong:
            raise SystemExit(f"{result.wrong} wrong answers")
        return result, (authority.cpu_seconds(pid) - before) / len(result.latencies) * 1e6

    for concurrency in (64, 1):
        ratios, added = [], []
        await run(authority.VALIDATE, concurrency)  # warm
        for _ in range(rounds):
            empty, empty_cpu = await run(authority.EMPTY, concurrency)
            full, full_cpu = await run(authority.VALIDATE, concurrency)
            ratios.append(full.rate / empty.rate)
            added.append(full.percentile_ms(50) - empty.percentile_ms(50))
            print(
                f"c{concurrency}: empty {empty.rate:6.0f}/s p50 {empty.percentile_ms(50):.2f} ms "
                f"p99 {empty.percentile_ms(99):.1f} ms {empty_cpu:.0f} us CPU; "
                f"validate {full.rate:6.0f}/s p50 {full.percentile_ms(50):.2f} ms "
                f"p99 {full.percentile_ms(99):.1f} ms {full_cpu:.0f} us CPU; ratio {ratios[-1]:.2f}",
                flush=True,
            )
        print(
            f"concurrency {concurrency}: ratio {median(ratios):.2f}, "
            f"added to the median {median(added):.2f} ms (medians of {rounds})"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sessions", type=int, default=100_000)
    parser.add_argument("--tokens", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=5)
    add_engine(parser)
    arguments = parser.parse_args()
    with fresh(arguments.engine, "sessions") as (database,):
        sample = rows.fill(database, arguments.sessions, sample=arguments.tokens)
        with authority.process(database) as (address, pid):
            uvloop.run(_measure(address, pid, sample, arguments.rounds))


if __name__ == "__main__":
    main()
