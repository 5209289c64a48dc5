"""How much of an address and a user agent the authority keeps. Applied before they are stored or logged."""

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
    """Whether a user agent is kept in full, or only as its browser and system without versions."""

    FULL = "full"
    NONE = "none"


class EraseAddresses(Enum):
    """When IP addresses and the user agent are erased."""

    WITH_HISTORY = "with-history"
    AT_END = "at-end"


def kept_address(address: str | None, keep: KeepAddresses) -> str | None:
    """Return the part of an address to keep: all of it, its /24 (IPv4) or /48 (IPv6), or nothing.

    An IPv4-mapped IPv6 address counts as IPv4. Text that is not an address is returned unchanged, because the checks
    of the sign-in reject it.
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


def without_versions(device: Device) -> Device:
    """Return a device without its versions: only the browser, the system and the type."""
    return replace(device, browser_version="", os_version="")


def erased(session: Session) -> Session:
    """Return an ended session without its addresses, user agent and device versions."""
    return replace(
        session,
        ip_address=None,
        last_ip_address=None,
        user_agent="",
        device=without_versions(session.device),
    )
