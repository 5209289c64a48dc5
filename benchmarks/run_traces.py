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
from benchmarks.support.measured import Server, in_alternation, validations
from benchmarks.support.process import LOAD_CORE, started

_OFF = "without traces"
_SHARES = {"none recorded": "0", "1 % recorded": "0.01", "all recorded": "1"}


async def _measure(host: str, servers: Mapping[str, Server], rounds: int, seconds: float) -> None:
    runs = await in_alternation(servers, rounds, seconds)
    for name, some in runs.items():
        ratios = [own.cpu_us / off.cpu_us for own, off in zip(some, runs[_OFF], strict=True)]
        print(
            f"{host:8s} {name:16s} {median(each.cpu_us for each in some):6.1f} us of CPU; "
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
            servers: dict[str, Server] = {}
            for name, database in zip(names, databases, strict=True):
                sample = rows.fill(database, given.sessions, sample=given.sessions)
                variables = {} if name == _OFF else _variables(endpoint, _SHARES[name])
                address, pid = stack.enter_context(
                    authority.process(database, host=host, environment=variables)
                )
                servers[name] = Server(address, (pid,), *validations(sample))
            uvloop.run(_measure(host, servers, given.rounds, given.seconds))


def _variables(endpoint: str, share: str) -> dict[str, str]:
    return {
        "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint,
        "OTEL_TRACES_SAMPLER": "parentbased_traceidratio",
        "OTEL_TRACES_SAMPLER_ARG": share,
    }


if __name__ == "__main__":
    main()
