"""Compare the CPU of a validation without traces, and with different shares of recorded calls.

    .venv/bin/python -m benchmarks.run_traces [--rounds N] [--seconds N]

Every server exports to the same collector, which discards the spans. The servers run in alternation on one core, and
the load on the other. The calls carry no trace context, so the server's sampler decides.
"""

import argparse
import contextlib
import sys
from collections.abc import Mapping
from statistics import median

import uvloop

from benchmarks.support import authority, rows
from benchmarks.support.engines import fresh
from benchmarks.support.load import drive
from benchmarks.support.process import LOAD_CORE, started
from session_authority.v1 import session_service_pb2 as pb

_OFF = "without traces"
_WARM_SECONDS = 1.0
_IN_FLIGHT = 64
_SHARES = {"none recorded": "0", "1 % recorded": "0.01", "all recorded": "1"}


class _Server:
    def __init__(self, address: str, pid: int, messages: list[bytes], expected: list[bytes]):
        self.address, self.pid = address, pid
        self.messages, self.expected = messages, expected
        self.cpu_us: list[float] = []

    async def run(self, seconds: float) -> float:
        """Return the CPU per validation, in microseconds."""
        before = authority.cpu_seconds(self.pid)
        result = await drive(
            self.address,
            authority.VALIDATE,
            self.messages,
            self.expected,
            concurrency=_IN_FLIGHT,
            seconds=seconds,
        )
        if result.wrong:
            raise SystemExit(f"{result.wrong} wrong answers")
        return (authority.cpu_seconds(self.pid) - before) / len(result.latencies) * 1e6


async def _measure(host: str, servers: Mapping[str, _Server], rounds: int, seconds: float) -> None:
    for server in servers.values():
        await server.run(_WARM_SECONDS)
    for _ in range(rounds):
        for server in servers.values():
            server.cpu_us.append(await server.run(seconds))
    for name, server in servers.items():
        pairs = zip(server.cpu_us, servers[_OFF].cpu_us, strict=True)
        ratios = [own / off for own, off in pairs]
        print(
            f"{host:8s} {name:16s} {median(server.cpu_us):6.1f} us of CPU; "
            f"{median(ratios):.2f} times ({min(ratios):.2f} to {max(ratios):.2f})",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sessions", type=int, default=1_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0)
    given = parser.parse_args()
    collector = (sys.executable, "-m", "tests.support.collector")
    for host in authority.HOSTS:
        names = (_OFF, *_SHARES)
        with (
            fresh("sqlite", *names) as databases,
            contextlib.ExitStack() as stack,
        ):
            output = stack.enter_context(started(collector, core=LOAD_CORE)).stdout
            assert output is not None
            endpoint = output.readline().strip()
            servers: dict[str, _Server] = {}
            for name, database in zip(names, databases, strict=True):
                sample = rows.fill(database, given.sessions, sample=given.sessions)
                messages = [
                    pb.ValidateSessionRequest(session_token=token).SerializeToString()
                    for token, _ in sample
                ]
                expected = [session_id.encode() for _, session_id in sample]
                variables = {} if name == _OFF else _variables(endpoint, _SHARES[name])
                process = stack.enter_context(
                    authority.process(database, host=host, environment=variables)
                )
                servers[name] = _Server(*process, messages, expected)
            uvloop.run(_measure(host, servers, given.rounds, given.seconds))


def _variables(endpoint: str, share: str) -> dict[str, str]:
    return {
        "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint,
        "OTEL_TRACES_SAMPLER": "parentbased_traceidratio",
        "OTEL_TRACES_SAMPLER_ARG": share,
    }


if __name__ == "__main__":
    main()
