"""Flood a server with ten times its capacity, then immediately send half its capacity.

    .venv/bin/python -m benchmarks.run_flood [--host H] [--connections N] [--seconds N] [--times N] [--set NAME=VALUE]

The server runs on one core, and an open-loop generator on the other. The generator sends as much as HTTP/2 allows. The
program measures the capacity beforehand, with 64 calls in flight over 8 connections.

Prints the answered share of the capacity, the server's memory, and the outcome of the calls after the flood.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import uvloop

from benchmarks.support import authority, rows
from benchmarks.support.flood import Flood
from benchmarks.support.load import Result, drive
from benchmarks.support.process import resident_mib
from session_authority.v1 import session_service_pb2 as pb

_SESSIONS = 5_000
_CONNECTIONS = (32, 128)
_POLL_SECONDS = 0.1
_AFTERWARDS_SECONDS = 5.0


def _capacity(address: str, pairs: list[tuple[bytes, bytes]], seconds: float) -> Result:
    messages, expected = zip(*pairs, strict=True)
    return uvloop.run(
        drive(address, authority.VALIDATE, messages, expected, concurrency=64, seconds=seconds)
    )


def _flood(host: str, connections: int, given: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as folder:
        database = f"sqlite:///{folder}/sessions.sqlite"
        sample = rows.fill(database, _SESSIONS, sample=_SESSIONS)
        pairs = [
            (
                pb.ValidateSessionRequest(session_token=token).SerializeToString(),
                session_id.encode(),
            )
            for token, session_id in sample
        ]
        file = Path(folder, "pairs")
        file.write_text(json.dumps([[each.hex() for each in pair] for pair in pairs]))
        settings = dict(each.split("=", 1) for each in given.set)
        with authority.process(database, host=host, settings=settings) as (address, pid):
            _capacity(address, pairs, 2)  # Warm up.
            full = _capacity(address, pairs, 3)
            rest_mib = peak_mib = resident_mib(pid)
            rates = (given.times * full.rate, given.seconds), (full.rate / 2, _AFTERWARDS_SECONDS)
            with Flood(address, file, *rates, connections=connections) as flood:
                deadline = time.monotonic() + given.seconds + _AFTERWARDS_SECONDS
                while time.monotonic() < deadline and not flood.over:
                    peak_mib = max(peak_mib, resident_mib(pid))
                    time.sleep(_POLL_SECONDS)
                heavy, after = flood.phases()
            sent, right = after.first_second
            print(
                f"{host}, {connections} connections: capacity {full.rate:,.0f}/s, p99 "
                f"{full.percentile_ms(99):.1f} ms, {full.wrong} wrong\n"
                f"  flood: {heavy.summary}\n"
                f"  afterwards: {after.summary}\n"
                f"  {heavy.answers / heavy.seconds / full.rate:.2f} of the capacity answered; memory "
                f"{rest_mib:.0f} MiB before, {peak_mib:.0f} MiB at most; half the capacity in the first second "
                f"afterwards: {right / max(sent, 1):.2%} of {sent:,} calls answered; right after 3 s: "
                f"{resident_mib(pid):.0f} MiB",
                flush=True,
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--host", choices=authority.HOSTS, action="append")
    parser.add_argument("--connections", type=int, action="append")
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--times", type=float, default=10)
    parser.add_argument("--set", action="append", default=[], help="a setting, as NAME=VALUE")
    given = parser.parse_args()
    for host in given.host or authority.HOSTS:
        for connections in given.connections or _CONNECTIONS:
            _flood(host, connections, given)


if __name__ == "__main__":
    main()
