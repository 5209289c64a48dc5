"""The IP address and the scheme of a request: the socket's own, or the ones that trusted proxies forwarded.

Each proxy appends the address of its caller to the right end of the forwarding header. A client can send a false
header, so only addresses that trusted proxies appended are true. Read from the right: the first address that is not a
trusted proxy is the client's.

(RFC 7239, sections 4 to 6 and 8.1; RFC 9110, section 5.6.1; MDN, "X-Forwarded-For", "Selecting an IP address".)
"""

import ipaddress
import logging
import re
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Literal, TypeAlias

ForwardingHeader: TypeAlias = Literal["x-forwarded-for", "forwarded"]
_Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address

HOPS_LIMIT = 32
"""Only this many hops are read, from the right. No site has a longer chain of proxies."""
HEADER_LIMIT_CHARACTERS = 8192
"""Only this much of a forwarding header is read, from the right, because the left part can be forged."""

CACHED_ADDRESSES = 4096
"""For how many addresses the result of parsing is kept, because parsing takes longer than everything else here."""

_PARAMETER = re.compile(
    r'(?:^|;)\s*(for|proto)\s*=\s*("(?:[^"\\]|\\.)*"|[^;\s"]+)\s*(?=;|$)', re.IGNORECASE
)
_SCHEMES = {"http": "http", "https": "https", "ws": "http", "wss": "https"}
_ESCAPED = re.compile(r"\\(.)")

_log = logging.getLogger("session_authority.web")


class ClientIp:
    """Finds the client's address and scheme."""

    def __init__(
        self,
        trusted_proxies: Iterable[str] = (),
        *,
        header: ForwardingHeader = "x-forwarded-for",
    ) -> None:
        """Set the trusted proxies.

        Args:
            trusted_proxies: The addresses and networks of the site's own proxies, for example "10.0.0.0/8". "unix"
                trusts every peer of a Unix socket.
            header: The header in which these proxies forward the client's address: "x-forwarded-for" or "forwarded".
                The one that you don't choose is ignored, because clients can forge it.

        Raises:
            ValueError: A trusted proxy is not "unix", an address or a network. Or `header` is not one of the two names.
            TypeError: `trusted_proxies` is a str.
        """
        if isinstance(trusted_proxies, str):
            raise TypeError("trusted_proxies must be a sequence of networks, not a str")
        if header not in ("x-forwarded-for", "forwarded"):
            raise ValueError(f'header must be "x-forwarded-for" or "forwarded", not {header!r}')
        given = [str(each).strip() for each in trusted_proxies]
        self.header = header
        try:
            self._networks = [ipaddress.ip_network(each) for each in given if each != "unix"]
        except ValueError as error:
            raise ValueError(
                f'trusted_proxies must be addresses, networks such as "10.0.0.0/8", or "unix": {error}'
            ) from None
        self._trusts_unix = "unix" in given
        self._cached_trust = lru_cache(maxsize=CACHED_ADDRESSES)(self._is_trusted)
        self._warned = False

    def trusts(self, peer: str | None) -> bool:
        """Say whether a peer is a trusted proxy. None, "" and "unix:" are Unix sockets."""
        return self._cached_trust(peer or "unix:")

    def _is_trusted(self, node: str) -> bool:
        if _is_unix(node):
            return self._trusts_unix
        address = _address(node)
        return address is not None and any(address in network for network in self._networks)

    def find(self, peer: str | None, forwarded: str) -> str | None:
        """Return the client's address in canonical form; None if it is not known.

        Args:
            peer: The address of the socket's other end; None or "" if it has none.
            forwarded: The value of the header, repeated headers joined by commas; "" if there is none.
        """
        if not self.trusts(peer):
            if forwarded and (address := _address(peer or "")) is not None:
                self._warn_of_ignored(address)
        elif hops := self._trusted_hops(forwarded):
            return _canonical(hops[-1])
        return _canonical(peer or "")

    def scheme(self, peer: str | None, header: Callable[[str], str]) -> str | None:
        """Return the scheme that the browser used, "http" or "https"; None if no trusted proxy names it.

        If the proxies maintain `Forwarded`, its `proto` takes precedence over `X-Forwarded-Proto`. If each proxy appends
        to `X-Forwarded-Proto`, use the value of the proxy that the browser called.

        Args:
            peer: The address of the socket's other end; None or "" if it has none.
            header: Returns a header by its lower-case name, repeated headers joined by commas, or "".
        """
        if not self.trusts(peer):
            return None
        # Read one scheme for each trusted hop, from the right. Trusted proxies set these schemes. A client can forge
        # the others. The leftmost known scheme of those read comes from the proxy that the browser called.
        count = max(1, len(self._trusted_hops(header(self.header))))
        forwarded = _items(header("x-forwarded-proto"))[-count:]
        if self.header == "forwarded":
            elements = self._hops(header("forwarded"))[-count:]
            forwarded = [_parameter("proto", element) for element in elements] + forwarded
        schemes = [_SCHEMES.get(each.lower()) for each in forwarded]
        return next(filter(None, schemes), None)

    def _trusted_hops(self, header: str) -> list[str]:
        """Return the hops that trusted proxies appended, the nearest first. The last hop is the client.

        If a proxy hides the client, the last hop is "unknown" or "_hidden".
        """
        hops: list[str] = []
        for element in reversed(self._hops(header)):
            is_address = self.header == "x-forwarded-for"
            hops.append(_unquoted(element) if is_address else _parameter("for", element))
            if not self.trusts(hops[-1] or "unknown"):
                break
        return hops

    def _hops(self, header: str) -> list[str]:
        """Return the elements of the header, without the empty ones that proxies may leave in a list."""
        if self.header == "x-forwarded-for":
            return _items(header)
        elements = _elements(header[-HEADER_LIMIT_CHARACTERS:])
        return [hop for each in elements if (hop := each.strip(" \t"))]

    def _warn_of_ignored(self, address: _Address) -> None:
        if self._warned or not address.is_private:
            return
        self._warned = True
        _log.warning(
            "The private address %s sends %s, which is ignored: sessions get the private address. If it is "
            "your proxy, add it to the trusted proxies.",
            address,
            self.header,
        )


