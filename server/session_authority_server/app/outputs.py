"""Open the audit log, serve the metrics, and export the traces."""

import asyncio
import contextlib
import os
import platform
import threading
from collections.abc import AsyncIterator
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from session_authority_server.app.process import CannotStart
from session_authority_server.audit.log import AuditLog
from session_authority_server.audit.output import Descriptor, File
from session_authority_server.config import STANDARD_OUTPUT, Settings, split_address
from session_authority_server.domain.clock import SystemClock
from session_authority_server.observability import traces_export
from session_authority_server.observability.metrics import BUILD_INFO
from session_authority_server.observability.metrics_port import MetricsServer
from session_authority_server.ports.store import NO_AUDIT, Audit
from session_authority_server.store.database import Database
from session_authority_server.store.schema import read_version

if TYPE_CHECKING:
    from session_authority_server.rpc.tracing import Tracing

FLUSH_SECONDS = 5.0

_log = structlog.get_logger("session_authority")


@contextlib.asynccontextmanager
async def auditing(settings: Settings, standard_output: int = 1) -> AsyncIterator[Audit]:
    """Open the audit log that the settings name, and write all queued events before closing it.

    Args:
        settings: The settings that name the audit log.
        standard_output: The file descriptor to use for standard output.

    Raises:
        CannotStart: If the audit log can't be written to.
    """
    where = settings.audit_log
    if not where:
        yield NO_AUDIT
        return
    try:
        output = Descriptor(standard_output) if where == STANDARD_OUTPUT else File(Path(where))
    except OSError as error:
        raise CannotStart(
            f"the audit log {where} can't be written: {error.strerror}; set SESSION_AUTHORITY_AUDIT_LOG to another "
            "path, or to - for standard output"
        ) from None
    audit = AuditLog(output, SystemClock(), addresses=settings.audit_addresses)
    try:
        yield audit
    finally:
        await asyncio.to_thread(audit.close)


@contextlib.asynccontextmanager
async def metrics(settings: Settings, database: Database, host: str = "") -> AsyncIterator[None]:
    """Serve metrics while the context lasts, if the settings name an address.

    Args:
        settings: The settings that name the address.
        database: The database of this process.
        host: The name of the HTTP/2 implementation, "grpcio" or "native"; empty in a worker.

    Raises:
        CannotStart: If the address can't be used.
    """
    if settings.metrics_listen:
        schema = (await read_version(database)).current or ""
        BUILD_INFO.set(1, version("session-authority"), platform.python_version(), host, schema)
        database.export_pools()
    async with metrics_port(settings.metrics_listen, "SESSION_AUTHORITY_METRICS_LISTEN"):
        yield


@contextlib.asynccontextmanager
async def metrics_port(address: str, setting: str) -> AsyncIterator[None]:
    """Serve the metrics of this process while the context lasts.

    Args:
        address: Where to serve them, as host:port. Empty for no metrics.
        setting: The variable that set the address.

    Raises:
        CannotStart: If the address can't be used.
    """
    if not address:
        yield
        return
    try:
        server = MetricsServer(*split_address(address))
    except (OSError, UnicodeError) as error:  # UnicodeError: the host can't be a name in the DNS
        raise CannotStart(
            f"metrics can't be served on {address}: {getattr(error, 'strerror', error)}; set "
            f"{setting} to another address"
        ) from None
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield
    finally:
        await asyncio.to_thread(server.shutdown)
        server.server_close()
        thread.join()


@contextlib.asynccontextmanager
async def traces() -> AsyncIterator["Tracing | None"]:
    """Export traces while the context lasts, if the environment names a collector. Send the last ones at the end.

    Raises:
        CannotStart: If an OTEL variable has no usable value.
    """
    try:
        provider = traces_export.new_provider(os.environ)
    except ValueError as error:
        raise CannotStart(
            f"traces can't be exported: {error}; see docs/operate/traces.md"
        ) from None
    if provider is None:
        yield None
        return
    from session_authority_server.rpc.tracing import Tracing

    try:
        yield Tracing(provider)
    finally:
        # A thread of its own, because the SDK waits up to 30 seconds for a collector that does not answer.
        flush = threading.Thread(target=provider.shutdown, daemon=True)
        flush.start()
        await asyncio.to_thread(flush.join, FLUSH_SECONDS)
        if flush.is_alive():
            _log.warning("the collector does not answer; the last traces are lost")
