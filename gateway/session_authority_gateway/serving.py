"""Start the gateway, and drain it."""

import asyncio
import contextlib
import platform
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import structlog
from grpc_health.v1 import health_pb2

from session_authority import AsyncSessionClient, NearCache
from session_authority.errors import ConfigurationError as ClientConfigurationError
from session_authority_gateway.application import Parts, new_application, new_parts
from session_authority_gateway.ext_authz import PACKAGE, Checks
from session_authority_gateway.http_server import listening_socket, serving_http, tls_context
from session_authority_gateway.json_api import JsonApi
from session_authority_gateway.metrics import export_near_cache
from session_authority_gateway.settings import GATEWAY_PREFIX, GatewaySettings
from session_authority_gateway.ssf import SharedSignals
from session_authority_server.app.grpc_server import stop_process_when_host_ends
from session_authority_server.app.outputs import metrics_port
from session_authority_server.app.process import CannotStart
from session_authority_server.config import is_loopback
from session_authority_server.observability.metrics import BUILD_INFO
from session_authority_server.rpc.certificates import (
    CertificateFiles,
    Certificates,
    UnusableCertificates,
)
from session_authority_server.rpc.host import CannotListen, Health, Host
from session_authority_server.rpc.host.grpcio import GrpcioHost

_log = structlog.get_logger("session_authority.gateway")


@dataclass(frozen=True, slots=True)
class RunningGateway:
    """A gateway that accepts requests.

    Attributes:
        address: The address of the HTTP port.
        grpc_address: The address of the gRPC port; "" if there is none.
        json_address: The address of the JSON API; "" if it is off.
        certificates: The certificates, or None without TLS.
    """

    address: str
    grpc_address: str
    json_address: str
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
        client.new_channel() as channel,
    ):
        BUILD_INFO.set(1, version("session-authority"), platform.python_version(), "", "")
        export_near_cache(lambda: client.near_cache_statistics)
        parts = new_parts(settings, client, clock)
        signals = SharedSignals(channel, client.caller_metadata, lambda: not draining)
        application = new_application(parts, lambda: not draining, signals)
        with _listening(settings.listen, "LISTEN") as listening:
            async with _together(
                _serving_grpc(settings, parts, certificates),
                _serving_json(settings, client, context),
                serving_http(application, listening, context, settings.drain_seconds),
            ) as (grpc_address, json_address, _):
                address = _address(listening)
                _log.info(
                    "started",
                    program="gateway",
                    version=version("session-authority"),
                    authority=client.address,
                    address=address,
                    grpc_address=grpc_address or None,
                    json_address=json_address or None,
                    metrics=settings.metrics_listen or None,
                )
                yield RunningGateway(address, grpc_address, json_address, certificates)
                draining = True


@contextlib.asynccontextmanager
async def _together(*ports: AbstractAsyncContextManager[Any]) -> AsyncIterator[list[Any]]:
    """Serve several ports while the context lasts. At the end, drain all of them at once."""
    serving: list[AbstractAsyncContextManager[Any]] = []
    values = []
    try:
        for each in ports:
            values.append(await each.__aenter__())
            serving.append(each)
        yield values
    finally:
        await asyncio.gather(*(each.__aexit__(None, None, None) for each in serving))


@contextlib.asynccontextmanager
async def _serving_grpc(
    settings: GatewaySettings, parts: Parts, certificates: Certificates | None
) -> AsyncIterator[str]:
    """Serve Envoy over gRPC while the context lasts. Yield the address; "" if the settings name none."""
    if not settings.grpc_listen:
        yield ""
        return
    health = Health()
    host = new_host(Checks(parts.gate), health, certificates)
    try:
        address = host.bind(settings.grpc_listen)
    except CannotListen:
        raise _cannot_listen(settings.grpc_listen, "GRPC_LISTEN") from None
    await host.start()
    await health.set("", health_pb2.HealthCheckResponse.SERVING)
    ended = asyncio.create_task(stop_process_when_host_ends(host))
    try:
        yield address
    finally:
        ended.cancel()
        await health.drain()
        await host.stop(settings.drain_seconds)


def new_host(checks: Checks, health: Health, certificates: Certificates | None) -> Host:
    """Return the host for Envoy: the native one if it is installed and there is no certificate, or else grpcio."""
    credentials = None if certificates is None else certificates.credentials()
    grpcio = GrpcioHost(checks, {}, health, credentials=credentials, package=PACKAGE)
    if certificates is not None or find_spec("pygrpc_native") is None:
        return grpcio
    from session_authority_server.rpc.host.native import NativeHost

    return NativeHost(checks, grpcio)


@contextlib.asynccontextmanager
async def _serving_json(
    settings: GatewaySettings, client: AsyncSessionClient, context: ssl.SSLContext | None
) -> AsyncIterator[str]:
    """Serve the JSON API while the context lasts. Yield the address; "" if the settings name none."""
    if not settings.json_listen:
        yield ""
        return
    with _listening(settings.json_listen, "JSON_LISTEN") as listening:
        async with (
            client.new_channel() as channel,
            serving_http(JsonApi(channel), listening, context, settings.drain_seconds),
        ):
            yield _address(listening)


def _listening(address: str, setting: str) -> socket.socket:
    try:
        return listening_socket(address)
    except (OSError, UnicodeError):  # UnicodeError: the host can't be a name in the DNS
        raise _cannot_listen(address, setting) from None


def _address(listening: socket.socket) -> str:
    host, port, *_ = listening.getsockname()
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


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
    for setting in ("listen", "grpc_listen", "json_listen"):
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
