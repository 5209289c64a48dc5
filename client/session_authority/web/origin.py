"""Origins in a normal form, so that they can be compared (RFC 6454, sections 4 and 6; RFC 9110, section 4.2.3)."""

import ipaddress
import re

_DEFAULT_PORTS = {"http": 80, "https": 443}
_HIGHEST_PORT = 65_535
_AUTHORITY = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]+\]|[\w.-]+)(?::(?P<port>[0-9]{0,9}))?")


def normal_origin(text: str) -> str | None:
    """Return an origin in lower case, with its host in ASCII and without its default port.

    Returns:
        The origin; None if the text is not exactly one http or https origin, for example "null".
    """
    scheme, separator, rest = text.partition("://")
    found = _AUTHORITY.fullmatch(rest.removesuffix("/"))
    default_port = _DEFAULT_PORTS.get(scheme.lower())
    if not separator or found is None or default_port is None:
        return None
    host = _normal_host(found["host"])
    port = int(found["port"] or default_port)
    if host is None or port > _HIGHEST_PORT:
        return None
    return f"{scheme.lower()}://{host}" + ("" if port == default_port else f":{port}")


def site_origin(given: object) -> str:
    """Return the origin of an app's setting in its normal form.

    Raises:
        ValueError: The setting is not exactly one origin.
    """
    origin = normal_origin(given) if isinstance(given, str) else None
    if origin is None:
        raise ValueError(
            "the site's origin must be a scheme, a host and optionally a port, as in "
            f'"https://app.example", not {given!r}; leave it out if the site has several origins'
        )
    return origin


def _normal_host(host: str) -> str | None:
    try:
        if host.startswith("["):
            return f"[{ipaddress.IPv6Address(host[1:-1])}]"
        if host.isascii():
            return host.lower() if host.strip(".") else None
        encoded = host.lower().encode("idna")
        # Python replaces some letters, such as "ß", but browsers keep them. Such a host is rejected.
        return encoded.decode() if encoded.decode("idna") == host.lower() else None
    except ValueError:
        return None
