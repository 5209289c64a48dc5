"""The gRPC server: what it serves on, how much it takes on, and how it ends."""

import asyncio
import contextlib
import signal
from pathlib import Path

import grpc
import structlog
from grpc_health.v1 import health, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from session_authority.v1 import (
    session_admin_service_pb2,
    session_service_pb2,
    session_watch_service_pb2,
)
from session_authority.v1.session_admin_service_pb2_grpc import (
    add_SessionAdminServiceServicer_to_server,
)
from session_authority.v1.session_service_pb2_grpc import add_SessionServiceServicer_to_server
from session_authority.v1.session_watch_service_pb2_grpc import (
    add_SessionWatchServiceServicer_to_server,
)
from session_authority_server.cannot_start import CannotStart
from session_authority_server.config import Settings, is_loopback
from session_authority_server.rpc import accepting
from session_authority_server.rpc.certificates import (
    CertificateFiles,
    Certificates,
    UnusableCertificates,
)
from session_authority_server.rpc.health import Health
from session_authority_server.rpc.interceptor import (
    BATCH_REQUEST_LIMIT_BYTES,
    DEADLINE_SECONDS,
    REQUEST_LIMIT_BYTES,
    CallInterceptor,
)
from session_authority_server.rpc.session_admin_service import SessionAdminService
from session_authority_server.rpc.session_service import SessionService
from session_authority_server.rpc.session_watch_service import SessionWatchService
from session_authority_server.watch.hub import Hub

PACKAGE = session_service_pb2.DESCRIPTOR.package
SERVICE = session_service_pb2.DESCRIPTOR.services_by_name["SessionService"].full_name
ADMIN_SERVICE = session_admin_service_pb2.DESCRIPTOR.services_by_name[
    "SessionAdminService"
].full_name
WATCH_SERVICE = session_watch_service_pb2.DESCRIPTOR.services_by_name[
    "SessionWatchService"
].full_name

# How many calls may wait in gRPC to be taken on; from the first number on some are refused. Six connections, as many as
# our client opens, carry less, so that a single client is never refused.
PENDING_CALLS = 96
PENDING_CALLS_LIMIT = 128
_IDLE_CONNECTION_SECONDS = 600
_ACCEPT_LOOP_SECONDS = 0.5  # how often gRPC is asked whether it still takes calls on
_log = structlog.get_logger("session_authority")


class StoppedServing(Exception):
    """gRPC takes no more calls on, though nobody told it to stop."""

    def __init__(self) -> None:
        super().__init__("gRPC stopped taking calls on, as the log says; start the server anew")


def refuse_exposure(settings: Settings, *, insecure: bool, allow_plaintext: bool = False) -> None:
    """Refuse to serve beyond this machine without encryption, unless that is what was asked for.

    Raises:
        CannotStart: If other machines could reach the address, and listen in on the way.
    """
    if not (
        settings.tls_certificate or allow_plaintext or insecure or is_loopback(settings.listen)
    ):
        raise CannotStart(
            f"{settings.listen} can be reached from other machines, and calls would not be encrypted; set "
            "SESSION_AUTHORITY_TLS_CERTIFICATE and SESSION_AUTHORITY_TLS_KEY, listen on 127.0.0.1, or give "
            "--allow-plaintext where something in front encrypts (--insecure for a network without secrets)"
        )


def certificates(settings: Settings) -> Certificates | None:
    """Return the certificates to serve with, where the operator gave some.

    Raises:
        CannotStart: If they can't be used.
    """
    if not settings.tls_certificate:
        return None
    client_ca = Path(settings.tls_client_ca) if settings.tls_client_ca else None
    files = CertificateFiles(Path(settings.tls_certificate), Path(settings.tls_key), client_ca)
    try:
        return Certificates(files)
    except UnusableCertificates as error:
        raise CannotStart(
            f"{error}; see SESSION_AUTHORITY_TLS_CERTIFICATE, SESSION_AUTHORITY_TLS_KEY and "
            "SESSION_AUTHORITY_TLS_CLIENT_CA"
        ) from None


def cannot_listen(address: str) -> CannotStart:
    """Return what to tell an operator whose address is taken or not this machine's."""
    return CannotStart(
        f"{address} can't be listened on; is another program using it? Set "
        "SESSION_AUTHORITY_LISTEN to another address, or to port 0 for a free one"
    )


