"""The settings of a client, from arguments or from the environment."""

import ipaddress
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import grpc

from session_authority.errors import ConfigurationError
from session_authority.near_cache.options import NearCache

if TYPE_CHECKING:
    from session_authority._tracing import Tracing

DEFAULT_ADDRESS = "127.0.0.1:50551"
DEFAULT_DEADLINE_SECONDS = 5.0

_ADDRESS = "SESSION_AUTHORITY_ADDRESS"
_API_KEY = "SESSION_AUTHORITY_API_KEY"
_DEADLINE_SECONDS = "SESSION_AUTHORITY_DEADLINE_SECONDS"
_TLS = "SESSION_AUTHORITY_TLS"
_TLS_ROOT_CERTIFICATES = "SESSION_AUTHORITY_TLS_ROOT_CERTIFICATES"
_TLS_CLIENT_CERTIFICATE = "SESSION_AUTHORITY_TLS_CLIENT_CERTIFICATE"
_TLS_CLIENT_KEY = "SESSION_AUTHORITY_TLS_CLIENT_KEY"
_NEAR_CACHE = "SESSION_AUTHORITY_NEAR_CACHE"
_BATCHING = "SESSION_AUTHORITY_BATCHING"
_TRACING = "SESSION_AUTHORITY_TRACING"
_VARIABLES = {
    "address": _ADDRESS,
    "api_key": _API_KEY,
    "deadline_seconds": _DEADLINE_SECONDS,
    "tls": _TLS,
    "root_certificates": _TLS_ROOT_CERTIFICATES,
    "client_certificate": _TLS_CLIENT_CERTIFICATE,
    "client_key": _TLS_CLIENT_KEY,
    "near_cache": _NEAR_CACHE,
    "batching": _BATCHING,
    "tracing": _TRACING,
}

# Durations such as 1h30m and 500ms. The server's settings have the same form.
_UNIT_SECONDS = (86_400.0, 3_600.0, 60.0, 1.0, 0.001)
_DURATION = re.compile(
    "".join(rf"(?:(\d{{1,9}}(?:\.\d{{1,9}})?){unit})?" for unit in ("d", "h", "m", "s", "ms")),
    re.ASCII,
)

# If a file does not have this form, gRPC reports no error and connects without a certificate.
_CERTIFICATE_FORM = re.compile(rb"-----BEGIN (TRUSTED )?CERTIFICATE-----")
_KEY_FORM = re.compile(rb"-----BEGIN ([A-Z]+ )?PRIVATE KEY-----")
_ENCRYPTED = re.compile(rb"-----BEGIN ENCRYPTED PRIVATE KEY-----|Proc-Type: 4,ENCRYPTED")

