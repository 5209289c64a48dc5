import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from datetime import datetime

from session_authority_server.audit.lines import DROPPED, as_line, counted
from session_authority_server.audit.output import Descriptor, File
from session_authority_server.domain.clock import Clock
from session_authority_server.domain.event import CredentialFault, CredentialRejected, Event
from session_authority_server.observability.metrics import AUDIT_EVENTS_DROPPED
from session_authority_server.store.protocol import EVENTS_AT_ONCE

# How many events wait to be written at most; as many again may be under way.
QUEUE_LIMIT_EVENTS = 10 * EVENTS_AT_ONCE
# How many rejected credentials of a kind are told in a second; the others are counted in one line.
REJECTIONS_A_SECOND = 10
# How long upkeep waits for room, and an orderly stop for what waits to be written.
ROOM_SECONDS = 10.0
DRAIN_SECONDS = 5.0
RETRY_SECONDS = 0.2

_log = logging.getLogger(__name__)


class AuditLog:
    """Takes events without waiting, and writes them in order, in a thread of its own.

    Where they come faster than they can be written, those beyond QUEUE_LIMIT_EVENTS are dropped, which a metric
    counts, and a line tells as soon as there is one again.
    """

    def __init__(
        self,
        output: File | Descriptor,
        clock: Clock,
        *,
        addresses: bool = False,
        elapsed: Callable[[], float] = time.monotonic,
    ) -> None:
        """Begin to write.

        Args:
            output: Where to.
            clock: Nobody else's, for it is read in any thread.
            addresses: Whether to tell the IP address and user agent of a sign-in.
            elapsed: A clock in seconds that is never set.
        """
        self._output = output
        self._clock = clock
        self._addresses = addresses
        self._elapsed = elapsed
        self._changed = threading.Condition()
        self._queue: list[Event] = []
        self._missing: dict[str, _Missing] = {}
        self._window: tuple[float, dict[CredentialFault, int]] = (elapsed(), {})
        self._stopping = False
        self._give_up = float("inf")
        self._failing = False
        self._writing: deque[bytes] = deque()
        self._writer = threading.Thread(target=self._write_all, name="audit", daemon=True)
        self._writer.start()

    def record(self, *events: Event) -> None:
        """Take events that have been committed. Neither waits nor raises."""
        with self._changed:
            for event in events:
                if isinstance(event, CredentialRejected) and not self._is_told_alone(event):
                    continue
                if len(self._queue) < QUEUE_LIMIT_EVENTS:
                    self._queue.append(event)
                else:
                    AUDIT_EVENTS_DROPPED.inc()
                    self._miss(DROPPED)
            self._changed.notify()

    async def room(self) -> None:
        """Wait until EVENTS_AT_ONCE can be taken, but not for longer than ROOM_SECONDS."""
        give_up = self._elapsed() + ROOM_SECONDS
        most = QUEUE_LIMIT_EVENTS - EVENTS_AT_ONCE
        # Asked again and again, for the writer is in another thread.
        while len(self._queue) > most and self._elapsed() < give_up:  # noqa: ASYNC110
            await asyncio.sleep(0.01)

    def close(self, seconds: float = DRAIN_SECONDS) -> None:
        """Write what waits, for no longer than some seconds, and stop. Once more, it changes nothing."""
        with self._changed:
            if self._stopping:
                return
            self._stopping = True
            self._give_up = self._elapsed() + seconds
            self._changed.notify()
        self._writer.join(seconds + 2 * RETRY_SECONDS)
        lost = len(self._queue) + len(self._writing)
        if lost:
            AUDIT_EVENTS_DROPPED.inc(lost)
            _log.error("%d lines of the audit log could not be written at the end", lost)
        if not self._writer.is_alive():  # else it hangs in a write
            self._output.close()

    def _is_told_alone(self, event: CredentialRejected) -> bool:
        """Say whether a rejection gets a line of its own, or is counted, so that nobody can flood the log."""
        now = self._elapsed()
        started, counts = self._window
        if now - started >= 1:
            started, counts = self._window = (now, {})
        counts[event.fault] = counts.get(event.fault, 0) + 1
        if event.fault is CredentialFault.UNKNOWN:
            return False  # an old cookie, most of the time, and no session that is at stake
        if counts[event.fault] <= REJECTIONS_A_SECOND:
            return True
        self._miss(event.fault.value)
        return False

    def _miss(self, why: str) -> None:
        missing = self._missing.get(why)
        if missing is None:
            missing = self._missing[why] = _Missing(why, self._clock.now(), self._elapsed())
        missing.count += 1

    def _write_all(self) -> None:
        while True:
            with self._changed:
                while not (self._queue or self._stopping or self._due()):
                    self._changed.wait(1.0 if self._missing else None)
                events, self._queue = self._queue, []
                # What was dropped was dropped after all that waited.
                due = self._due()
                for missing in due:
                    del self._missing[missing.why]
                until = self._clock.now() if due else None
                stopping = self._stopping
            try:
                lines = deque(as_line(event, addresses=self._addresses) for event in events)
                for each in due:
                    lines.append(counted(each.why, each.count, each.since, until or each.since))
                self._write(lines)
            except Exception:  # noqa: BLE001 - nothing stops the audit log
                AUDIT_EVENTS_DROPPED.inc(len(events))
                _log.exception("%d events could not be told by the audit log", len(events))
            if stopping and not self._queue and not self._missing:
                return
            if self._elapsed() >= self._give_up:
                return

    def _due(self) -> list["_Missing"]:
        """Return of what to tell now: of what was dropped at once, of rejections once a second."""
        over = self._elapsed() - 1
        return [
            missing
            for missing in self._missing.values()
            if self._stopping or missing.why == DROPPED or missing.since_elapsed <= over
        ]

    def _write(self, lines: deque[bytes]) -> None:
        self._writing = lines
        while lines:
            try:
                self._output.write(lines)
            except OSError as error:
                if not self._failing:
                    _log.error(
                        "the audit log can't be written, and will be tried again: %s",
                        error.strerror,
                    )
                self._failing = True
                if self._elapsed() >= self._give_up:
                    return
                time.sleep(RETRY_SECONDS)
            else:
                if self._failing:
                    _log.warning("the audit log can be written again")
                self._failing = False


class _Missing:
    """Events that get no line of their own."""

    def __init__(self, why: str, since: datetime, since_elapsed: float) -> None:
        self.why = why
        self.since = since
        self.since_elapsed = since_elapsed
        self.count = 0
