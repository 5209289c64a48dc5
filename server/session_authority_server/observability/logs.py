import logging
import sys

import structlog

from session_authority_server.domain.token import mask_tokens
from session_authority_server.observability.bounded_log import BoundedHandler

_GRPC = "grpc._cython.cygrpc"
_NOT_UTF_8 = "Invalid encoding on %s"


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
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    logging.getLogger(_GRPC).filters[:] = [_without_headers]
    for chatty in ("alembic", "apscheduler", "aiosqlite", "asyncio", "sqlalchemy"):
        logging.getLogger(chatty).setLevel(max(logging.WARNING, root.level))


def _without_headers(record: logging.LogRecord) -> bool:
    """Take the value from what gRPC says of a header that is not UTF-8: it may be most of a token."""
    if record.msg == _NOT_UTF_8:
        record.msg, record.args, record.exc_info = "a header of a call is not UTF-8", (), None
        record.levelno, record.levelname = logging.INFO, "INFO"
    return record.levelno >= logging.getLogger().level


def _mask(
    _logger: object, _method: str, event: structlog.typing.EventDict
) -> structlog.typing.EventDict:
    """The last line of defence: no code of ours logs a token, but an exception might quote one."""
    for key, value in event.items():
        if isinstance(value, str):
            event[key] = mask_tokens(value)
    return event
