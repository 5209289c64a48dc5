import contextvars
import logging
import threading
import time
from collections.abc import Callable
from typing import Any, TextIO, TypeAlias

import structlog

# How many lines of a kind are written in a second; the others are counted in one line.
LINES_A_SECOND = 10
# How long after the first of them their number is told.
TELL_SECONDS = 1.0

# The logger, the level, what happened and, of a call that was refused, why.
_Kind: TypeAlias = tuple[str, int, str, str]


class BoundedHandler(logging.StreamHandler[TextIO]):
    """Writes log lines, but of each kind no more than some a second: what causes them may be a flood.

    Lines are of one kind if they tell the same of different things. How many more there were is told within a
    second or two by one line that has their number as `lines`.
    """

    def __init__(self, stream: TextIO, elapsed: Callable[[], float] = time.monotonic) -> None:
        """Write to a stream.

        Args:
            stream: Where to.
            elapsed: A clock in seconds that is never set.
        """
        super().__init__(stream)
        self._elapsed = elapsed
        self._started = elapsed()
        self._written: dict[_Kind, int] = {}
        self._left_out: dict[_Kind, int] = {}
        self._teller: threading.Timer | None = None

    def emit(self, record: logging.LogRecord) -> None:
        """Write a line, or count it."""
        # The caller holds this handler's lock.
        now = self._elapsed()
        if now - self._started >= 1:
            self._started = now
            self._written.clear()
        kind = _kind(record)
        written = self._written[kind] = self._written.get(kind, 0) + 1
        if written <= LINES_A_SECOND:
            super().emit(record)
            return
        self._left_out[kind] = self._left_out.get(kind, 0) + 1
        if self._teller is None:
            context = contextvars.copy_context()  # has the number of this process, for one
            self._teller = threading.Timer(TELL_SECONDS, context.run, [self.tell])
            self._teller.daemon = True
            self._teller.start()

    def tell(self) -> None:
        """Write how many lines of each kind were left out since it was last told."""
        assert self.lock is not None
        with self.lock:
            left_out, self._left_out = self._left_out, {}
            if self._teller is not None:
                self._teller.cancel()
                self._teller = None
        for (name, level, event, reason), lines in left_out.items():
            more: dict[str, Any] = {"reason": reason} if reason else {}
            structlog.get_logger(name).log(level, f"more of: {event}", lines=lines, **more)

    def close(self) -> None:
        """Tell what was left out to the last."""
        self.tell()
        super().close()


def _kind(record: logging.LogRecord) -> _Kind:
    told = record.msg
    if isinstance(told, dict):
        return record.name, record.levelno, str(told.get("event")), str(told.get("reason", ""))
    return record.name, record.levelno, str(told), ""
