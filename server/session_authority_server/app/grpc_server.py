"""Set up the gRPC server's address, certificates and host, and drain it."""

import asyncio
import signal
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

import structlog

from session_authority_server.app.process import CannotStart
from session_authority_server.config import Settings, is_loopback
from session_authority_server.rpc.certificates import (
    CertificateFiles,
    Certificates,
    UnusableCertificates,
)
from session_authority_server.rpc.dispatcher import DEADLINE_SECONDS, Dispatcher
from session_authority_server.rpc.host import CannotListen, Health, Host
from session_authority_server.rpc.host.grpcio import GrpcioHost, Stream
from session_authority_server.watch.hub import Hub

# Limit for calls that the native host passes to grpcio: streams, health and reflection.
STREAMS_PER_CONNECTION = 128
_log = structlog.get_logger("session_authority")


def refuse_exposure(settings: Settings, *, insecure: bool, allow_plaintext: bool = False) -> None:
    """Refuse to serve other machines without encryption, unless an option allows it.

    Raises:
        CannotStart: If other machines can reach the address, and calls would not be encrypted.
    """
    if not (
        settings.tls_certificate or allow_plaintext or insecure or is_loopback(settings.listen)
    ):
        raise CannotStart(
            f"{settings.listen} can be reached from other machines, and calls would not be encrypted; set "
            "SESSION_AUTHORITY_TLS_CERTIFICATE and SESSION_AUTHORITY_TLS_KEY, listen on 127.0.0.1, or give "
            "--allow-plaintext if a mesh or proxy in front encrypts (--insecure turns API keys off too)"
        )


def certificates(settings: Settings) -> Certificates | None:
    """Return the certificates that the settings name, or None.

    Raises:
        CannotStart: If the certificates can't be used.
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
    """Return the error for an address that is taken or belongs to another machine."""
    return CannotStart(
        f"{address} can't be listened on; is another program using it? Set "
        "SESSION_AUTHORITY_LISTEN to another address, or to port 0 for a free one"
    )


def new_host(
    settings: Settings,
    dispatcher: Dispatcher,
    streams: Mapping[str, Stream],
    health: Health,
    tls_certificates: Certificates | None,
    *,
    share_port: bool,
) -> Host:
    """Return the host that the settings name. It is not bound to an address yet.

    Raises:
        CannotStart: If the host isn't installed, or doesn't support TLS although certificates are set.
    """
    name = host_name(settings)
    credentials = None if tls_certificates is None else tls_certificates.credentials()
    grpcio = GrpcioHost(
        dispatcher,
        streams,
        health,
        credentials=credentials,
        share_port=share_port and name == "grpcio",
        calls_per_connection=settings.calls_per_connection
        if name == "grpcio"
        else min(settings.calls_per_connection, STREAMS_PER_CONNECTION),
    )
    if name == "grpcio":
        return grpcio
    from session_authority_server.rpc.host.native import NativeHost

    return NativeHost(
        dispatcher,
        grpcio,
        share_port=share_port,
        calls_per_connection=settings.calls_per_connection,
    )


def host_name(settings: Settings) -> str:
    """Return the name of the host that the settings select.

    Raises:
        CannotStart: If the host isn't installed, or doesn't support TLS although certificates are set.
    """
    if settings.host == "grpcio":
        return "grpcio"
    installed = find_spec("pygrpc_native") is not None
    if settings.host == "auto":
        return "native" if installed and not settings.tls_certificate else "grpcio"
    if settings.tls_certificate:
        raise CannotStart(
            "the native host has no TLS; set SESSION_AUTHORITY_HOST=grpcio, or terminate TLS in a proxy on this machine "
            "and leave SESSION_AUTHORITY_TLS_CERTIFICATE empty"
        )
    if not installed:
        raise CannotStart(
            "the native host is not installed; install session-authority with its extra `native`, or set "
            "SESSION_AUTHORITY_HOST=grpcio"
        )
    return "native"


def bind(host: Host, address: str) -> str:
    """Bind a host to an address, and return the address with the actual port.

    Raises:
        CannotStart: If the address can't be used.
    """
    try:
        return host.bind(address)
    except CannotListen:
        raise cannot_listen(address) from None


async def stop_process_when_host_ends(host: Host) -> None:
    """Stop the process if the host stops accepting calls by itself.

    A supervisor, or `--processes`, then starts another process. This process would refuse every connection.
    """
    await host.ended()
    _log.critical(
        "gRPC accepts no more calls; stopping, so that a supervisor can restart the server"
    )
    signal.raise_signal(signal.SIGTERM)


async def drain(
    host: Host,
    health: Health,
    hub: Hub,
    grace_seconds: float,
    host_ended: "asyncio.Task[None]",
) -> None:
    """Accept no more calls, end the streams, and wait for the calls in flight."""
    if host_ended.done():
        # Wait no longer than a call's default deadline. The host would also wait for calls that gRPC never accepted.
        grace_seconds = min(grace_seconds, DEADLINE_SECONDS)
    host_ended.cancel()
    await health.drain()
    hub.drain()
    await host.stop(grace_seconds)
