"""Several server processes on one port."""

import os
import re
import signal
import socket
import threading
import urllib.request
from collections.abc import Collection, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import grpc
import psycopg
import pytest

from session_authority import SessionClient
from session_authority.v1 import session_service_pb2 as pb
from session_authority.v1.session_service_pb2_grpc import SessionServiceStub
from tests.support.engines import migrated_postgresql
from tests.support.postgresql import free_port
from tests.support.program import Program, run_process, running
from tests.support.waiting import wait_until

PASSWORD = "corr3ct-horse"
LIFETIME_SECONDS = 4_321
PATIENCE_SECONDS = 30
PROC = Path("/proc")
WORKED = 'session_authority_worker_runs_total{outcome="done",task="expire"}'
VALIDATED = 'session_authority_rpc_duration_seconds_count{code="OK",method="ValidateSession"}'


class Several:
    """Two server processes and their parent, on a separate database."""

    def __init__(self, program: Program, folder: Path, database: str, metrics_port: int) -> None:
        self.program = program
        self.address = program.address
        self.port = int(self.address.rpartition(":")[2])
        self.database = database
        self._folder = folder
        self._metrics_port = metrics_port

    @property
    def children(self) -> dict[int, int]:
        """Return the number of each server process, by its process id."""
        return {pid: number for pid, number in processes_in(self._folder).items() if number >= 0}

    def metric(self, number: int, sample: str) -> float:
        """Return the value of a process's metric, or 0 if the process does not answer."""
        url = f"http://127.0.0.1:{self._metrics_port + number}/metrics"
        try:
            with urllib.request.urlopen(url, timeout=60) as answer:
                page = answer.read().decode()
        except OSError:
            return 0.0
        found = re.search(rf"^{re.escape(sample)} (\S+)$", page, re.MULTILINE)
        return float(found[1]) if found else 0.0

    def connections(self) -> dict[int, int]:
        """Return the id of the process that serves each connection, by the client's port."""
        owners = {}
        for pid in self.children:
            for descriptor in (PROC / str(pid) / "fd").iterdir():
                owners[_link(descriptor)] = pid
        rows = [
            row.split()
            for table in ("tcp", "tcp6")
            for row in (PROC / "net" / table).read_text().splitlines()[1:]
        ]
        return {
            _port(remote): owners[f"socket:[{inode}]"]
            for _, local, remote, state, _, _, _, _, _, inode, *_ in rows
            if state == "01" and _port(local) == self.port and f"socket:[{inode}]" in owners
        }

    def stub_of_each(self, stack: ExitStack) -> dict[int, SessionServiceStub]:
        """Open connections until each process has one. Return one stub for each process, by process id."""
        callers: dict[int, SessionServiceStub] = {}
        for _ in range(64):
            before = self.connections()
            # Each channel has its own connection, and gRPC makes no hidden retries.
            options = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0)]
            channel = stack.enter_context(grpc.insecure_channel(self.address, options))
            stub = SessionServiceStub(channel)
            validate(stub, "ses_unknown", timeout=60)
            [pid] = {pid for port, pid in self.connections().items() if port not in before}
            callers.setdefault(pid, stub)
            if callers.keys() == self.children.keys():
                return callers
        raise AssertionError(f"only {callers.keys()} of {self.children.keys()} answered")


def validate(stub: SessionServiceStub, token: str, **options: Any) -> pb.ValidateSessionResponse:
    return stub.ValidateSession(pb.ValidateSessionRequest(session_token=token), **options)


def create(stub: SessionServiceStub, user_id: str) -> pb.CreateSessionResponse:
    return stub.CreateSession(pb.CreateSessionRequest(user_id=user_id), timeout=60)


def processes_in(folder: Path) -> dict[int, int]:
    """Return the processes that run in a folder, by id: the number of a server process, or -1 for others."""
    found = {}
    for place in PROC.glob("[0-9]*"):
        if _link(place / "cwd") == str(folder):
            words = _words(place)
            ours = len(words) > 1 and words[-2].endswith(".server_process")
            found[int(place.name)] = int(words[-1]) if ours else -1
    return found


def press_ctrl_c(folder: Path) -> None:
    """Send SIGINT to all processes, as a terminal does. The parent is last, since it would end the others."""
    running_there = processes_in(folder)
    for pid in sorted(running_there, key=running_there.__getitem__, reverse=True):
        os.kill(pid, signal.SIGINT)


def _words(place: Path) -> list[str]:
    try:
        return (place / "cmdline").read_text().rstrip("\0").split("\0")
    except (FileNotFoundError, ProcessLookupError):  # the process has ended
        return []


def _is_importing(pid: int) -> bool:
    """Return whether a process has loaded protobuf, which it imports long before it serves."""
    return "/google/_upb/" in (PROC / str(pid) / "maps").read_text()


def _link(path: Path) -> str:
    try:
        return str(path.readlink())
    except OSError:  # the process has ended, or is a kernel thread
        return ""


def _port(place: str) -> int:
    return int(place.rpartition(":")[2], 16)


