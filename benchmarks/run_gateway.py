"""Compare the surfaces of the gateway with an empty answer of the same server and core, in alternation.

    .venv/bin/python -m benchmarks.run_gateway [--rounds N] [--seconds N] [--surface http|grpcio|native]

`http` compares `/verify` with an empty Starlette response. `grpcio` and `native` compare Envoy's Check with an empty
call on that host. The near cache of the gateway is warm. The gateway runs on one core, and the load on the other. Each
request has the headers of a browser.

Prints each rate as a ratio to the empty answer, and the CPU time of each.
"""

import argparse
import contextlib
import sys
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from statistics import median
from typing import TypeAlias

import uvloop

from benchmarks.support import authority, http_load
from benchmarks.support.ext_authz import CHECK
from benchmarks.support.load import Result, drive
from benchmarks.support.process import started
from session_authority import NewSession, SessionClient
from session_authority_gateway.envoy import external_auth_pb2 as pb

_HTTP = "http"
_SURFACES = (_HTTP, *authority.HOSTS)
_Send: TypeAlias = Callable[[str, str, float], Awaitable[Result]]
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


def _verify(token: str) -> bytes:
    """Return the request that a proxy sends for a page of a browser."""
    forwarded = {"x-forwarded-method": "GET", "x-forwarded-uri": "/basket?item=17"}
    forwarded |= {"host": "gateway", "x-forwarded-host": "a.example"}
    cookie = {"cookie": f"theme=dark; __Host-auth_session={token}"}
    headers = {**forwarded, **_BROWSER, **cookie}
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"GET /verify?session=required HTTP/1.1\r\n{lines}\r\n".encode()


def _http(made: list[NewSession]) -> _Send:
    requests = [_verify(new.token.reveal()) for new in made]
    ids = [new.session.session_id.encode() for new in made]

    async def send(kind: str, address: str, seconds: float) -> Result:
        expected = [b""] * len(ids) if kind == "empty" else ids
        return await http_load.drive(
            address, requests, expected, concurrency=_CALLS, seconds=seconds
        )

    return send


def _grpc(made: list[NewSession]) -> _Send:
    messages = [_check(new.token.reveal()) for new in made]
    ids = [new.session.session_id.encode() for new in made]

    async def send(kind: str, address: str, seconds: float) -> Result:
        expected = [b"\0\0\0\0\0"] * len(ids) if kind == "empty" else ids
        return await drive(address, CHECK, messages, expected, concurrency=_CALLS, seconds=seconds)

    return send


@contextlib.contextmanager
def _server(kind: str, surface: str, authority_address: str) -> Iterator[tuple[str, int]]:
    module, host = ("ext_authz", (surface,)) if surface != _HTTP else ("forward_auth", ())
    kind = {"own": "check" if host else "verify"}.get(kind, kind)
    program = (sys.executable, "-m", f"benchmarks.support.{module}")
    with started((*program, kind, *host, authority_address)) as server:
        assert server.stdout is not None
        yield server.stdout.readline().strip(), server.pid


async def _measure(
    servers: dict[str, tuple[str, int]], send: _Send, rounds: int, seconds: float
) -> None:
    rates: dict[str, list[float]] = {kind: [] for kind in servers}
    cpu: dict[str, list[float]] = {kind: [] for kind in servers}
    for round_number in range(-1, rounds):
        for kind, (address, pid) in servers.items():
            before = authority.cpu_seconds(pid)
            result = await send(kind, address, _WARM_SECONDS if round_number < 0 else seconds)
            if result.wrong:
                raise SystemExit(f"{kind}: {result.wrong} wrong answers")
            if round_number >= 0:
                rates[kind].append(result.rate)
                used = authority.cpu_seconds(pid) - before
                cpu[kind].append(used / len(result.latencies) * 1e6)
    for kind in servers:
        print(f"  {kind:5s} {median(rates[kind]):7,.0f}/s, {median(cpu[kind]):4.0f} us of CPU")
    ratios = [own / empty for own, empty in zip(rates["own"], rates["empty"], strict=True)]
    print(
        f"  {median(ratios):.2f} times the empty answer ({min(ratios):.2f} to {max(ratios):.2f})",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--surface", choices=_SURFACES)
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
        for surface in _SURFACES if given.surface is None else (given.surface,):
            with contextlib.ExitStack() as running:
                servers = {
                    kind: running.enter_context(_server(kind, surface, address))
                    for kind in ("empty", "own")
                }
                print(f"{surface}, {_CALLS} requests in flight, medians of {given.rounds} rounds:")
                send = _http(made) if surface == _HTTP else _grpc(made)
                uvloop.run(_measure(servers, send, given.rounds, given.seconds))


if __name__ == "__main__":
    main()