def new_server(
    service: SessionService,
    admin_service: SessionAdminService,
    watch_service: SessionWatchService,
    interceptor: CallInterceptor,
    *,
    share_port: bool,
    calls_limit: int,
    calls_per_connection: int,
) -> tuple[grpc.aio.Server, Health]:
    """Return a server of all services, which has no address yet, and what tells of its health."""
    server = accepting.server(
        PACKAGE,
        interceptors=[interceptor],
        options=[
            ("grpc.so_reuseport", int(share_port)),
            # A little more than is allowed, so that a request slightly too large is refused with a reason.
            ("grpc.max_receive_message_length", BATCH_REQUEST_LIMIT_BYTES + REQUEST_LIMIT_BYTES),
            ("grpc.max_metadata_size", 16 * 1024),
            # A caller may send 64 KiB of a request before the server reads it. gRPC would raise that to 16 MiB for each
            # call of a fast connection, with or without an API key.
            ("grpc.http2.bdp_probe", 0),
            # gRPC refuses these by itself, for a twentieth of what a call costs. Its own limits, thousands,
            # would have calls wait for seconds.
            ("grpc.server.max_pending_requests", PENDING_CALLS),
            ("grpc.server.max_pending_requests_hard_limit", PENDING_CALLS_LIMIT),
            # Further calls wait in the client.
            ("grpc.max_concurrent_streams", calls_per_connection),
            # A stream that the client resets still uses memory until Python has let go of it. Without this bound,
            # one connection that opens and resets streams takes gigabytes. A client that keeps all its streams
            # busy has up to twice as many in memory; the rest of the bound is reserve, so it is never refused.
            ("grpc.http.overload_protection", 1),
            ("grpc.http2.max_deallocating_streams", 2 * calls_per_connection),
            # Who pings more often than this three times is hung up on.
            ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),
            ("grpc.http2.max_ping_strikes", 2),
            # Clients never close those that they opened for a burst, which take some 50 KiB each.
            ("grpc.max_connection_idle_ms", _IDLE_CONNECTION_SECONDS * 1_000),
            # Who is gone without a word is noticed, and who never shakes hands.
            ("grpc.keepalive_time_ms", 60_000),
            ("grpc.keepalive_timeout_ms", 20_000),
            ("grpc.server_handshake_timeout_ms", 5_000),
        ],
        calls_limit=calls_limit,
    )
    add_SessionServiceServicer_to_server(service, server)
    add_SessionAdminServiceServicer_to_server(admin_service, server)
    add_SessionWatchServiceServicer_to_server(watch_service, server)
    healthy = Health()
    health_pb2_grpc.add_HealthServicer_to_server(healthy, server)
    names = (SERVICE, ADMIN_SERVICE, WATCH_SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME)
    reflection.enable_server_reflection(names, server)
    return server, healthy


def bind(server: grpc.aio.Server, address: str, shown: Certificates | None) -> str:
    """Have a server listen on an address, and return it with the port that it got.

    Raises:
        CannotStart: If the address can't be had.
    """
    try:
        if shown is None:
            port = server.add_insecure_port(address)
        else:
            port = server.add_secure_port(address, shown.credentials())
    except RuntimeError:
        raise cannot_listen(address) from None
    return f"{address.rpartition(':')[0]}:{port}"


async def served_to_its_end(server: grpc.aio.Server) -> None:
    """Wait for the end of gRPC's accept loop, which nothing should bring about, and have the process stop.

    Whoever keeps it, a supervisor or `--processes`, then starts one anew. Left alone, it would live on and
    refuse every connection.
    """
    # Asked again and again: the end alone is not told before the last of the calls under way has ended.
    with contextlib.suppress(Exception):  # gRPC has logged it
        while await server.wait_for_termination(_ACCEPT_LOOP_SECONDS):
            pass
    _log.critical("gRPC takes no more calls on; stopping, to be started anew")
    signal.raise_signal(signal.SIGTERM)


async def drain(
    server: grpc.aio.Server,
    healthy: Health,
    hub: Hub,
    grace_seconds: float,
    served: "asyncio.Task[None]",
) -> None:
    """Take nothing on any more, end the streams, and wait for the calls under way."""
    if served.done():
        # What gRPC never took on would be waited for too. The calls that it did take on have this long.
        grace_seconds = min(grace_seconds, DEADLINE_SECONDS)
    served.cancel()
    await healthy.drain()
    hub.drain()
    await server.stop(grace_seconds)
