"""Start the gateway, and drain it."""

import contextlib
import platform
import socket
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import version
from pathlib import Path

import grpc
import structlog
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1._async import HealthServicer

from session_authority import AsyncSessionClient, NearCache
from session_authority.errors import ConfigurationError as ClientConfigurationError
from session_authority_gateway.application import Parts, new_application, new_parts
from session_authority_gateway.http_server import listening_socket, serving_http, tls_context
from session_authority_gateway.metrics import export_near_cache
from session_authority_gateway.settings import GATEWAY_PREFIX, GatewaySettings
from session_authority_server.app.outputs import metrics_port
from session_authority_server.app.process import CannotStart
from session_authority_server.config import is_loopback
from session_authority_server.observability.metrics import BUILD_INFO
from session_authority_server.rpc.certificates import (
    CertificateFiles,
    Certificates,
    UnusableCertificates,
)

_log = structlog.get_logger("session_authority.gateway")


@dataclass(frozen=True, slots=True)
class RunningGateway:
    """A gateway that accepts requests.

    Attributes:
        address: The address of the HTTP port.
        grpc_address: The address of the gRPC port; "" if there is none.
        certificates: The certificates, or None without TLS.
    """

    address: str
    grpc_address: str
    certificates: Certificates | None


@contextlib.asynccontextmanager
async def serving(
    settings: GatewaySettings,
    *,
    allow_plaintext: bool = False,
    client: AsyncSessionClient | None = None,
    clock: Callable[[], datetime] | None = None,
) -> AsyncIterator[RunningGateway]:
    """Serve while the context lasts, then drain.

    Args:
        settings: The operator's settings.
        allow_plaintext: Whether other machines may connect without encryption, because a mesh encrypts.
        client: The client of the authority. By default, a new one from the environment.
        clock: Returns the current time. The default is the system's, or that of a test's authority.

    Raises:
        CannotStart: If an address, the certificates or the client's variables can't be used.
    """
    _refuse_exposure(settings, allow_plaintext=allow_plaintext)
    files = _certificate_files(settings)
    try:
        certificates = None if files is None else Certificates(files)
        context = None if files is None else tls_context(files)
    except UnusableCertificates as error:
        raise CannotStart(
            f"{error}; see {GATEWAY_PREFIX}TLS_CERTIFICATE, {GATEWAY_PREFIX}TLS_KEY and {GATEWAY_PREFIX}TLS_CLIENT_CA"
        ) from None
    draining = False
    async with (
        metrics_port(settings.metrics_listen, f"{GATEWAY_PREFIX}METRICS_LISTEN"),
        contextlib.nullcontext(client) if client else _new_client(settings) as client,
    ):
        BUILD_INFO.set(1, version("session-authority"), platform.python_version(), "", "")
        export_near_cache(lambda: client.near_cache_statistics)
        parts = new_parts(settings, client, clock)
        application = new_application(parts, lambda: not draining)
        with _listening(settings) as listening:
            async with (
                _serving_grpc(settings, parts, certificates) as grpc_address,
                serving_http(application, listening, context, settings.drain_seconds),
            ):
                host, port, *_ = listening.getsockname()
                address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
                _log.info(
                    "started",
                    program="gateway",
                    version=version("session-authority"),
                    authority=client.address,
                    address=address,
                    grpc_address=grpc_address or None,
                    metrics=settings.metrics_listen or None,
                )
                yield RunningGateway(address, grpc_address, certificates)
                draining = True


@contextlib.asynccontextmanager
async def _serving_grpc(
    settings: GatewaySettings, parts: Parts, certificates: Certificates | None
) -> AsyncIterator[str]:
    """Serve Envoy over gRPC while the context lasts. Yield the address; "" if the settings name none."""
    if not settings.grpc_listen:
        yield ""
        return
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    health = HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(health, server)
    # Each gRPC surface adds its service here, with `parts`.
    try:
        if certificates is None:
            port = server.add_insecure_port(settings.grpc_listen)
        else:
            port = server.add_secure_port(settings.grpc_listen, certificates.credentials())
    except RuntimeError:
        raise _cannot_listen(settings.grpc_listen, "GRPC_LISTEN") from None
    await server.start()
    await health.set("", health_pb2.HealthCheckResponse.SERVING)
    try:
        yield f"{settings.grpc_listen.rpartition(':')[0]}:{port}"
    finally:
        await health.enter_graceful_shutdown()
        await server.stop(settings.drain_seconds)


def _listening(settings: GatewaySettings) -> socket.socket:
    try:
        return listening_socket(settings.listen)
    except (OSError, UnicodeError):  # UnicodeError: the host can't be a name in the DNS
        raise _cannot_listen(settings.listen, "LISTEN") from None


def _new_client(settings: GatewaySettings) -> AsyncSessionClient:
    try:
        return AsyncSessionClient.from_env(near_cache=NearCache(settings.cached_sessions))
    except ClientConfigurationError as error:
        raise CannotStart(str(error)) from None


def _certificate_files(settings: GatewaySettings) -> CertificateFiles | None:
    if not settings.tls_certificate:
        return None
    client_ca = Path(settings.tls_client_ca) if settings.tls_client_ca else None
    return CertificateFiles(Path(settings.tls_certificate), Path(settings.tls_key), client_ca)


def _refuse_exposure(settings: GatewaySettings, *, allow_plaintext: bool) -> None:
    """Refuse to serve other machines without encryption, because the headers carry tokens and identities."""
    if settings.tls_certificate or allow_plaintext:
        return
    for setting in ("listen", "grpc_listen"):
        address = getattr(settings, setting)
        if address and not is_loopback(address):
            raise CannotStart(
                f"{address} can be reached from other machines, and requests would not be encrypted; set "
                f"{GATEWAY_PREFIX}TLS_CERTIFICATE and {GATEWAY_PREFIX}TLS_KEY, set {GATEWAY_PREFIX}{setting.upper()} "
                "to an address on 127.0.0.1, or give --allow-plaintext if a mesh or proxy encrypts"
            )


def _cannot_listen(address: str, setting: str) -> CannotStart:
    return CannotStart(
        f"{address} can't be listened on; is another program using it? Set {GATEWAY_PREFIX}{setting} to another "
        "address, or to port 0 for a free one"
    )
