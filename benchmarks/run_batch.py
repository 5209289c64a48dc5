"""Measure the server's CPU time per session in BatchValidateSessions.

    .venv/bin/python -m benchmarks.run_batch [--engine sqlite|postgresql] [--sessions N] [--rounds N]

Prints the CPU time per session for batches of several sizes.
"""

import argparse
from statistics import median

import uvloop

from benchmarks.support import authority, rows
from benchmarks.support.engines import add_engine, fresh
from benchmarks.support.load import drive
from session_authority.v1 import session_service_pb2 as pb

_BATCH = "/session_authority.v1.SessionService/BatchValidateSessions"
_SIZES = (16, 64, 256)
_SECONDS = 3.0


def _batches(sample: list[tuple[str, str]], size: int) -> tuple[list[bytes], list[bytes]]:
    """Return requests, and for each a session id that its answer must contain."""
    messages, expected = [], []
    for start in range(0, len(sample) - size + 1, size):
        some = sample[start : start + size]
        requests = [pb.ValidateSessionRequest(session_token=token) for token, _ in some]
        messages.append(pb.BatchValidateSessionsRequest(requests=requests).SerializeToString())
        expected.append(some[-1][1].encode())
    return messages, expected


async def _measure(address: str, pid: int, sample: list[tuple[str, str]], rounds: int) -> None:
    for size in _SIZES:
        # The answer to a batch spans several frames. The frame with the last session differs, so it is not checked.
        messages, _ = _batches(sample, size)
        costs, rates = [], []
        for _ in range(rounds + 1):
            before = authority.cpu_seconds(pid)
            result = await drive(
                address, _BATCH, messages, [b""] * len(messages), concurrency=4, seconds=_SECONDS
            )
            if result.wrong:
                raise SystemExit(f"{result.wrong} wrong answers")
            sessions = len(result.latencies) * size
            costs.append((authority.cpu_seconds(pid) - before) / sessions * 1e6)
            rates.append(sessions / result.seconds)
        print(
            f"{size} in a batch: {median(costs[1:]):.1f} us CPU a session, {median(rates[1:]):.0f} sessions/s "
            f"(medians of {rounds})",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sessions", type=int, default=50_000)
    parser.add_argument("--tokens", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=2)
    add_engine(parser)
    arguments = parser.parse_args()
    with fresh(arguments.engine, "sessions") as (database,):
        sample = rows.fill(database, arguments.sessions, sample=arguments.tokens)
        with authority.process(database) as (address, pid):
            uvloop.run(_measure(address, pid, sample, arguments.rounds))


if __name__ == "__main__":
    main()