@pytest.fixture
def url() -> Iterator[str]:
    """Return the address of a database with a password, which its server ignores."""
    with migrated_postgresql() as address:
        yield address.replace("@", f":{PASSWORD}@")


@contextmanager
def several(folder: Path, url: str) -> Iterator[Several]:
    """Serve with two processes; settings come from a file, the environment and the command line."""
    (folder / "session-authority.toml").write_text(
        f'database_url = "{url}"\nabsolute_lifetime_seconds = {LIFETIME_SECONDS}\n'
        "worker_interval_seconds = 0.5\n"
    )
    port = free_port(consecutive=2)
    settings = {"SESSION_AUTHORITY_METRICS_LISTEN": f"127.0.0.1:{port}"}
    arguments = ("serve", "--listen", "127.0.0.1:0", "--insecure", "--processes", "2")
    try:
        with running(*arguments, cwd=folder, settings=settings) as program:
            yield Several(program, folder, url, port)
    finally:
        for pid in processes_in(folder):  # none, unless a test failed
            os.kill(pid, signal.SIGKILL)


@contextmanager
def sign_ins_held_up(url: str) -> Iterator[None]:
    with psycopg.connect(url) as other:
        other.execute("LOCK TABLE sessions IN SHARE MODE")
        yield
        other.rollback()


def _sign_ins_waiting(url: str) -> int:
    with psycopg.connect(url) as other:
        asked = (
            "SELECT count(*) FROM pg_locks JOIN pg_stat_activity USING (pid) WHERE NOT granted "
            "AND relation = 'sessions'::regclass AND query ~ '^(INSERT INTO|UPDATE) sessions'"
        )
        row = other.execute(asked).fetchone()
        assert row is not None
        return int(row[0])


def refuses(stub: SessionServiceStub) -> bool:
    """Return whether a process takes no more calls."""
    try:
        validate(stub, "ses_unknown", timeout=60)
    except grpc.RpcError as error:
        return bool(error.code() is grpc.StatusCode.UNAVAILABLE)
    return False


@contextmanager
def calls_under_way(
    servers: Several,
) -> Iterator[tuple[list[Any], Collection[SessionServiceStub]]]:
    """Keep a sign-in waiting in each process while the context lasts. Yield the calls, and a stub for each process."""
    with ExitStack() as stack:
        callers = servers.stub_of_each(stack)
        with sign_ins_held_up(servers.database):
            # Different users, since sign-ins of one user wait for each other.
            waiting = [
                stub.CreateSession.future(pb.CreateSessionRequest(user_id=f"ada-{pid}"), timeout=60)
                for pid, stub in callers.items()
            ]
            wait_until(lambda: _sign_ins_waiting(servers.database) == len(waiting))
            yield waiting, callers.values()
        for call in waiting:
            assert call.result().session_token


def _assert_stopped_in_order(servers: Several, folder: Path) -> None:
    assert servers.program.exit_code() == 0
    assert processes_in(folder) == {}
    lines = servers.program.stdout.splitlines()
    assert lines[1:] == ["session-authority: draining", "session-authority: stopped"]
    for wrong in ("Traceback", "restarting it", "killing"):
        assert wrong not in servers.program.stderr
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", servers.port), timeout=60)


def test_all_processes_answer_and_a_killed_one_is_replaced_while_the_others_continue(
    tmp_path: Path, url: str
) -> None:
    with several(tmp_path, url) as servers, ExitStack() as stack:
        assert sorted(servers.children.values()) == [0, 1]
        callers = servers.stub_of_each(stack)
        _assert_settings_hold_in_each(callers)
        for number in (0, 1):
            assert servers.metric(number, VALIDATED) > 0
        wait_until(lambda: servers.metric(0, WORKED) > 0)
        assert servers.metric(1, WORKED) == 0

        first, second = sorted(servers.children, key=lambda pid: servers.children[pid])
        with _asking_all_the_time(callers[second]):
            os.kill(first, signal.SIGKILL)
            wait_until(lambda: first not in servers.children)
            with SessionClient(servers.address) as newcomer:
                assert newcomer.validate(newcomer.create("bob").token)
            wait_until(lambda: 0 in servers.children.values() and servers.metric(0, WORKED) > 0)
            callers_now = servers.stub_of_each(stack)
        # The client of the killed process connects to another one.
        answer = validate(callers[first], "ses_unknown", timeout=60, wait_for_ready=True)
        assert answer.HasField("rejection")
        assert callers_now.keys() == servers.children.keys()
        assert first not in callers_now
        assert second in callers_now
        assert servers.program.stop() == 0
        assert servers.program.stderr.count("restarting it") == 1
        assert '"process": 0, "why": "SIGKILL"' in servers.program.stderr


def _assert_settings_hold_in_each(callers: dict[int, SessionServiceStub]) -> None:
    tokens = []
    for stub in callers.values():
        made = create(stub, "ada")
        lifetime = made.session.expire_time.ToDatetime() - made.session.create_time.ToDatetime()
        assert lifetime.total_seconds() == LIFETIME_SECONDS
        tokens.append(made.session_token)
    for stub in callers.values():
        for token in tokens:
            assert validate(stub, token).session.user_id == "ada"


