"""The log of a process: its format, the masking of tokens, and the limit on floods."""

import contextvars
import logging
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, TextIO, TypeAlias

import structlog

from session_authority_server.domain.clock import SystemClock
from session_authority_server.domain.token import mask_tokens
from session_authority_server.observability.flood_limit import FloodLimit

# The delay between the first omitted line and the report of how many were omitted.
REPORT_SECONDS = 1.0
_GRPC = "grpc._cython.cygrpc"
_NOT_UTF_8 = "Invalid encoding on %s"

# The logger, the level, the event and, for a refused call, the reason.
_Kind: TypeAlias = tuple[str, int, str, str]


class BoundedHandler(logging.StreamHandler[TextIO]):
    """Writes at most PER_SECOND log lines of each kind, because a flood of calls may cause a flood of lines.

    Lines have the same kind if their logger, level, event and reason are the same. Within two seconds, one line reports
    the number of omitted lines as `lines`. A filter of the standard library is not enough: it can omit lines, but it
    has no timer to report their number after a flood.
    """

    def __init__(self, stream: TextIO, elapsed: Callable[[], float] = time.monotonic) -> None:
        super().__init__(stream)
        self._flood: FloodLimit[_Kind] = FloodLimit(SystemClock(), elapsed)
        self._reporter: threading.Timer | None = None

    def emit(self, record: logging.LogRecord) -> None:
        """Write a line, or count it. The caller holds this handler's lock."""
        if self._flood.admits(_kind(record)):
            super().emit(record)
        elif self._reporter is None:
            context = contextvars.copy_context()  # It adds this process's number to the report.
            self._reporter = threading.Timer(REPORT_SECONDS, context.run, [self.report])
            self._reporter.daemon = True
            self._reporter.start()

    def report(self) -> None:
        """Log how many lines of each kind were omitted since the last report."""
        assert self.lock is not None
        with self.lock:
            suppressed = self._flood.take()
            if self._reporter is not None:
                self._reporter.cancel()
                self._reporter = None
        for (name, level, event, reason), each in suppressed.items():
            more: dict[str, Any] = {"reason": reason} if reason else {}
            structlog.get_logger(name).log(level, f"more of: {event}", lines=each.count, **more)

    def close(self) -> None:
        """Report the lines that were omitted since the last report, and close the handler."""
        self.report()
        super().close()


def _kind(record: logging.LogRecord) -> _Kind:
    message = record.msg
    if isinstance(message, dict):
        event, reason = str(message.get("event")), str(message.get("reason", ""))
        return record.name, record.levelno, event, reason
    return record.name, record.levelno, str(message), ""


def configure(level: str, log_format: str) -> None:
    """Send every log line of the process to standard error, in one form and without tokens."""
    pretty = log_format == "console" or (log_format == "auto" and sys.stderr.isatty())
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        _mask,
    ]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    renderer: structlog.typing.Processor = (
        structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
        if pretty
        else structlog.processors.JSONRenderer()
    )
    handler = BoundedHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    logging.getLogger().handlers[:] = [handler]
    logging.getLogger(_GRPC).filters[:] = [_without_headers]
    _apply_level(level)


def set_level(level: str) -> None:
    """Change the lowest level to log, and log that."""
    before = logging.getLogger().level
    # Log the change while the lower of the old and the new level applies, so that the line is not dropped.
    if logging.getLevelNamesMapping()[level.upper()] < before:
        _apply_level(level)
    structlog.get_logger("session_authority").info("log level reloaded", log_level=level)
    _apply_level(level)


def _apply_level(level: str) -> None:
    root = logging.getLogger()
    root.setLevel(level.upper())
    for chatty in (
        "alembic",
        "apscheduler",
        "aiosqlite",
        "asyncio",
        "httpcore",
        "sqlalchemy",
        "uvicorn",
    ):
        logging.getLogger(chatty).setLevel(max(logging.WARNING, root.level))


def _without_headers(record: logging.LogRecord) -> bool:
    """Remove the value from gRPC's line about a header that is not UTF-8. The value may be most of a token."""
    if record.msg == _NOT_UTF_8:
        record.msg, record.args, record.exc_info = "a header of a call is not UTF-8", (), None
        record.levelno, record.levelname = logging.INFO, "INFO"
    return record.levelno >= logging.getLogger().level


def _mask(
    _logger: object, _method: str, event: structlog.typing.EventDict
) -> structlog.typing.EventDict:
    """Mask tokens in every line. No line contains a token on purpose, but an exception might quote one."""
    for key, value in event.items():
        if isinstance(value, str):
            event[key] = mask_tokens(value)
    return event
