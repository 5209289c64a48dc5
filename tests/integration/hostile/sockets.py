"""Raw sockets, and the limit of concurrent calls on a connection."""

import contextlib
import socket

from tests.support.program import Program

VALIDATE = b"/session_authority.v1.SessionService/ValidateSession"
CALLS_AT_ONCE = 8
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


def raw_socket(server: Program) -> socket.socket:
    host, port = server.address.split(":")
    return socket.create_connection((host, int(port)), timeout=5)


def drain(connection: socket.socket) -> bytes:
    """Read until the server sends no more data or closes the connection."""
    connection.settimeout(0.5)
    said = b""
    with contextlib.suppress(TimeoutError, ConnectionError):
        while data := connection.recv(65_536):
            said += data
    return said
