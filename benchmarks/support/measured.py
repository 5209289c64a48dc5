"""Measures servers under closed-loop load, in alternation: rate, latency, and CPU per call."""

import ssl
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from benchmarks.support import authority
from benchmarks.support.load import drive
from benchmarks.support.process import cpu_seconds_of_all
from session_authority.v1 import session_service_pb2 as pb

_WARM_SECONDS = 1.0


class Server(NamedTuple):
    """A server, and the calls that it gets.

    Attributes:
        address: The address of the server.
        pids: The processes whose CPU counts.
        messages: The requests, sent in turn.
        expected: Bytes that each answer must contain.
        path: The method.
        tls: The TLS configuration; None for plaintext.
    """

    address: str
    pids: tuple[int, ...]
    messages: list[bytes]
    expected: list[bytes]
    path: str = authority.VALIDATE
    tls: ssl.SSLContext | None = None


class Run(NamedTuple):
    """The result of one run."""

    rate: float
    p50_ms: float
    p99_ms: float
    cpu_us: float


def validations(sample: Sequence[tuple[str, str]]) -> tuple[list[bytes], list[bytes]]:
    """Return a ValidateSession request for each token, and the session id that each answer must contain."""
    requests = [pb.ValidateSessionRequest(session_token=token) for token, _ in sample]
    ids = [session_id.encode() for _, session_id in sample]
    return [each.SerializeToString() for each in requests], ids


async def in_alternation(
    servers: Mapping[str, Server],
    rounds: int,
    seconds: float,
    *,
    concurrency: int = 64,
    connections: int | None = None,
) -> dict[str, list[Run]]:
    """Warm up each server, then run each of them once a round. Return the runs by name.

    Raises:
        SystemExit: If an answer is wrong.
    """
    runs: dict[str, list[Run]] = {name: [] for name in servers}
    for server in servers.values():
        await _run(server, _WARM_SECONDS, concurrency, connections)
    for _ in range(rounds):
        for name, server in servers.items():
            runs[name].append(await _run(server, seconds, concurrency, connections))
    return runs


async def _run(server: Server, seconds: float, concurrency: int, connections: int | None) -> Run:
    before = cpu_seconds_of_all(server.pids)
    result = await drive(
        server.address,
        server.path,
        server.messages,
        server.expected,
        concurrency=concurrency,
        seconds=seconds,
        connections=connections,
        tls=server.tls,
    )
    if result.wrong:
        raise SystemExit(f"{result.wrong} wrong answers")
    used = (cpu_seconds_of_all(server.pids) - before) / len(result.latencies) * 1e6
    return Run(result.rate, result.percentile_ms(50), result.percentile_ms(99), used)
