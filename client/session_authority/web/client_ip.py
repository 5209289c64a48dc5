"""Which IP address a request comes from: the peer's, unless the peer is a proxy that is trusted to say.

A forwarding header is a claim of whoever sent it. Each proxy appends whom it was called by, so only what the
trusted ones appended counts: the rightmost hop that is none of them. (RFC 7239, sections 4 to 6 and 8.1; MDN,
"X-Forwarded-For", "Selecting an IP address".)
"""

import ipaddress
import logging
import re
from collections.abc import Iterable
from typing import Literal, TypeAlias

ForwardingHeader: TypeAlias = Literal["x-forwarded-for", "forwarded"]
_Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address

HOPS_LIMIT = 32
"""How many hops are looked at, from the right. No chain of one's own proxies is longer."""
HEADER_LIMIT_CHARACTERS = 8192
"""How much of a forwarding header is looked at, from the right: what is on the left, anybody may have put there."""

_FOR = re.compile(r'(?:^|;)\s*for\s*=\s*("(?:[^"\\]|\\.)*"|[^;\s"]+)\s*(?=;|$)', re.IGNORECASE)
_ESCAPED = re.compile(r"\\(.)")

_log = logging.getLogger("session_authority.web")


class ClientIp:
    """Finds the address of whoever is at the other end."""

    def __init__(
        self,
        trusted_proxies: Iterable[str] = (),
        *,
        header: ForwardingHeader = "x-forwarded-for",
    ) -> None:
        """Settle who is believed.

        Args:
            trusted_proxies: The addresses and networks of one's own proxies, "10.0.0.0/8"; "unix" for whoever
                connects through a Unix socket.
            header: The one header that these proxies maintain. The other may be the client's invention.

        Raises:
            ValueError: One of them is neither an address nor a network, or the header is another.
        """
        if isinstance(trusted_proxies, str):
            raise TypeError("trusted_proxies is a sequence of networks, not one str")
        if header not in ("x-forwarded-for", "forwarded"):
            raise ValueError(f'header is "x-forwarded-for" or "forwarded", not {header!r}')
        given = [each.strip() for each in trusted_proxies]
        self.header = header
        self._networks = [ipaddress.ip_network(each) for each in given if each != "unix"]
        self._trusts_unix = "unix" in given
        self._warned = False

    def trusts(self, peer: str | None) -> bool:
        """Say whether a peer is one of the trusted proxies; None and "" are those of Unix sockets."""
        if not peer:
            return self._trusts_unix
        address = _address(peer)
        return address is not None and self._is_trusted(address)

    def find(self, peer: str | None, forwarded: str) -> str | None:
        """Give the client's address in canonical form, or None where it is not known.

        Args:
            peer: The address of the socket's other end; None or "" where it has none.
            forwarded: The value of the header, several joined by commas; "" where there is none.
        """
        address = _address(peer or "")
        if not self.trusts(peer):
            if forwarded and address is not None:
                self._warn_of_ignored(address)
            return None if address is None else str(address)
        for hop in reversed(self._hops(forwarded)):
            address = _address(hop)
            # "unknown", "_hidden" and the like: what came before is known to a proxy, not to us.
            if address is None or not self._is_trusted(address):
                break
        return None if address is None else str(address)

    def _is_trusted(self, address: _Address) -> bool:
        return any(address in network for network in self._networks)

    def _hops(self, header: str) -> list[str]:
        if not header:
            return []
        if self.header == "x-forwarded-for":
            end = header[-HEADER_LIMIT_CHARACTERS:]
            return [hop.strip(" \t") for hop in end.rsplit(",", HOPS_LIMIT)[-HOPS_LIMIT:]]
        return [_for(element) for element in _elements(header[-HEADER_LIMIT_CHARACTERS:])]

    def _warn_of_ignored(self, address: _Address) -> None:
        if self._warned or not address.is_private:
            return
        self._warned = True
        _log.warning(
            "%s, a private address, sends %s, which is ignored: sessions get its own address. If it is "
            "your proxy, name it among the trusted proxies.",
            address,
            self.header,
        )


def _elements(header: str) -> list[str]:
    """Split a `Forwarded` header from its right, so that a quote left open by a client opens nothing.

    The rightmost elements are the trusted proxies' own and well formed.
    """
    elements: list[str] = []
    quoted, end = False, len(header)
    for index in range(len(header) - 1, -1, -1):
        character = header[index]
        if character == '"' and not _is_escaped(header, index):
            quoted = not quoted
        elif character == "," and not quoted:
            elements.append(header[index + 1 : end])
            end = index
            if len(elements) == HOPS_LIMIT:
                return elements[::-1]
    return [header[:end], *elements[::-1]]


def _is_escaped(text: str, index: int) -> bool:
    before = text[:index]
    return (len(before) - len(before.rstrip("\\"))) % 2 == 1


def _for(element: str) -> str:
    found = _FOR.search(element.strip(" \t"))
    if found is None:
        return ""
    value = found[1]
    return _ESCAPED.sub(r"\1", value[1:-1]) if value.startswith('"') else value


def _address(node: str) -> _Address | None:
    """Read an address: IPv4 with or without port, IPv6 likewise, in brackets where it has a port."""
    if len(node) > 64:
        return None
    if node.startswith("["):
        host = node[1:].partition("]")[0]
    else:
        host = node.partition(":")[0] if node.count(":") == 1 else node
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address):
        return address.ipv4_mapped or address
    return address
