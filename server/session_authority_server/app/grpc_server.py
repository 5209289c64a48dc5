"""The gRPC server: its address, its certificates, its host, and its end."""

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

# Behind the native host, of the calls that grpcio serves: streams, health and reflection.
STREAMS_PER_CONNECTION = 128
_log = structlog.get_logger("session_authority")


def refuse_exposure(settings: Settings, *, insecure: bool, allow_plaintext: bool = False) -> None:
    """Refuse to serve beyond this machine without encryption, unless an option allows it.

    Raises:
        CannotStart: If other machines can reach the address, and calls would not be encrypted.
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
    """Return the certificates to serve with, if the operator set some.

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
    """Return the error for an address that is taken or not this machine's."""
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
    """Return the host that the settings name, which has no address yet.

    Raises:
        CannotStart: If it isn't installed, or can't serve with certificates.
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
    """Return the name of the host that the settings mean.

    Raises:
        CannotStart: If it isn't installed, or can't serve with certificates.
    """
    if settings.host == "grpcio":
        return "grpcio"
    installed = find_spec("pygrpc_native") is not None
    if settings.host == "auto":
        return "native" if installed and not settings.tls_certificate else "grpcio"
    if settings.tls_certificate:
        raise CannotStart(
            "the native host has no TLS; set SESSION_AUTHORITY_HOST=grpcio, or end TLS in a proxy on this machine "
            "and leave SESSION_AUTHORITY_TLS_CERTIFICATE empty"
        )
    if not installed:
        raise CannotStart(
            "the native host is not installed; run: pip install 'session-authority[server,native]', or set "
            "SESSION_AUTHORITY_HOST=grpcio"
        )
    return "native"


def bind(host: Host, address: str) -> str:
    """Have a host listen on an address, and return it with the port that it got.

    Raises:
        CannotStart: If the address can't be used.
    """
    try:
        return host.bind(address)
    except CannotListen:
        raise cannot_listen(address) from None


async def stop_process_when_host_ends(host: Host) -> None:
    """Stop the process if the host takes no more calls although no operator stopped it.

    A supervisor, or `--processes`, then starts another process. This one would refuse every connection.
    """
    await host.ended()
    _log.critical("gRPC takes no more calls on; stopping, to be started anew")
    signal.raise_signal(signal.SIGTERM)


async def drain(
    host: Host,
    health: Health,
    hub: Hub,
    grace_seconds: float,
    host_ended: "asyncio.Task[None]",
) -> None:
    """Take no more calls, end the streams, and wait for the calls under way."""
    if host_ended.done():
        # What gRPC never took on would be waited for too. The calls that it did take on have this long.
        grace_seconds = min(grace_seconds, DEADLINE_SECONDS)
    host_ended.cancel()
    await health.drain()
    hub.drain()
    await host.stop(grace_seconds)
