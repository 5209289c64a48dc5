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
        CannotStart: If the address does not belong to this machine, or if another program uses the port, even if that
            program shares the port.
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

    A socket that shares its port can be bound although other programs share the port too. So bind a first socket
    without sharing, and listen on it, which fails if another program uses the port. Then let the first socket share,
    and bind the kept socket to the same port before the first socket closes. The port is never free in between.

    The call of `bind` needs SO_REUSEADDR, to ignore old connections of earlier servers. Afterwards, remove the option
    from the kept socket, so that the first socket of another program can't be bound to this port.
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
