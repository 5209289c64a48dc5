import os
import ssl
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import click
import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from session_authority_server.cli.shared import settings_of
from session_authority_server.config import ENV_PREFIX, Settings, split_address
from session_authority_server.rpc.certificate_dates import certificate_fields

_CLIENT_CERTIFICATE = f"{ENV_PREFIX}TLS_CLIENT_CERTIFICATE"
_CLIENT_KEY = f"{ENV_PREFIX}TLS_CLIENT_KEY"


@click.command()
@click.option("--listen", help="The address that the server listens on, as given to `serve`.")
@click.option(
    "--timeout",
    type=click.FloatRange(0.1, 60),
    default=3.0,
    show_default=True,
    help="Seconds to wait for the answer.",
)
@click.pass_context
def health(context: click.Context, listen: str | None, timeout: float) -> None:
    """Ask the server on this machine whether it is serving. Exit with 0 if it is, with 1 if not.

    Connects with the settings of `serve`. With TLS, trusts only the server's own certificate. If the server requires
    client certificates, SESSION_AUTHORITY_TLS_CLIENT_CERTIFICATE and SESSION_AUTHORITY_TLS_CLIENT_KEY name one.
    """
    settings = settings_of(context, listen=listen)
    address = _address(settings)
    with _channel(settings, address) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        try:
            answer = stub.Check(health_pb2.HealthCheckRequest(), timeout=timeout)
        except grpc.RpcError as error:
            raise click.ClickException(
                f"{address} does not answer: {error.code().name}: {error.details()}"
            ) from None
    status = health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)
    if answer.status != health_pb2.HealthCheckResponse.SERVING:
        raise click.ClickException(f"{address}: {status}")
    click.echo(f"{address}: {status}")


def _address(settings: Settings) -> str:
    """Return an address at which this machine reaches the server."""
    host, port = split_address(settings.listen)
    if port == 0:
        raise click.UsageError("port 0 is no server's port; give --listen with the actual port")
    try:
        any_address = ip_address(host).is_unspecified
    except ValueError:
        any_address = False
    if any_address:
        host = "::1" if ":" in host else "127.0.0.1"
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _channel(settings: Settings, address: str) -> grpc.Channel:
    options: list[tuple[str, str | int]] = [("grpc.enable_http_proxy", 0)]
    if not settings.tls_certificate:
        return grpc.insecure_channel(address, options)
    certificate, key = Path(settings.tls_certificate), Path(settings.tls_key)
    options.append(("grpc.ssl_target_name_override", _name(certificate, key)))
    try:
        credentials = grpc.ssl_channel_credentials(
            certificate.read_bytes(), *_client_pair(settings)
        )
    except OSError as error:
        raise click.ClickException(f"{error.filename} can't be read: {error.strerror}") from None
    return grpc.secure_channel(address, credentials, options)


def _name(certificate: Path, key: Path) -> str:
    """Return a name that a certificate is valid for."""
    try:
        fields = certificate_fields(certificate, key)
    except ssl.SSLError:
        raise click.ClickException(
            f"{certificate} and {key} are not a certificate and its private key in PEM"
        ) from None
    except OSError as error:
        raise click.ClickException(
            f"{certificate} or {key} can't be read: {error.strerror}"
        ) from None
    for _, name in fields.get("subjectAltName", ()):
        return str(name).replace("*", "any")
    raise click.ClickException(f"{certificate} has no subjectAltName, so no client accepts it")


def _client_pair(settings: Settings) -> tuple[bytes | None, bytes | None]:
    """Return the key and the certificate of this client, if the server requires one."""
    if not settings.tls_client_ca:
        return None, None
    names = os.environ.get(_CLIENT_KEY), os.environ.get(_CLIENT_CERTIFICATE)
    if not all(names):
        raise click.ClickException(
            f"the server requires client certificates; set {_CLIENT_CERTIFICATE} and {_CLIENT_KEY}"
        )
    key, certificate = (Path(str(name)).read_bytes() for name in names)
    return key, certificate
