"""Compare ValidateSession on both hosts with an empty grpc.aio RPC, on the same core, in alternation.

    .venv/bin/python -m benchmarks.run_hosts [--engine sqlite|postgresql] [--rounds N] [--seconds N]

The servers run on one core, and the load on the other. With 64 calls in flight, eight connections carry 8 calls each.

Prints for each host the rate as a ratio to the empty RPC, p99, and the server's CPU per call. For single calls it
prints the difference in median latency.
"""

import argparse
import contextlib
from statistics import median

import uvloop

from benchmarks.support import authority, rows
from benchmarks.support.engines import add_engine, fresh
from benchmarks.support.measured import Server, in_alternation, validations

_EMPTY = "grpc.aio, empty RPC"


async def _measure(
    servers: dict[str, Server], rounds: int, seconds: float, connections: int | None
) -> None:
    for concurrency in (64, 1):
        runs = await in_alternation(
            servers, rounds, seconds, concurrency=concurrency, connections=connections
        )
        print(f"{concurrency} in flight, medians of {rounds} rounds:")
        for name, some in runs.items():
            rate, p50, p99, cpu = (median(each) for each in zip(*some, strict=True))
            pairs = list(zip(some, runs[_EMPTY], strict=True))
            ratios = [own.rate / empty.rate for own, empty in pairs]
            print(
                f"  {name:20s} {rate:7,.0f}/s, p50 {p50:5.2f} ms, p99 {p99:5.1f} ms, {cpu:4.0f} us of CPU; "
                f"{median(ratios):.2f} times the empty RPC ({min(ratios):.2f} to {max(ratios):.2f}), "
                f"{median(own.p50_ms - empty.p50_ms for own, empty in pairs):+.2f} ms",
                flush=True,
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sessions", type=int, default=50_000)
    parser.add_argument("--tokens", type=int, default=5_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument(
        "--connections", type=int, help="number of connections (default: one for every 8 calls)"
    )
    add_engine(parser)
    given = parser.parse_args()
    with fresh(given.engine, *authority.HOSTS) as databases, contextlib.ExitStack() as stack:
        address, pid = stack.enter_context(authority.empty())
        servers = {_EMPTY: Server(address, (pid,), [b""], [b"\0\0\0\0\0"], authority.EMPTY)}
        for host, database in zip(authority.HOSTS, databases, strict=True):
            sample = rows.fill(database, given.sessions, sample=given.tokens)
            address, pid = stack.enter_context(authority.process(database, host=host))
            servers[f"{given.engine}, {host}"] = Server(address, (pid,), *validations(sample))
        uvloop.run(_measure(servers, given.rounds, given.seconds, given.connections))


if __name__ == "__main__":
    main()
