import contextlib
import socket
from collections.abc import Iterator

from session_authority_server.app.grpc_server import cannot_listen
from session_authority_server.config import split_address


@contextlib.contextmanager
def reserved(address: str) -> Iterator[str]:
    """Reserve a port for the server processes of this user, and yield its address.

    The port stays reserved while the context lasts, even when no server process is alive. This process
    doesn't listen on the port, so it receives no connections.

    Args:
        address: The address as host:port. Port 0 picks a free port.

    Raises:
        CannotStart: If the address does not belong to this machine, or another program uses the port, shared
            or not.
    """
    host, port = split_address(address)
    with contextlib.ExitStack() as stack:
        try:
            for family, _, _, _, place in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
                held = stack.enter_context(_reserve(family, (place[0], port, *place[2:])))
                port = held.getsockname()[1]  # use the same port for all addresses of a name
        except (OSError, UnicodeError):  # UnicodeError: not a valid host name
            raise cannot_listen(address) from None
        yield f"{address.rpartition(':')[0]}:{port}"


def _reserve(family: int, place: tuple[str | int, ...]) -> socket.socket:
    """Return a socket bound to an address that no program uses.

    A bound socket that shares its port doesn't keep out other programs that share too. So a first socket is bound
    without sharing, and listens, which fails if another program is there. The kept socket is then bound beside it,
    so that the port is never free in between. The kept socket needs SO_REUSEADDR only while it is bound, to ignore
    old connections of earlier servers. Without SO_REUSEADDR, it makes the first socket of any other program fail.
    """
    with _bind(family, place) as first:
        first.listen()
        first.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        kept = _bind(family, first.getsockname(), share=True)
        kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
        return kept


def _bind(family: int, place: tuple[str | int, ...], *, share: bool = False) -> socket.socket:
    made = socket.socket(family, socket.SOCK_STREAM)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, int(share))
        made.bind(place)
    except OSError:
        made.close()
        raise
    return made
