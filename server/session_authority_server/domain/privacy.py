"""How much of where a user signed in from is kept. Decided before anything is stored, logged or told."""

import ipaddress
from dataclasses import replace
from enum import Enum

from session_authority_server.domain.device import Device
from session_authority_server.domain.session import Session

IPV4_PREFIX_BITS = 24
IPV6_PREFIX_BITS = 48


class KeepAddresses(Enum):
    """How much of an IP address is kept."""

    FULL = "full"
    TRUNCATED = "truncated"
    NONE = "none"


class KeepUserAgents(Enum):
    """Whether a user agent is kept, or only the families of the browser and the system that it names."""

    FULL = "full"
    NONE = "none"


class EraseAddresses(Enum):
    """When IP addresses and the user agent are erased."""

    WITH_HISTORY = "with-history"
    AT_END = "at-end"


def kept_address(address: str | None, keep: KeepAddresses) -> str | None:
    """Return what is kept of an address: all of it, its /24 (IPv4) or /48 (IPv6), or nothing.

    A mapped IPv4 address is truncated as the IPv4 address that it is. What is no address is returned as it is:
    it is for others to refuse.
    """
    if not address or keep is KeepAddresses.FULL:
        return address
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.scope_id is not None:
            return address
        parsed = parsed.ipv4_mapped or parsed
    if keep is KeepAddresses.NONE:
        return None
    prefix = IPV4_PREFIX_BITS if parsed.version == 4 else IPV6_PREFIX_BITS
    return str(ipaddress.ip_network((parsed, prefix), strict=False).network_address)


def family(device: Device) -> Device:
    """Return a device without what singles one out: the browser, the system and the type, and no versions."""
    return replace(device, browser_version="", os_version="")


def erased(session: Session) -> Session:
    """Return an ended session without where its user signed in from."""
    return replace(
        session,
        ip_address=None,
        last_ip_address=None,
        user_agent="",
        device=family(session.device),
    )
