"""A PgBouncer for tests, in transaction mode."""

import contextlib
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass

from tests.support.postgresql import as_owner, folder, free_port

START_SECONDS = 60
_NAMES = ("pgbouncer", "/usr/sbin/pgbouncer")
PROGRAM = next(filter(None, map(shutil.which, _NAMES)), None)


@dataclass(frozen=True)
class Pooler:
    """A pooler in front of a cluster.

    Attributes:
        port: The port on 127.0.0.1 where it listens.
        size: Number of its connections to the database.
    """

    port: int
    size: int

    def url(self, database: str = "postgres") -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/{database}"


@contextlib.contextmanager
def pooler(port: int, size: int, session: str = "") -> Iterator[Pooler]:
    """Yield a pooler in front of a server, and end it afterwards.

    Args:
        port: The port of the server.
        size: Number of the pooler's connections to the database.
        session: Parameters that the pooler sets on each of these connections.
    """
    assert PROGRAM is not None
    with folder() as place:
        made = Pooler(free_port(), size)
        (place / "pgbouncer.ini").write_text(
            "[databases]\n"
            f"* = host=127.0.0.1 port={port} user=postgres {session}\n"
            "[pgbouncer]\n"
            "listen_addr = 127.0.0.1\n"
            f"listen_port = {made.port}\n"
            "unix_socket_dir =\n"
            "auth_type = any\n"
            "pool_mode = transaction\n"
            f"default_pool_size = {size}\n"
            "max_client_conn = 500\n"
            f"logfile = {place / 'log'}\n"
        )
        (place / "pgbouncer.ini").chmod(0o644)
        process = subprocess.Popen(
            as_owner([PROGRAM, "--quiet", place / "pgbouncer.ini"]), stderr=subprocess.DEVNULL
        )
        try:
            _wait_until_it_listens(made.port, process)
            yield made
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(START_SECONDS)


def _wait_until_it_listens(port: int, process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        assert process.poll() is None, f"PgBouncer ended with {process.returncode}"
        assert time.monotonic() < deadline
        time.sleep(0.02)
