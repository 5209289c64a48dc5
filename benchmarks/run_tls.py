"""Measure the cost of TLS in the grpcio host, and in a proxy in front of the native host.

    .venv/bin/python -m benchmarks.run_tls [--rounds N] [--seconds N]

Runs validations with 64 in flight over 8 open connections, in alternation. The server and its proxy share one core, and
the load runs on the other. The proxies are configured as in docs/operate/tls.md.

Prints rates, and the CPU of server and proxy per call.
"""

import argparse
import contextlib
import ssl
import tempfile
from pathlib import Path
from statistics import median
from typing import NamedTuple

import uvloop
from tests.support import proxies
from tests.support.certificates import TestAuthority

from benchmarks.support import authority, rows
from benchmarks.support.load import drive
from benchmarks.support.process import SERVER_CORE, cpu_seconds_of_all, pin
from session_authority.v1 import session_service_pb2 as pb

_SESSIONS = 5_000
_BASE = "native, plaintext"


class _Way(NamedTuple):
    address: str
    pids: tuple[int, ...]
    tls: ssl.SSLContext | None
    known: list[tuple[str, str]]


async def _run(way: _Way, seconds: float) -> tuple[float, float, float]:
    before = cpu_seconds_of_all(way.pids)
    result = await drive(
        way.address,
        authority.VALIDATE,
        [
            pb.ValidateSessionRequest(session_token=each).SerializeToString()
            for each, _ in way.known
        ],
        [session_id.encode() for _, session_id in way.known],
        concurrency=64,
        seconds=seconds,
        tls=way.tls,
    )
    if result.wrong:
        raise SystemExit(f"{result.wrong} wrong answers")
    used = (cpu_seconds_of_all(way.pids) - before) / len(result.latencies) * 1e6
    return result.rate, result.percentile_ms(99), used


async def _measure(ways: dict[str, _Way], rounds: int, seconds: float) -> None:
    runs: dict[str, list[tuple[float, float, float]]] = {name: [] for name in ways}
    for way in ways.values():
        await _run(way, 1.0)
    for _ in range(rounds):
        for name, way in ways.items():
            runs[name].append(await _run(way, seconds))
    for name, some in runs.items():
        rate, p99, cpu = (median(each) for each in zip(*some, strict=True))
        ratio = median(own[0] / base[0] for own, base in zip(some, runs[_BASE], strict=True))
        print(f"{name:30s} {rate:7,.0f}/s ({ratio:.2f}), p99 {p99:5.1f} ms, {cpu:4.0f} us of CPU")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3.0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        signer = TestAuthority(folder)
        context = ssl.create_default_context(cafile=str(signer.certificate))
        context.set_alpn_protocols(["h2"])
        pair = signer.pair()
        tls = {"TLS_CERTIFICATE": str(pair.certificate), "TLS_KEY": str(pair.key)}
        ways: dict[str, _Way] = {}
        for host, settings in (("native", {}), ("grpcio", {}), ("grpcio", tls)):
            what = f"{host}, TLS" if settings else f"{host}, plaintext"
            database = f"sqlite:///{folder}/{len(ways)}.sqlite"
            known = rows.fill(database, _SESSIONS, sample=_SESSIONS)
            address, pid = stack.enter_context(
                authority.process(database, host=host, settings=settings)
            )
            ways[what] = _Way(address, (pid,), context if settings else None, known)
        behind = ways[_BASE]
        for proxy in proxies.NAMES:
            place = folder / proxy
            place.mkdir()
            address, process = stack.enter_context(
                proxies.proxy(proxy, place, behind.address, pair)
            )
            pin(process.pid, SERVER_CORE)
            pids = *behind.pids, process.pid
            ways[f"{proxy} and native"] = _Way(address, pids, context, behind.known)
        uvloop.run(_measure(ways, given.rounds, given.seconds))


if __name__ == "__main__":
    main()
