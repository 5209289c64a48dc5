import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable

from session_authority_server.audit.lines import DROPPED, as_line, summary_line
from session_authority_server.audit.output import Descriptor, File
from session_authority_server.domain.clock import Clock
from session_authority_server.domain.event import CredentialFault, CredentialRejected, Event
from session_authority_server.observability.flood_limit import FloodLimit
from session_authority_server.observability.metrics import AUDIT_DROPPED, AUDIT_QUEUE
from session_authority_server.ports.store import EVENTS_AT_ONCE

# The most events that wait in the queue. The writer may hold as many again.
QUEUE_LIMIT_EVENTS = 10 * EVENTS_AT_ONCE
# The longest time that `wait_for_room` waits before a background job records a batch of events. If the queue is still
# full then, events may be dropped.
ROOM_SECONDS = 10.0
# How long a shutdown waits until the queue is written.
DRAIN_SECONDS = 5.0
RETRY_SECONDS = 0.2

_log = logging.getLogger(__name__)


class AuditLog:
    """Queues events without waiting. A separate thread writes them in order.

    While QUEUE_LIMIT_EVENTS wait, further events are dropped. A metric counts them. A line reports their number as
    soon as a line can be written again.

    The standard library's QueueListener is not used. Its stop waits for a hanging disk without a limit, and its
    handlers lose a line that a full disk refuses.
    """

    def __init__(
        self,
        output: File | Descriptor,
        clock: Clock,
        *,
        addresses: bool = False,
        elapsed: Callable[[], float] = time.monotonic,
    ) -> None:
        """Start the writing thread.

        Args:
            output: Receives the lines.
            clock: The clock. The log reads it from several threads, so no other component may use it.
            addresses: Whether to write the IP address and user agent of a sign-in.
            elapsed: Returns the seconds of a monotonic clock.
        """
        self._output = output
        self._clock = clock
        self._addresses = addresses
        self._elapsed = elapsed
        self._changed = threading.Condition()
        self._queue: list[Event] = []
        self._flood: FloodLimit[str] = FloodLimit(clock, elapsed)
        self._stopping = False
        self._give_up = float("inf")
        self._failing = False
        self._writing: deque[bytes] = deque()
        AUDIT_QUEUE.set_function(lambda: len(self._queue) + len(self._writing))
        self._writer = threading.Thread(target=self._write_all, name="audit", daemon=True)
        self._writer.start()

    def record(self, *events: Event) -> None:
        """Queue events whose transactions are committed. Neither waits nor raises."""
        with self._changed:
            for event in events:
                if isinstance(event, CredentialRejected) and not self._admits(event):
                    continue
                if len(self._queue) < QUEUE_LIMIT_EVENTS:
                    self._queue.append(event)
                else:
                    AUDIT_DROPPED.inc()
                    self._flood.count_suppressed(DROPPED)
            self._changed.notify()

    async def wait_for_room(self) -> None:
        """Wait until the queue has room for EVENTS_AT_ONCE events, for ROOM_SECONDS at most."""
        give_up = self._elapsed() + ROOM_SECONDS
        most = QUEUE_LIMIT_EVENTS - EVENTS_AT_ONCE
        # Polls, because the writer runs in another thread.
        while len(self._queue) > most and self._elapsed() < give_up:  # noqa: ASYNC110
            await asyncio.sleep(0.01)

    def close(self, seconds: float = DRAIN_SECONDS) -> None:
        """Write the waiting events within a time limit, and stop. A second call changes nothing."""
        with self._changed:
            if self._stopping:
                return
            self._stopping = True
            self._give_up = self._elapsed() + seconds
            self._changed.notify()
        self._writer.join(seconds + 2 * RETRY_SECONDS)
        lost = len(self._queue) + len(self._writing)
        if lost:
            AUDIT_DROPPED.inc(by=lost)
            _log.error("%d lines of the audit log could not be written at shutdown", lost)
        # A thread that is still alive hangs in a write, and still uses the output.
        if not self._writer.is_alive():
            self._output.close()

    def _admits(self, event: CredentialRejected) -> bool:
        """Return whether a rejection gets a line of its own. The limit prevents floods of the log."""
        # An unknown credential is usually an old cookie, and endangers no session.
        return event.fault is not CredentialFault.UNKNOWN and self._flood.admits(event.fault.value)

    def _is_due(self, why: str, age_seconds: float) -> bool:
        """Return whether to report the number of omitted events now.

        Dropped events are reported at once, rejections once a second.
        """
        return self._stopping or why == DROPPED or age_seconds >= 1

    def _write_all(self) -> None:
        while True:
            with self._changed:
                if not (self._queue or self._stopping):
                    self._changed.wait(1.0 if self._flood else None)
                events, self._queue = self._queue, []
                # Events are dropped only while the queue is full, so the report comes after the queued events.
                suppressed = self._flood.take(self._is_due)
                until = self._clock.now() if suppressed else None
                stopping = self._stopping
            try:
                lines = deque(as_line(event, addresses=self._addresses) for event in events)
                for why, each in suppressed.items():
                    lines.append(summary_line(why, each.count, each.since, until or each.since))
                self._write(lines)
            except Exception:  # noqa: BLE001 - nothing stops the audit log
                with self._changed:
                    AUDIT_DROPPED.inc(by=len(events))
                _log.exception("%d events could not be written to the audit log", len(events))
            if stopping and not self._queue and not self._flood:
                return
            if self._elapsed() >= self._give_up:
                return

    def _write(self, lines: deque[bytes]) -> None:
        self._writing = lines
        while lines:
            try:
                self._output.write(lines)
            except OSError as error:
                if not self._failing:
                    _log.error(
                        "the audit log can't be written; retrying until it can: %s",
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