def _items(header: str) -> list[str]:
    """Return up to `HOPS_LIMIT` items from the end of a list without quoted strings. Skip empty items."""
    split = header[-HEADER_LIMIT_CHARACTERS:].rsplit(",", HOPS_LIMIT)[-HOPS_LIMIT:]
    return [item for each in split if (item := each.strip(" \t"))]


def _elements(header: str) -> list[str]:
    """Split a `Forwarded` header from the right, so that a client's unclosed quote does no harm.

    The rightmost elements come from the trusted proxies and are well formed.
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


def _parameter(name: str, element: str) -> str:
    found = (each for each in _PARAMETER.finditer(element) if each[1].lower() == name)
    return next((_unquoted(each[2]) for each in found), "")


def _unquoted(value: str) -> str:
    is_quoted = len(value) > 1 and value[0] == value[-1] == '"'
    return _ESCAPED.sub(r"\1", value[1:-1]) if is_quoted else value


def _is_unix(node: str) -> bool:
    """Say whether a node is a Unix socket. nginx names the client of a Unix socket "unix:"."""
    return node.partition(":")[0].lower() == "unix"


@lru_cache(maxsize=CACHED_ADDRESSES)
def _address(node: str) -> _Address | None:
    """Parse an IPv4 or IPv6 address, with or without a port. IPv6 with a port needs brackets."""
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


@lru_cache(maxsize=CACHED_ADDRESSES)
def _canonical(node: str) -> str | None:
    """Return the canonical form of what `_address` parses."""
    address = _address(node)
    return None if address is None else str(address)