# The name resolvers of gRPC: https://github.com/grpc/grpc/blob/master/doc/naming.md
_TARGET_SCHEMES = frozenset(("dns", "ipv4", "ipv6", "unix", "unix-abstract", "vsock", "xds"))


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings of a client. Creating them checks them."""

    address: str = DEFAULT_ADDRESS
    api_key: str | None = field(default=None, repr=False)
    deadline_seconds: float = DEFAULT_DEADLINE_SECONDS
    tls: bool | None = None
    root_certificates: bytes | None = field(default=None, repr=False)
    channel_credentials: grpc.ChannelCredentials | None = field(default=None, repr=False)
    client_certificate: bytes | None = field(default=None, repr=False)
    client_key: bytes | None = field(default=None, repr=False)
    near_cache: NearCache | None = None
    batching: bool = True
    tracing: bool = False

    def __post_init__(self) -> None:
        if not _is_address(self.address):
            raise ConfigurationError(
                "address",
                "must have the form host:port",
            )
        # Keeps line breaks out of the header. gRPC's own error would quote the key.
        if self.api_key is not None and not _is_header_safe(self.api_key):
            raise ConfigurationError("api_key", "must be printable ASCII without spaces")
        if not (math.isfinite(self.deadline_seconds) and self.deadline_seconds > 0):
            raise ConfigurationError("deadline_seconds", "must be a positive number of seconds")
        if self.channel_credentials is not None:
            if self.tls is not None or any(
                each is not None
                for each in (self.root_certificates, self.client_certificate, self.client_key)
            ):
                raise ConfigurationError(
                    "channel_credentials",
                    "excludes tls, root_certificates, client_certificate and client_key",
                )
        elif self.root_certificates is not None and not self.secure:
            raise ConfigurationError("root_certificates", "is given, but TLS is off")
        self._check_client_certificate()
        if self.tracing and find_spec("opentelemetry") is None:
            raise ConfigurationError(
                "tracing",
                "is on, but OpenTelemetry is not installed; install session-authority with the extra otel",
            )

    def _check_client_certificate(self) -> None:
        if self.client_certificate is None:
            if self.client_key is not None:
                raise ConfigurationError("client_key", "is given without client_certificate")
            return
        if self.client_key is None:
            raise ConfigurationError("client_certificate", "is given without client_key")
        if not self.secure:
            raise ConfigurationError("client_certificate", "is given, but TLS is off")
        if not _CERTIFICATE_FORM.search(self.client_certificate):
            raise ConfigurationError("client_certificate", "is not a certificate in PEM")
        if _ENCRYPTED.search(self.client_key):
            raise ConfigurationError("client_key", "is encrypted; give one without a passphrase")
        if not _KEY_FORM.search(self.client_key):
            raise ConfigurationError("client_key", "is not a private key in PEM")

    @property
    def secure(self) -> bool:
        """Whether the connection is encrypted. By default, it is encrypted unless the address is local."""
        if self.channel_credentials is not None:
            return True
        if self.tls is not None:
            return self.tls
        certificates = self.root_certificates, self.client_certificate
        return any(each is not None for each in certificates) or not is_local(self.address)

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """The metadata that identifies the caller in each call."""
        if self.api_key is None:
            return ()
        return (("authorization", f"Bearer {self.api_key}"),)

    def new_tracing(self) -> "Tracing | None":
        """Return a new recorder of a client's spans; None if tracing is off."""
        if not self.tracing:
            return None
        from session_authority._tracing import Tracing

        return Tracing(self.address)

    def credentials(self) -> grpc.ChannelCredentials | None:
        """Return the credentials for a channel; None for a plaintext channel."""
        if not self.secure:
            return None
        if self.channel_credentials is not None:
            return self.channel_credentials
        return grpc.ssl_channel_credentials(
            self.root_certificates, self.client_key, self.client_certificate
        )

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> "Settings":
        """Read the settings from environment variables. An empty variable counts as unset.

        Raises:
            ConfigurationError: A variable has no usable value; the message names it.
        """
        try:
            return cls(
                address=environ.get(_ADDRESS) or DEFAULT_ADDRESS,
                api_key=environ.get(_API_KEY) or None,
                deadline_seconds=_seconds(environ.get(_DEADLINE_SECONDS)),
                tls=_switch("tls", environ.get(_TLS)),
                root_certificates=_content(
                    "root_certificates", environ.get(_TLS_ROOT_CERTIFICATES)
                ),
                client_certificate=_content(
                    "client_certificate", environ.get(_TLS_CLIENT_CERTIFICATE)
                ),
                client_key=_content("client_key", environ.get(_TLS_CLIENT_KEY)),
                near_cache=NearCache() if _switch("near_cache", environ.get(_NEAR_CACHE)) else None,
                batching=_switch("batching", environ.get(_BATCHING)) is not False,
                tracing=_switch("tracing", environ.get(_TRACING)) is True,
            )
        except ConfigurationError as error:
            problem = ConfigurationError(_VARIABLES[error.setting], error.problem)
        raise problem


def is_local(address: str) -> bool:
    """Say whether an address, in gRPC's syntax, stays on this host."""
    scheme, separator, rest = address.partition(":")
    if separator and scheme in {"unix", "unix-abstract"}:
        return True
    if separator and scheme in {"ipv4", "ipv6"}:
        return all(_is_loopback(target) for target in rest.removeprefix("///").split(","))
    # If the address names a DNS server (dns://8.8.8.8/localhost), that server may resolve "localhost" to any host.
    # So such an address is not local.
    if separator and scheme == "dns":
        named = rest.startswith("//") and not rest.startswith("///")
        return not named and _is_loopback(rest.removeprefix("///"))
    return _is_loopback(address)


def _is_loopback(target: str) -> bool:
    if target.startswith("["):
        host = target[1:].partition("]")[0]
    else:
        # Two or more colons without brackets are an IPv6 address without a port.
        host = target if target.count(":") > 1 else target.partition(":")[0]
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _is_header_safe(value: str) -> bool:
    return bool(value) and value.isascii() and value.isprintable() and " " not in value


def _seconds(text: str | None) -> float:
    """Return a plain number of seconds, or the seconds of a duration such as `1m30s`."""
    if not text:
        return DEFAULT_DEADLINE_SECONDS
    if found := _DURATION.fullmatch(text):
        given = zip(found.groups(), _UNIT_SECONDS, strict=True)
        return math.fsum(float(number) * seconds for number, seconds in given if number)
    try:
        return float(text)
    except ValueError:
        raise ConfigurationError(
            "deadline_seconds", f"must be a duration such as 500ms or a number, not {text!r}"
        ) from None


def _switch(setting: str, text: str | None) -> bool | None:
    match text:
        case None | "":
            return None
        case "on":
            return True
        case "off":
            return False
        case _:
            raise ConfigurationError(setting, f'must be "on" or "off", not {text!r}')


def _content(setting: str, path: str | None) -> bytes | None:
    if not path:
        return None
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise ConfigurationError(
            setting, f"names a file that cannot be read: {path!r} ({error.strerror})"
        ) from None


def _is_address(address: str) -> bool:
    """Say whether gRPC can use an address. For a web URL, every call would fail as if in an outage."""
    if not address.isprintable() or " " in address:
        return False
    scheme, colon, rest = address.partition(":")
    if colon and scheme in _TARGET_SCHEMES:
        return bool(rest)
    host, colon, port = address.rpartition(":")
    return bool(host and colon and port.isdecimal() and int(port) <= 65_535) and "/" not in host
