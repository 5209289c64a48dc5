"""Webhooks by the Standard Webhooks specification: their keys, their headers and the addresses they may go to.

https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
"""

import hmac
import re
from base64 import b64encode
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import TypeAlias
from urllib.parse import urlsplit
from uuid import UUID

KEY_PREFIX = "whsec_"
# How long events are also signed with the previous key after a rotation.
ROTATION_OVERLAP = timedelta(hours=24)
URL_LIMIT_CHARACTERS = 2_000
_URL_CHARACTERS = re.compile(r"[!-~]+")
# RFC 6052: an IPv6 address that a gateway translates to the IPv4 address in its last 32 bits.
_NAT64 = IPv6Network("64:ff9b::/96")
# The only global unicast addresses of IPv6. Old releases of Python also call others global.
_GLOBAL_IPV6 = IPv6Network("2000::/3")
# Reserved for protocols. Some clouds serve metadata here, and old releases of Python call most of it global.
_PROTOCOLS = IPv4Network("192.0.0.0/24")

Address: TypeAlias = IPv4Address | IPv6Address


def signing_key(event_key: bytes, receiver_id: UUID, generation: int) -> bytes:
    """Derive the key that signs the events of a receiver. It is never stored.

    Args:
        event_key: The operator's key.
        receiver_id: The receiver.
        generation: The number of the key: 1 at first, and one more after each rotation.
    """
    context = b"webhook" + receiver_id.bytes + generation.to_bytes(8, "big")
    return hmac.digest(event_key, context, "sha256")


def shown_key(key: bytes) -> str:
    """Return a signing key as its receiver configures it, such as `whsec_...`."""
    return KEY_PREFIX + b64encode(key).decode()


def live_generations(generation: int, rotate_time: datetime | None, now: datetime) -> Sequence[int]:
    """Return the generations of a receiver's key that sign now, the newest first.

    Args:
        generation: The newest generation.
        rotate_time: When the newest generation began; None if the key was never rotated.
        now: The present time.
    """
    if generation > 1 and rotate_time is not None and now < rotate_time + ROTATION_OVERLAP:
        return (generation, generation - 1)
    return (generation,)


def sign(key: bytes, event_id: str, time: datetime, body: bytes) -> str:
    """Return one signature of a webhook, such as `v1,...`."""
    signed = b"%s.%d.%s" % (event_id.encode(), int(time.timestamp()), body)
    return "v1," + b64encode(hmac.digest(key, signed, "sha256")).decode()


def signed_headers(
    keys: Sequence[bytes], event_id: str, time: datetime, body: bytes
) -> Mapping[str, str]:
    """Return the headers of a webhook, with a signature by each key.

    Args:
        keys: The keys of the receiver that sign now.
        event_id: The id by which the receiver recognises an event that it has already received.
        time: The time of this attempt.
        body: The content that is sent.
    """
    return {
        "webhook-id": event_id,
        "webhook-timestamp": str(int(time.timestamp())),
        "webhook-signature": " ".join(sign(key, event_id, time, body) for key in keys),
    }


def check_url(url: str) -> None:
    """Check the address of a receiver: https, or http for this machine itself.

    Raises:
        ValueError: If the address can't be used. The message does not quote it, because its path may be a secret.
    """
    if len(url) > URL_LIMIT_CHARACTERS or not _URL_CHARACTERS.fullmatch(url):
        raise ValueError(
            f"give at most {URL_LIMIT_CHARACTERS} characters, without spaces and only of ASCII"
        )
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise ValueError("give a URL such as https://app.example.com/events") from None
    if parts.scheme not in ("https", "http") or not host or port == 0:
        raise ValueError("give a URL such as https://app.example.com/events")
    if parts.username is not None or parts.password is not None:
        raise ValueError("leave out the user and the password; receivers verify signatures instead")
    if parts.fragment:
        raise ValueError("leave out the fragment after #")
    if parts.scheme == "http" and not is_this_machine(host):
        raise ValueError("give https; http is for localhost only")


def is_this_machine(host: str) -> bool:
    """Return whether a host of a URL is `localhost` or a loopback address."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def may_connect(host: str, address: Address, *, may_be_private: bool) -> bool:
    """Return whether events for a host may be sent to an address.

    A name must not lead into the operator's own network, where requests may do harm. Link-local addresses are refused
    even if private ones are allowed, because clouds serve credentials there.

    Args:
        host: The host of the receiver's URL.
        address: One of its addresses.
        may_be_private: Whether the operator allows private addresses.
    """
    address = _real_address(address)
    if is_this_machine(host):
        return address.is_loopback
    if address.is_multicast or address.is_unspecified or address.is_link_local:
        return False
    if address in _PROTOCOLS:
        return False
    if address.is_global and (address.version == 4 or address in _GLOBAL_IPV6):
        return True
    return may_be_private and (address.is_loopback or not address.is_reserved)


def _real_address(address: Address) -> Address:
    """Return the IPv4 address that an IPv6 address stands for, if there is one."""
    if isinstance(address, IPv4Address):
        return address
    if address in _NAT64:
        return IPv4Address(int(address) & 0xFFFF_FFFF)
    return address.ipv4_mapped or address.sixtofour or address