@contextmanager
def _asking_all_the_time(stub: SessionServiceStub) -> Iterator[None]:
    token = create(stub, "cy").session_token
    stop = threading.Event()
    answers: list[bool] = []
    failures: list[grpc.RpcError] = []

    def ask() -> None:
        while not stop.wait(0.002):
            try:
                answers.append(validate(stub, token, timeout=60).HasField("session"))
            except grpc.RpcError as error:
                failures.append(error)

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        yield
    finally:
        stop.set()
        asking.join(60)
    assert failures == []
    assert all(answers)
    assert len(answers) > 10


def test_a_second_server_on_the_port_is_refused_and_no_command_line_shows_the_password(
    tmp_path: Path, url: str
) -> None:
    with several(tmp_path, url) as servers:
        line = servers.program.stdout
        assert re.fullmatch(r"session-authority: serving on 127.\S+, .* 2 processes\n", line)
        listed = "\n".join(" ".join(_words(place)) for place in PROC.glob("[0-9]*"))
        assert listed.count(".server_process") >= 2
        assert PASSWORD not in listed + line

        arguments = ("serve", "--listen", servers.address, "--insecure", "--processes", "2")
        done = run_process(*arguments, cwd=tmp_path)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith(f"Error: {servers.address} can't be listened on")
        with SessionClient(servers.address) as client:
            assert client.validate(client.create("ada").token)
        assert PASSWORD not in servers.program.stdout + servers.program.stderr


@pytest.mark.parametrize("how", ["sigterm", "ctrl-c"])
def test_calls_in_flight_in_all_processes_are_answered_before_they_stop(
    tmp_path: Path, url: str, how: str
) -> None:
    with several(tmp_path, url) as servers:
        with calls_under_way(servers) as (waiting, stubs):
            if how == "ctrl-c":
                press_ctrl_c(tmp_path)
            else:
                servers.program.terminate()
            wait_until(lambda: all(map(refuses, stubs)))
            assert not any(call.done() for call in waiting)
            assert len(servers.children) == 2
        _assert_stopped_in_order(servers, tmp_path)


def test_ctrl_c_during_startup_exits_without_output(tmp_path: Path, url: str) -> None:
    settings = {"SESSION_AUTHORITY_DATABASE_URL": url}
    arguments = ("serve", "--listen", "127.0.0.1:0", "--insecure", "--processes", "2")
    with running(*arguments, cwd=tmp_path, settings=settings) as program:
        wait_until(lambda: sorted(processes_in(tmp_path).values()) == [-1, 0, 1])
        wait_until(lambda: all(map(_is_importing, processes_in(tmp_path))))
        press_ctrl_c(tmp_path)
        assert program.exit_code() == 0
        assert "serving on" not in program.stdout
        assert "Traceback" not in program.stderr
        assert processes_in(tmp_path) == {}


def test_a_second_ctrl_c_ends_all_processes_immediately(tmp_path: Path, url: str) -> None:
    with several(tmp_path, url) as servers, ExitStack() as stack:
        callers = servers.stub_of_each(stack)
        with sign_ins_held_up(servers.database):
            # Different users, since sign-ins of one user wait for each other.
            waiting = [
                stub.CreateSession.future(pb.CreateSessionRequest(user_id=f"ada-{pid}"), timeout=60)
                for pid, stub in callers.items()
            ]
            wait_until(lambda: _sign_ins_waiting(servers.database) == len(waiting))
            press_ctrl_c(tmp_path)
            wait_until(lambda: all(map(refuses, callers.values())))
            press_ctrl_c(tmp_path)
            assert servers.program.exit_code() != 0
            wait_until(lambda: processes_in(tmp_path) == {})
        assert "Traceback" not in servers.program.stderr


def test_processes_whose_parent_was_killed_answer_calls_in_flight_and_end(
    tmp_path: Path, url: str
) -> None:
    with several(tmp_path, url) as servers:
        with calls_under_way(servers):
            servers.program.kill()
            wait_until(
                lambda: servers.program.stderr.count("the parent process has ended; draining") == 2
            )
            assert len(servers.children) == 2
        wait_until(lambda: processes_in(tmp_path) == {})
        assert "Traceback" not in servers.program.stderr


def test_a_process_that_cannot_start_ends_all_with_its_message(tmp_path: Path, url: str) -> None:
    port = free_port(consecutive=2)
    with closing(socket.create_server(("127.0.0.1", port + 1))):
        settings = {
            "SESSION_AUTHORITY_DATABASE_URL": url,
            "SESSION_AUTHORITY_METRICS_LISTEN": f"127.0.0.1:{port}",
            "SESSION_AUTHORITY_PROCESSES": "2",
        }
        done = run_process("serve", "--listen", "127.0.0.1:0", cwd=tmp_path, settings=settings)
    assert (done.returncode, done.stdout) == (1, "")
    # The other process may have logged something before.
    *_, last = done.stderr.splitlines()
    assert last.startswith(f"Error: metrics can't be served on 127.0.0.1:{port + 1}: ")
    assert processes_in(tmp_path) == {}
