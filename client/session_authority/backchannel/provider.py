"""The settings of identity providers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from ipaddress import ip_address
from typing import TypeGuard
from urllib.parse import urlsplit

PROVIDERS_LIMIT = 1_000
"""How many providers a program may name."""


@dataclass(frozen=True, slots=True)
class Provider:
    """An identity provider, and its name for this app. An app with several client ids has a provider for each.

    Attributes:
        issuer: The issuer, exactly as the provider's tokens name it in `iss`.
        client_id: The audience, as the provider's tokens name it in `aud`: the client id of the app.
        jwks_url: The address of the provider's public keys. None: it is in the provider's discovery document.

    Raises:
        ValueError: An address is neither https nor http on this machine, or the client id is empty.
    """

    issuer: str
    client_id: str
    jwks_url: str | None = None

    def __post_init__(self) -> None:
        _check_address("issuer", self.issuer)
        if "?" in self.issuer or "#" in self.issuer:
            raise ValueError("issuer must have neither a query nor a fragment")
        if not _is_text(self.client_id):
            raise ValueError("client_id must be the id of this app at the provider")
        if self.jwks_url is not None:
            _check_address("jwks_url", self.jwks_url)

    @property
    def discovery_url(self) -> str:
        """The address of the provider's discovery document."""
        return self.issuer.removesuffix("/") + "/.well-known/openid-configuration"


def providers_of(given: object) -> tuple[Provider, ...]:
    """Return the providers of a setting.

    Args:
        given: The identity providers whose sign-outs end sessions, as a list of objects with `issuer`, `client_id` and,
            if the issuer has no discovery document, `jwks_url`.

    Raises:
        ValueError: An entry is not usable. The error says which one, and why.
    """
    if not isinstance(given, Sequence) or isinstance(given, str | bytes):
        raise ValueError("give a list of providers")  # noqa: TRY004 - a setting has one kind of error
    if len(given) > PROVIDERS_LIMIT:
        raise ValueError(f"give at most {PROVIDERS_LIMIT:,} providers")
    found = tuple(_provider(place, each) for place, each in enumerate(given, 1))
    # Of two, only the first would receive tokens. If the second names other keys, they would have no effect.
    places: dict[tuple[str, str], int] = {}
    for place, each in enumerate(found, 1):
        first = places.setdefault((each.issuer, each.client_id), place)
        if first != place:
            raise ValueError(
                f"provider {place} has the issuer and client_id of provider {first}; remove one"
            )
    return found


def is_safe_address(address: object) -> TypeGuard[str]:
    """Say whether an address is https, or http on this machine."""
    if not isinstance(address, str) or not address.isascii() or not address.isprintable():
        return False
    try:
        parts = urlsplit(address)
        host, _ = parts.hostname, parts.port
    except ValueError:
        return False
    if " " in address or not host or "@" in parts.netloc:
        return False
    return parts.scheme == "https" or (parts.scheme == "http" and _is_loopback(host))


def _provider(place: int, given: object) -> Provider:
    names = [each.name for each in fields(Provider)]
    if isinstance(given, Provider):
        return given
    if not isinstance(given, Mapping):
        raise ValueError(  # noqa: TRY004 - a setting has one kind of error
            f"provider {place} must be a table with {', '.join(names)}"
        )
    if unknown := sorted(str(name) for name in given.keys() - set(names)):
        raise ValueError(f"provider {place} has no setting {unknown[0]}; give {', '.join(names)}")
    for name in names[:2]:
        if name not in given:
            raise ValueError(f"provider {place} needs {name}")
    try:
        return Provider(**given)
    except ValueError as error:
        raise ValueError(f"provider {place}: {error}") from None


def _check_address(name: str, address: object) -> None:
    if not is_safe_address(address):
        raise ValueError(
            f"{name} must be an address such as https://id.example, or http:// on this machine"
        )


def _is_text(given: object) -> bool:
    return isinstance(given, str) and given != ""


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
