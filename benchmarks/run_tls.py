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

import uvloop
from tests.support import proxies
from tests.support.certificates import TestAuthority

from benchmarks.support import authority, rows
from benchmarks.support.measured import Server, in_alternation, validations
from benchmarks.support.process import SERVER_CORE, pin

_SESSIONS = 5_000
_BASE = "native, plaintext"


async def _measure(ways: dict[str, Server], rounds: int, seconds: float) -> None:
    runs = await in_alternation(ways, rounds, seconds)
    for name, some in runs.items():
        rate, _, p99, cpu = (median(each) for each in zip(*some, strict=True))
        ratio = median(own.rate / base.rate for own, base in zip(some, runs[_BASE], strict=True))
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
        ways: dict[str, Server] = {}
        for host, settings in (("native", {}), ("grpcio", {}), ("grpcio", tls)):
            what = f"{host}, TLS" if settings else f"{host}, plaintext"
            database = f"sqlite:///{folder}/{len(ways)}.sqlite"
            known = rows.fill(database, _SESSIONS, sample=_SESSIONS)
            address, pid = stack.enter_context(
                authority.process(database, host=host, settings=settings)
            )
            ways[what] = Server(
                address, (pid,), *validations(known), tls=context if settings else None
            )
        behind = ways[_BASE]
        for proxy in proxies.NAMES:
            place = folder / proxy
            place.mkdir()
            address, process = stack.enter_context(
                proxies.proxy(proxy, place, behind.address, pair)
            )
            pin(process.pid, SERVER_CORE)
            ways[f"{proxy} and native"] = behind._replace(
                address=address, pids=(*behind.pids, process.pid), tls=context
            )
        uvloop.run(_measure(ways, given.rounds, given.seconds))


if __name__ == "__main__":
    main()
