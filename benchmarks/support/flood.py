"""Generates open-loop load: calls at a fixed rate, however many are unanswered."""

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import uvloop

from benchmarks.support.authority import VALIDATE
from benchmarks.support.http2 import Connection, Outcome
from benchmarks.support.load import percentile_ms
from benchmarks.support.process import LOAD_CORE, pin

_TICK_SECONDS = 0.002
_PATIENCE_SECONDS = 5.0


@dataclass
class Phase:
    """The outcome of the calls at one rate.

    Attributes:
        seconds: The length of the phase.
        due: The number of calls that were due.
        unsent: The number of due calls that HTTP/2 did not allow to send.
        right: The latencies of right answers, in seconds.
        refused: The latencies of refusals, in seconds.
        wrong: The number of wrong answers.
        unanswered: The number of calls without an answer at the end.
        first_second: The number of calls sent in the first second, and how many of them were answered.
        answers: The number of right answers received during the phase, also to calls of an earlier phase.
    """

    seconds: float = 0.0
    due: int = 0
    unsent: int = 0
    right: list[float] = field(default_factory=list)
    refused: list[float] = field(default_factory=list)
    wrong: int = 0
    unanswered: int = 0
    first_second: tuple[int, int] = (0, 0)
    answers: int = 0

    @property
    def summary(self) -> str:
        """The outcome in one line."""
        return (
            f"due {self.due / self.seconds:,.0f}/s, unsent {self.unsent / self.due:.1%}; answered "
            f"{self.answers / self.seconds:,.0f}/s, p50 {percentile_ms(self.right, 50):.1f} ms, p99 "
            f"{percentile_ms(self.right, 99):.1f} ms; refused {len(self.refused) / self.seconds:,.0f}/s, p50 "
            f"{percentile_ms(self.refused, 50):.1f} ms; wrong {self.wrong}; without an answer {self.unanswered}"
        )


class _Raw(Connection):
    """Sends as many calls as HTTP/2 allows, and records their outcomes."""

    def __init__(self, *what: Any, shift: int) -> None:
        super().__init__(*what)
        self._count = len(self._pieces)
        self._next = shift
        self.ends: list[tuple[float, float, Outcome]] = []
        self.closed = False

    def try_to_send(self, count: int, now: float) -> int:
        """Send at most `count` calls. Return how many could not be sent."""
        sent = 0
        while sent < count and self.has_room and not self.closed:
            self.send(self._next, now)
            self._next = (self._next + 1) % self._count
            sent += 1
        self.flush()
        return count - sent

    def ended(self, sent: float, now: float, outcome: Outcome) -> None:
        self.ends.append((sent, now, outcome))

    def lost(self) -> None:
        self.closed = True


async def _generate(
    address: str,
    messages: Sequence[bytes],
    expected: Sequence[bytes],
    rates: Sequence[tuple[float, float]],
    connections: int,
) -> list[dict[str, Any]]:
    host, port = address.rsplit(":", 1)
    opened: list[_Raw] = []
    for number in range(connections):
        shift = number * len(messages) // connections
        each = _Raw(VALIDATE, address, messages, expected, shift=shift)
        await asyncio.get_running_loop().create_connection(
            lambda each=each: each,  # type: ignore[misc]
            host,
            int(port),
        )
        opened.append(each)
    await asyncio.sleep(0.2)
    phases: list[tuple[float, Phase]] = []
    for rate, seconds in rates:
        began = time.perf_counter()
        phases.append((began, await _phase(opened, rate, seconds)))
    deadline = time.perf_counter() + _PATIENCE_SECONDS
    while any(each.open for each in opened) and time.perf_counter() < deadline:
        await asyncio.sleep(0.01)
    for began, phase in phases:
        _fill(phase, began, opened)
    return [vars(phase) for _, phase in phases]


async def _phase(opened: Sequence[_Raw], rate: float, seconds: float) -> Phase:
    phase, began, turn = Phase(), time.perf_counter(), 0
    while (passed := time.perf_counter() - began) < seconds:
        due = int(passed * rate) - phase.due
        now = time.perf_counter()
        # Spread the calls over the connections, like the calls of many clients.
        for number in range(min(due, len(opened))):
            share = due // len(opened) + (number < due % len(opened))
            phase.unsent += opened[(turn + number) % len(opened)].try_to_send(share, now)
        turn += due
        phase.due += due
        await asyncio.sleep(_TICK_SECONDS)
    phase.seconds = time.perf_counter() - began
    return phase


def _fill(phase: Phase, began: float, opened: Sequence[_Raw]) -> None:
    end, sent_first, right_first = began + phase.seconds, 0, 0
    for each in opened:
        for sent, now, outcome in each.ends:
            phase.answers += outcome is Outcome.RIGHT and began <= now < end
            if not began <= sent < end:
                continue
            if outcome is Outcome.WRONG:
                phase.wrong += 1
            else:
                (phase.right if outcome is Outcome.RIGHT else phase.refused).append(now - sent)
            if sent < began + 1:
                sent_first += 1
                right_first += outcome is Outcome.RIGHT
        for sent, _ in each.open.values():
            phase.unanswered += began <= sent < end
            sent_first += began <= sent < min(end, began + 1)
    phase.first_second = sent_first, right_first


class Flood:
    """Runs open-loop load in a process of its own, on the core for load."""

    def __init__(
        self, address: str, sessions: Path, *rates: tuple[float, float], connections: int
    ) -> None:
        """Start the load.

        Args:
            address: The address of the server.
            sessions: A JSON file with pairs of request and expected bytes, in hexadecimal.
            rates: The phases, in order: calls per second, and seconds.
            connections: The number of connections.
        """
        how = json.dumps({"rates": rates, "connections": connections})
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.support.flood", address, str(sessions), how],
            stdout=subprocess.PIPE,
        )
        if (os.cpu_count() or 1) > 1:
            pin(self._process.pid, LOAD_CORE)

    @property
    def over(self) -> bool:
        """Whether the load has ended."""
        return self._process.poll() is not None

    def phases(self) -> list[Phase]:
        """Wait for the end, and return the outcome of each phase."""
        out, _ = self._process.communicate()
        return [Phase(**each) for each in json.loads(out)]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()


def _main() -> None:
    address, sessions, how = sys.argv[1:]
    pairs = [tuple(map(bytes.fromhex, pair)) for pair in json.loads(Path(sessions).read_text())]
    messages, expected = zip(*pairs, strict=True)
    json.dump(uvloop.run(_generate(address, messages, expected, **json.loads(how))), sys.stdout)


if __name__ == "__main__":
    _main()
