"""Three PostgreSQL servers under Patroni, with etcd, in strict synchronous mode."""

import contextlib
import json
import os
import pwd
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from tests.support import postgresql
from tests.support.postgresql import UNPRIVILEGED, as_owner, binaries, free_port

ETCD = shutil.which("etcd")
NODES = 3
PATIENCE_SECONDS = 300.0
_CUT_OFF_SECONDS = 0.5
_SETTINGS = {
    "ttl": 20,  # Patroni accepts no less
    "loop_wait": 1,
    "retry_timeout": 5,
    "primary_start_timeout": 0,  # fail over at once when PostgreSQL crashes
    "synchronous_mode": True,
    "synchronous_mode_strict": True,
    "postgresql": {
        "use_pg_rewind": True,
        "parameters": {"wal_log_hints": "on", "max_connections": 100},
    },
}
_ACCESS = ("local all all trust", "host all all 127.0.0.1/32 trust")


class Node:
    """A PostgreSQL server and the Patroni that runs it."""

    def __init__(self, name: str, folder: Path, etcd_port: int) -> None:
        self.name = name
        self.port, self.api_port = free_port(), free_port()
        self._folder = folder
        self._data = folder / name
        self._configuration = folder / f"{name}.yml"
        self._configuration.write_text(yaml.safe_dump(self._settings(etcd_port)))
        self._patroni: subprocess.Popen[bytes] | None = None

    def _settings(self, etcd_port: int) -> dict[str, Any]:
        api, database = f"127.0.0.1:{self.api_port}", f"127.0.0.1:{self.port}"
        return {
            "scope": "authority",
            "name": self.name,
            "restapi": {"listen": api, "connect_address": api},
            "etcd3": {"host": f"127.0.0.1:{etcd_port}"},
            "bootstrap": {
                "dcs": _SETTINGS,
                "initdb": [{"encoding": "UTF8"}, {"locale": "C"}, "no-sync"],
            },
            "postgresql": {
                "listen": database,
                "connect_address": database,
                "data_dir": str(self._data),
                "bin_dir": str(binaries()),
                "pgpass": str(self._folder / f"{self.name}.pgpass"),
                "authentication": {
                    "superuser": {"username": "postgres"},
                    "replication": {"username": "replicator"},
                },
                "pg_hba": [*_ACCESS, "host replication all 127.0.0.1/32 trust"],
                "parameters": {"fsync": "off", "unix_socket_directories": ""},
                "basebackup": ["checkpoint=fast"],
                # A crashed leader may have changes that were never acknowledged. If pg_rewind can't remove them, copy all of its data again.
                "remove_data_directory_on_rewind_failure": True,
                "remove_data_directory_on_diverged_timelines": True,
            },
        }

    def start(self) -> None:
        """Start Patroni, which starts PostgreSQL."""
        with (self._folder / f"{self.name}.log").open("ab") as log:
            self._patroni = subprocess.Popen(
                _as_owner_with_python([sys.executable, "-m", "patroni", self._configuration]),
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def crash_machine(self) -> None:
        """Kill Patroni and PostgreSQL at once."""
        if self._patroni is not None:
            self._patroni.kill()
            self._patroni.wait()
            self._patroni = None
        self.crash_postgresql()

    def crash_postgresql(self) -> None:
        """Kill all processes of PostgreSQL at once, half a second after its standbys got their last change.

        Meanwhile an asynchronous leader would answer commits that no standby has.
        """
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            pid = int((self._data / "postmaster.pid").read_text().split()[0])
            for each in _children(pid):
                if b"walsender" in Path(f"/proc/{each}/cmdline").read_bytes():
                    os.kill(each, signal.SIGSTOP)
            time.sleep(_CUT_OFF_SECONDS)
            for each in (pid, *_children(pid)):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(each, signal.SIGKILL)

    @property
    def is_up(self) -> bool:
        return self._patroni is not None


class Patroni:
    """The three servers."""

    def __init__(self, folder: Path, etcd_port: int) -> None:
        self.nodes = {
            name: Node(name, folder, etcd_port) for name in (f"node{n}" for n in range(NODES))
        }

    @property
    def url(self) -> str:
        """The address of the database, which names all servers."""
        hosts = ",".join(f"127.0.0.1:{node.port}" for node in self.nodes.values())
        return f"postgresql://postgres@{hosts}/postgres"

    @property
    def leader(self) -> str:
        """The name of the leader; empty without one."""
        return next((each["name"] for each in self._members() if each["role"] == "leader"), "")

    def switch_over(self) -> None:
        """Have a synchronous standby take over from a leader that runs."""
        body = json.dumps({"leader": self.leader}).encode()
        request = urllib.request.Request(f"{self._api()}/switchover", body, method="POST")
        with urllib.request.urlopen(request, timeout=60) as answer:
            assert answer.status == 200, answer.read()

    def wait_for_new_leader(self, old: str) -> None:
        self._wait(lambda: self.leader not in ("", old))

    def wait_until_complete(self) -> None:
        """Wait until the leader streams to two standbys. One of them must be synchronous."""
        self._wait(lambda: sorted(self._following()) == ["leader", "replica", "sync_standby"])

    def _following(self) -> Iterator[str]:
        """Return the roles of the leader and of the servers that stream from it.

        A crashed leader starts as a standby with its own end of the log, and runs until Patroni rewinds it. It is of
        no use to the next failover, so it does not count.
        """
        members = self._members()
        timelines = {each.get("timeline") for each in members if each["role"] == "leader"}
        for each in members:
            state = "running" if each["role"] == "leader" else "streaming"
            if each["state"] == state and each.get("timeline") in timelines:
                yield each["role"]

    def _members(self) -> list[dict[str, Any]]:
        try:
            with urllib.request.urlopen(f"{self._api()}/cluster", timeout=5) as answer:
                members: list[dict[str, Any]] = json.load(answer)["members"]
                return members
        except OSError:
            return []

    def _api(self) -> str:
        up = next(node for node in self.nodes.values() if node.is_up)
        return f"http://127.0.0.1:{up.api_port}"

    def _wait(self, condition: Callable[[], bool]) -> None:
        give_up = time.monotonic() + PATIENCE_SECONDS
        while not condition():
            assert time.monotonic() < give_up, self._members()
            time.sleep(0.1)


def _children(pid: int) -> list[int]:
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _as_owner_with_python(command: Sequence[object]) -> list[str]:
    """Return a command that runs as PostgreSQL's user, who may read the Python of root."""
    if os.getuid() != 0:
        return [str(part) for part in command]
    user = pwd.getpwnam(UNPRIVILEGED)
    caps = [f"--{kind}-caps=+dac_read_search" for kind in ("inh", "ambient")]
    ids = [f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]
    return ["setpriv", *ids, *caps, *map(str, command)]


@contextlib.contextmanager
def patroni() -> Iterator[Patroni]:
    """Run etcd and the three servers while the context lasts."""
    assert ETCD is not None
    with postgresql.folder() as folder, contextlib.ExitStack() as stack:
        port, peer = free_port(), f"http://127.0.0.1:{free_port()}"
        client = f"http://127.0.0.1:{port}"
        command = [ETCD, "--data-dir", folder / "etcd", "--log-level", "error"]
        command += ["--listen-client-urls", client, "--advertise-client-urls", client]
        command += ["--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer]
        command += ["--initial-cluster", f"default={peer}"]
        with (folder / "etcd.log").open("wb") as log:
            etcd = subprocess.Popen(as_owner(command), stdout=log, stderr=subprocess.STDOUT)
        stack.callback(etcd.wait)
        stack.callback(etcd.kill)
        made = Patroni(folder, port)
        for node in made.nodes.values():
            stack.callback(node.crash_machine)
            node.start()
        made.wait_until_complete()
        yield made
