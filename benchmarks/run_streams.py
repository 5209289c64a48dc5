"""Measure calls beside streams on one connection, and the calls of a Node client with a deadline.

    .venv/bin/python -m benchmarks.run_streams [--rounds N] [--only streams|node]

The first part runs 64 concurrent calls on one connection, in alternation with and without 100 WatchSessions streams.
The streams ping once a second, like those of the client.

The second part runs a client of @grpc/grpc-js, which npm installs into a temporary folder. It uses one channel, 100
concurrent calls and a deadline of 50 ms.
"""

import argparse
import asyncio
import json
import shutil
import subprocess
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

import uvloop

from benchmarks.support import authority, rows
from benchmarks.support.http2 import DATA, END_HEADERS, HEADERS, frame, header_block
from benchmarks.support.load import Closed, Result, drive
from benchmarks.support.process import LOAD_CORE, pin
from session_authority.v1 import session_service_pb2 as pb
from session_authority.v1 import session_watch_service_pb2 as watch_pb

_WATCH = "/session_authority.v1.SessionWatchService/WatchSessions"
_STREAMS = 100
_CALLS = 64
_SESSIONS = 5_000
_PING_SECONDS = 1.0
_PROTOS = Path(__file__).parents[1] / "protos"
_PACKAGES = ("@grpc/grpc-js", "@grpc/proto-loader")
_NODE_CALLS = 100
_NODE_DEADLINE_MS = 50

Known = tuple[str, str]


class _BesideStreams(Closed):
    """Makes calls on a connection that also carries streams. Each stream pings."""

    pongs = 0

    def began(self) -> None:
        self._watching = [2 * number + 1 for number in range(_STREAMS)]
        self._stream = 2 * _STREAMS + 1
        self._pings = 0
        type(self).pongs = 0
        headers = header_block(_WATCH, "localhost", timeout=False)
        self._transport.write(
            b"".join(frame(HEADERS, END_HEADERS, each, headers) for each in self._watching)
        )
        self._ping()
        super().began()

    def _ping(self) -> None:
        if self._transport.is_closing():
            return
        self._pings += 1
        ping = watch_pb.WatchSessionsRequest(ping=watch_pb.Ping(ping_id=self._pings))
        message = ping.SerializeToString()
        body = b"\0" + len(message).to_bytes(4) + message
        self._transport.write(b"".join(frame(DATA, 0, each, body) for each in self._watching))
        asyncio.get_running_loop().call_later(_PING_SECONDS, self._ping)

    def streamed(self, message: bytes) -> None:
        type(self).pongs += 1


async def _streams(address: str, known: list[Known], rounds: int, seconds: float) -> str:
    messages = [
        pb.ValidateSessionRequest(session_token=token).SerializeToString() for token, _ in known
    ]
    expected = [session_id.encode() for _, session_id in known]

    async def run(kind: type[Closed]) -> Result:
        result = await drive(
            address,
            authority.VALIDATE,
            messages,
            expected,
            concurrency=_CALLS,
            connections=1,
            seconds=seconds,
            kind=kind,
        )
        if result.wrong:
            raise SystemExit(f"{result.wrong} wrong answers")
        return result

    await run(Closed)
    ratios, alone, beside = [], [], []
    for _ in range(rounds):
        without = await run(Closed)
        with_streams = await run(_BesideStreams)
        if _BesideStreams.pongs < _STREAMS * max(1, seconds / _PING_SECONDS - 1):
            raise SystemExit(f"the streams had only {_BesideStreams.pongs} pongs")
        ratios.append(with_streams.rate / without.rate)
        alone.append(without.rate)
        beside.append(with_streams.rate)
    return (
        f"{_CALLS} calls on one connection: {median(alone):,.0f}/s alone, {median(beside):,.0f}/s beside {_STREAMS} "
        f"streams; ratio {median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
    )


def _node(address: str, known: list[Known], seconds: float, folder: Path) -> str:
    script = shutil.copy(Path(__file__).parent / "support" / "node_deadline.cjs", folder)
    node = subprocess.Popen(
        ["node", script, _PROTOS, address, str(_NODE_CALLS), str(_NODE_DEADLINE_MS), str(seconds)],
        cwd=folder,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    pin(node.pid, LOAD_CORE)
    pairs = [{"token": token, "sessionId": session_id} for token, session_id in known]
    out, _ = node.communicate(json.dumps(pairs))
    result: dict[str, Any] = json.loads(out)
    total = sum(result["outcomes"].values())
    late = result["outcomes"].get("DEADLINE_EXCEEDED", 0)
    return (
        f"Node, {_NODE_CALLS} calls on one channel, deadline {_NODE_DEADLINE_MS} ms: {total / seconds:,.0f}/s, p50 "
        f"{result['p50']:.1f} ms, p99 {result['p99']:.1f} ms, {late / total:.2%} DEADLINE_EXCEEDED; "
        f"{result['outcomes']}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4)
    parser.add_argument("--host", choices=authority.HOSTS, action="append")
    parser.add_argument("--only", choices=["streams", "node"])
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if given.only != "streams":
            subprocess.run(["npm", "install", "--silent", *_PACKAGES], cwd=folder, check=True)
        for host in given.host or authority.HOSTS:
            database = f"sqlite:///{folder}/{host}.sqlite"
            known = rows.fill(database, _SESSIONS, sample=_SESSIONS)
            with authority.process(database, host=host) as (address, _):
                if given.only != "node":
                    print(
                        f"{host}: {uvloop.run(_streams(address, known, given.rounds, given.seconds))}"
                    )
                if given.only != "streams":
                    print(f"{host}: {_node(address, known, given.seconds, folder)}", flush=True)


if __name__ == "__main__":
    main()
