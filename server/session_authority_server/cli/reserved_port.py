import contextlib
import socket
from collections.abc import Iterator

from session_authority_server.app.grpc_server import cannot_listen
from session_authority_server.config import split_address


@contextlib.contextmanager
def reserved(address: str) -> Iterator[str]:
    """Hold a port that server processes of this user share, and nobody else. Gives the address.

    The port stays taken while the context lasts, even when none of the processes is alive. Nothing is
    listened on here, so no connection ever comes to the process that only holds it.

    Args:
        address: As host:port; port 0 picks a free one.

    Raises:
        CannotStart: If the address is not this machine's, or another program has the port, be it one that
            would share it.
    """
    host, port = split_address(address)
    with contextlib.ExitStack() as stack:
        try:
            for family, _, _, _, place in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
                held = stack.enter_context(_held(family, (place[0], port, *place[2:])))
                port = held.getsockname()[1]  # a name may have several addresses: one port for all
        except (OSError, UnicodeError):  # the latter for what can't be a name
            raise cannot_listen(address) from None
        yield f"{address.rpartition(':')[0]}:{port}"


def _held(family: int, place: tuple[str | int, ...]) -> socket.socket:
    """Return a socket that is bound to a place which was nobody's.

    A bound socket alone keeps out no other that shares too. So the first one is bound as one that does not
    share, and listens, which fails where anybody is; only then is the place handed to the one to be kept,
    with no moment in between. What keeps that one from the next first one: it doesn't reuse addresses, but
    for the connections of servers past, which its own binding must get over.
    """
    with _bound(family, place) as first:
        first.listen()
        first.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        kept = _bound(family, first.getsockname(), share=True)
        kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
        return kept


def _bound(family: int, place: tuple[str | int, ...], *, share: bool = False) -> socket.socket:
    made = socket.socket(family, socket.SOCK_STREAM)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, int(share))
        made.bind(place)
    except OSError:
        made.close()
        raise
    return made
