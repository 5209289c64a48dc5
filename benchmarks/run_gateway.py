"""Compare Envoy's Check with an empty call on the same host and core, in alternation.

    .venv/bin/python -m benchmarks.run_gateway [--rounds N] [--seconds N] [--host grpcio|native]

The near cache of the gateway is warm. The gateway runs on one core, and the load on the other. Each check has the
headers of a browser's request.

Prints the rate of the checks as a ratio to the empty call, and the CPU time of each.
"""

import argparse
import contextlib
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import uvloop

from benchmarks.support import authority
from benchmarks.support.ext_authz import CHECK
from benchmarks.support.load import drive
from benchmarks.support.process import started
from session_authority import SessionClient
from session_authority_gateway.envoy import external_auth_pb2 as pb

_WARM_SECONDS = 1.5
_CALLS = 64
_BROWSER = {
    "accept": "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8",
    "accept-encoding": "gzip, deflate, br, zstd",
    "accept-language": "en-US,en;q=0.5",
    "sec-fetch-dest": "document",
    "sec-fetch-mode": "navigate",
    "sec-fetch-site": "same-origin",
    "upgrade-insecure-requests": "1",
    "user-agent": "Mozilla/5.0 (X11; Linux x86_64; rv:143.0) Gecko/20100101 Firefox/143.0",
    "x-envoy-external-address": "203.0.113.7",
    "x-forwarded-for": "203.0.113.7",
    "x-forwarded-proto": "https",
    "x-request-id": "cc61dfdd-4ee4-45c1-a0d5-fd9f0e80c9cb",
}


def _check(token: str) -> bytes:
    """Return the request that Envoy sends for a page of a browser."""
    request = pb.CheckRequest()
    http = request.attributes.request.http
    http.method, http.path, http.host, http.scheme = "GET", "/basket?item=17", "a.example", "https"
    pseudo = {":authority": http.host, ":path": http.path, ":method": "GET", ":scheme": "https"}
    cookie = {"cookie": f"theme=dark; __Host-auth_session={token}"}
    for name, value in {**pseudo, **_BROWSER, **cookie}.items():
        http.header_map.headers.add(key=name, raw_value=value.encode())
    request.attributes.source.address.socket_address.address = "203.0.113.7"
    return request.SerializeToString()


@contextlib.contextmanager
def _server(kind: str, host: str, authority_address: str) -> Iterator[tuple[str, int]]:
    command = (sys.executable, "-m", "benchmarks.support.ext_authz", kind, host, authority_address)
    with started(command) as server:
        assert server.stdout is not None
        yield server.stdout.readline().strip(), server.pid


async def _measure(
    servers: dict[str, tuple[str, int]],
    messages: list[bytes],
    expected: list[bytes],
    rounds: int,
    seconds: float,
) -> None:
    rates: dict[str, list[float]] = {kind: [] for kind in servers}
    cpu: dict[str, list[float]] = {kind: [] for kind in servers}
    for round_number in range(-1, rounds):
        for kind, (address, pid) in servers.items():
            before = authority.cpu_seconds(pid)
            result = await drive(
                address,
                CHECK,
                messages,
                expected if kind == "check" else [b"\0\0\0\0\0"] * len(messages),
                concurrency=_CALLS,
                seconds=_WARM_SECONDS if round_number < 0 else seconds,
            )
            if result.wrong:
                raise SystemExit(f"{kind}: {result.wrong} wrong answers")
            if round_number >= 0:
                rates[kind].append(result.rate)
                used = authority.cpu_seconds(pid) - before
                cpu[kind].append(used / len(result.latencies) * 1e6)
    for kind in servers:
        print(f"  {kind:5s} {median(rates[kind]):7,.0f}/s, {median(cpu[kind]):4.0f} us of CPU")
    ratios = [own / empty for own, empty in zip(rates["check"], rates["empty"], strict=True)]
    print(
        f"  {median(ratios):.2f} times the empty call ({min(ratios):.2f} to {max(ratios):.2f})",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--host", choices=authority.HOSTS)
    parser.add_argument("--sessions", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        database = f"sqlite:///{Path(folder) / 'sessions.sqlite'}"
        address, _ = stack.enter_context(authority.process(database, core=None))
        with SessionClient(address) as client:
            made = [
                client.create(f"user-{number}", authentication_methods=["pwd", "otp"])
                for number in range(given.sessions)
            ]
        messages = [_check(new.token.reveal()) for new in made]
        expected = [new.session.session_id.encode() for new in made]
        for host in authority.HOSTS if given.host is None else (given.host,):
            with contextlib.ExitStack() as running:
                servers = {
                    kind: running.enter_context(_server(kind, host, address))
                    for kind in ("empty", "check")
                }
                print(f"{host}, {_CALLS} checks in flight, medians of {given.rounds} rounds:")
                uvloop.run(_measure(servers, messages, expected, given.rounds, given.seconds))


if __name__ == "__main__":
    main()
