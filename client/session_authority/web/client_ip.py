"""The IP address and the scheme of a request: the socket's, unless its peer is a trusted proxy that says otherwise.

A forwarding header is a claim of its sender. Each proxy appends the hop that called it. So only what trusted
proxies appended counts, and the client is the rightmost hop that is not one of them. (RFC 7239, sections 4 to 6
and 8.1; RFC 9110, section 5.6.1; MDN, "X-Forwarded-For", "Selecting an IP address".)
"""

import ipaddress
import logging
import re
from collections.abc import Callable, Iterable
from typing import Literal, TypeAlias

ForwardingHeader: TypeAlias = Literal["x-forwarded-for", "forwarded"]
_Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address

HOPS_LIMIT = 32
"""How many hops are looked at, from the right. No chain of one's own proxies is longer."""
HEADER_LIMIT_CHARACTERS = 8192
"""How much of a forwarding header is looked at, from the right: what is on the left, anybody may have put there."""

_PARAMETER = re.compile(
    r'(?:^|;)\s*(for|proto)\s*=\s*("(?:[^"\\]|\\.)*"|[^;\s"]+)\s*(?=;|$)', re.IGNORECASE
)
_SCHEMES = {"http": "http", "https": "https", "ws": "http", "wss": "https"}
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
        given = [str(each).strip() for each in trusted_proxies]
        self.header = header
        try:
            self._networks = [ipaddress.ip_network(each) for each in given if each != "unix"]
        except ValueError as error:
            raise ValueError(
                f'trusted_proxies has addresses and networks, such as "10.0.0.0/8", and "unix": {error}'
            ) from None
        self._trusts_unix = "unix" in given
        self._warned = False

    def trusts(self, peer: str | None) -> bool:
        """Say whether a peer is one of the trusted proxies. None, "" and "unix:" are Unix sockets."""
        if not peer or _is_unix(peer):
            return self._trusts_unix
        address = _address(peer)
        return address is not None and any(address in network for network in self._networks)

    def find(self, peer: str | None, forwarded: str) -> str | None:
        """Return the client's address in canonical form, or None if it is not known.

        Args:
            peer: The address of the socket's other end; None or "" if it has none.
            forwarded: The value of the header, several joined by commas; "" if there is none.
        """
        address = _address(peer or "")
        if not self.trusts(peer):
            if forwarded and address is not None:
                self._warn_of_ignored(address)
        elif hops := self._trusted_hops(forwarded):
            address = _address(hops[-1])
        return None if address is None else str(address)

    def scheme(self, peer: str | None, header: Callable[[str], str]) -> str | None:
        """Return the scheme that the browser used, "http" or "https"; None if no trusted proxy says it.

        If the proxies maintain `Forwarded`, its `proto` comes before `X-Forwarded-Proto`. If each proxy appends to
        `X-Forwarded-Proto`, the word of the trusted proxy that the browser called counts.

        Args:
            peer: The address of the socket's other end; None or "" if it has none.
            header: Returns a header by its name in lower case, several joined by commas, or "".
        """
        if not self.trusts(peer):
            return None
        # One scheme for each trusted hop: what stands further left may be a client's invention. The leftmost
        # comes first, because the proxy that the browser called knows best. The others saw only the next proxy.
        count = max(1, len(self._trusted_hops(header(self.header))))
        forwarded = _items(header("x-forwarded-proto"))[-count:]
        if self.header == "forwarded":
            elements = self._hops(header("forwarded"))[-count:]
            forwarded = [_parameter("proto", element) for element in elements] + forwarded
        schemes = [_SCHEMES.get(each.lower()) for each in forwarded]
        return next(filter(None, schemes), None)

    def _trusted_hops(self, header: str) -> list[str]:
        """Return the hops that trusted proxies name, the nearest first. The last hop is the client.

        If the last hop is "unknown" or "_hidden", a proxy hides the client.
        """
        hops: list[str] = []
        for element in reversed(self._hops(header)):
            is_address = self.header == "x-forwarded-for"
            hops.append(_unquoted(element) if is_address else _parameter("for", element))
            if not self.trusts(hops[-1] or "unknown"):
                break
        return hops

    def _hops(self, header: str) -> list[str]:
        """Return the elements of the header, without empty ones, which proxies may leave in a list."""
        if self.header == "x-forwarded-for":
            return _items(header)
        elements = _elements(header[-HEADER_LIMIT_CHARACTERS:])
        return [hop for each in elements if (hop := each.strip(" \t"))]

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


def _items(header: str) -> list[str]:
    """Return the last items of a list that has no quotes, without empty ones."""
    split = header[-HEADER_LIMIT_CHARACTERS:].rsplit(",", HOPS_LIMIT)[-HOPS_LIMIT:]
    return [item for each in split if (item := each.strip(" \t"))]


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


def _parameter(name: str, element: str) -> str:
    found = (each for each in _PARAMETER.finditer(element) if each[1].lower() == name)
    return next((_unquoted(each[2]) for each in found), "")


def _unquoted(value: str) -> str:
    is_quoted = len(value) > 1 and value[0] == value[-1] == '"'
    return _ESCAPED.sub(r"\1", value[1:-1]) if is_quoted else value


def _is_unix(node: str) -> bool:
    """Say whether a node is a Unix socket, as nginx names its client there: "unix:"."""
    return node.partition(":")[0].lower() == "unix"


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
