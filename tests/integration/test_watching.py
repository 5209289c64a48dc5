"""Watch streams of real servers, on one PostgreSQL that fails in various ways."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import Empty, Queue
from typing import Any

import grpc
import pytest

from session_authority import SessionClient
from session_authority.v1 import session_watch_service_pb2 as pb
from session_authority.v1.session_watch_service_pb2_grpc import SessionWatchServiceStub
from tests.support import pgbouncer, postgresql
from tests.support.postgresql import Cluster
from tests.support.program import Program, run, serving

PATIENCE_SECONDS = 30.0
LISTENERS = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'LISTEN %'"

URL = "SESSION_AUTHORITY_DATABASE_URL"
WATCH_URL = "SESSION_AUTHORITY_WATCH_DATABASE_URL"


class Watcher:
    """One stream and its messages."""

    def __init__(self, channel: grpc.Channel, *metadata: tuple[str, str]) -> None:
        self._sent: Queue[int] = Queue()
        self._said: Queue[Any] = Queue()
        stub: Any = SessionWatchServiceStub(channel)
        self._call = stub.WatchSessions(self._pings(), metadata=metadata)
        self._last_ping = 0
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _pings(self) -> Iterator[pb.WatchSessionsRequest]:
        while (ping_id := self._sent.get()) > 0:
            yield pb.WatchSessionsRequest(ping=pb.Ping(ping_id=ping_id))

    def _read(self) -> None:
        try:
            for response in self._call:
                self._said.put(response)
        except grpc.RpcError as error:
            self._said.put(error)

    def ping(self) -> int:
        self._last_ping += 1
        self._sent.put(self._last_ping)
        return self._last_ping

    def next(self, seconds: float = PATIENCE_SECONDS) -> Any:
        return self._said.get(timeout=seconds)

    def pinged(self) -> list[pb.Evict]:
        """Wait for the answer to a ping, and return the evictions before it."""
        ping_id = self.ping()
        evictions: list[pb.Evict] = []
        while True:
            said = self.next()
            if isinstance(said, grpc.RpcError):
                raise said
            if said.HasField("pong") and said.pong.ping_id == ping_id:
                return evictions
            if said.HasField("evict"):
                evictions.append(said.evict)

    def end(self) -> tuple[grpc.StatusCode, str]:
        """Wait for the end of the stream, and return its status."""
        while not isinstance(said := self.next(), grpc.RpcError):
            pass
        failure: Any = said
        return failure.code(), failure.details()

    def stop(self) -> None:
        self._sent.put(0)
        self._call.cancel()
        self._thread.join()


@contextlib.contextmanager
def watching(address: str, *metadata: tuple[str, str]) -> Iterator[Watcher]:
    with grpc.insecure_channel(address) as channel:
        watcher = Watcher(channel, *metadata)
        try:
            yield watcher
        finally:
            watcher.stop()


def opened(address: str) -> "contextlib.AbstractContextManager[Watcher]":
    """Return a stream once it has received a pong."""

    @contextlib.contextmanager
    def wait() -> Iterator[Watcher]:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            with watching(address) as watcher:
                try:
                    watcher.pinged()
                except grpc.RpcError:
                    assert time.monotonic() < deadline
                    time.sleep(0.1)
                    continue
                yield watcher
                return

    return wait()


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with postgresql.cluster() as made:
        yield made


@pytest.fixture(scope="module")
def url(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("schema")
    assert run("migrate", cwd=folder, settings={URL: cluster.url()}).returncode == 0
    return cluster.url()


@pytest.fixture(scope="module")
def servers(url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Program]]:
    with contextlib.ExitStack() as stack:
        yield [
            stack.enter_context(
                serving(tmp_path_factory.mktemp(name), "--no-worker", settings={URL: url})
            )
            for name in ("one", "other")
        ]


def names(evictions: list[pb.Evict]) -> set[str]:
    return {name for each in evictions for name in (*each.session_ids, *each.user_ids)}


def test_an_ending_at_one_server_reaches_the_other_before_the_next_pong(
    servers: list[Program],
) -> None:
    one, other = servers
    with opened(other.address) as watcher, SessionClient(one.address) as client:
        for _ in range(8):
            new = client.create("ada")
            client.sign_out(new.token)
            assert names(watcher.pinged()) == {new.session.session_id}


def test_pongs_never_overtake_endings_under_load(servers: list[Program]) -> None:
    one, other = servers
    with opened(other.address) as watcher, SessionClient(one.address) as client:
        made = [client.create(f"user-{number}") for number in range(120)]
        heard: set[str] = set()
        with ThreadPoolExecutor(8) as pool:

            def end(new: Any) -> str:
                client.sign_out(new.token)
                return str(new.session.session_id)

            ending = [pool.submit(end, new) for new in made]
            while not all(each.done() for each in ending):
                before = {each.result() for each in ending if each.done()}
                heard |= names(watcher.pinged())
                assert before <= heard
        heard |= names(watcher.pinged())
        assert heard == {new.session.session_id for new in made}


@pytest.mark.parametrize("at_once", [False, True])
def test_losing_the_listener_ends_the_streams_and_new_ones_can_be_opened(
    servers: list[Program], cluster: Cluster, at_once: bool
) -> None:
    one, other = servers
    with opened(other.address) as watcher:
        if at_once:
            cluster.stop(at_once=True)
            cluster.start()
        else:
            assert cluster.psql(LISTENERS)
        code, said = watcher.end()
        assert code is grpc.StatusCode.UNAVAILABLE
        assert "the server may have missed changes" in said
    with opened(other.address) as watcher:
        _until_it_works(lambda: _end_one(one.address, watcher))
    for each in servers:
        assert "Traceback" not in each.stderr


def _end_one(address: str, watcher: Watcher) -> None:
    with SessionClient(address) as client:
        new = client.create("ada")
        client.sign_out(new.token)
    assert new.session.session_id in names(watcher.pinged())


def _until_it_works(step: Callable[[], None]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            return step()
        except Exception:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)


def test_if_the_database_hangs_no_pong_is_sent_and_the_streams_end(
    servers: list[Program], cluster: Cluster
) -> None:
    with opened(servers[0].address) as watcher:
        with cluster.frozen():
            began = time.monotonic()
            watcher.ping()
            code, _ = watcher.end()
            took = time.monotonic() - began
        assert code is grpc.StatusCode.UNAVAILABLE
        assert took < 25  # 2 seconds on an idle machine
    with opened(servers[0].address):
        pass


def test_a_draining_server_ends_its_streams_and_stops_soon(url: str, tmp_path: Path) -> None:
    settings = {URL: url, "SESSION_AUTHORITY_DRAIN_SECONDS": "30"}
    with serving(tmp_path, "--no-worker", settings=settings) as program:
        with contextlib.ExitStack() as stack:
            watchers = [stack.enter_context(opened(program.address)) for _ in range(3)]
            began = time.monotonic()
            program.terminate()
            for watcher in watchers:
                code, said = watcher.end()
                assert code is grpc.StatusCode.UNAVAILABLE
                assert "shutting down" in said
            assert program.exit_code() == 0
            assert time.monotonic() - began < 25  # less than the 30-second deadline of calls
        assert "Traceback" not in program.stderr


def test_several_processes_on_a_port_announce_each_others_endings(url: str, tmp_path: Path) -> None:
    with (
        serving(tmp_path, "--no-worker", "--processes", "2", settings={URL: url}) as program,
        contextlib.ExitStack() as stack,
    ):
        # The kernel assigns each connection to a process.
        watchers = [stack.enter_context(opened(program.address)) for _ in range(4)]
        for _ in range(4):
            with SessionClient(program.address) as client:
                new = client.create("ada")
                client.sign_out(new.token)
            for watcher in watchers:
                assert new.session.session_id in names(watcher.pinged())


needs_a_pooler = pytest.mark.skipif(
    pgbouncer.PROGRAM is None,
    reason="NOTHING BEHIND A POOLER IS TESTED: there is no pgbouncer here; install it",
)


@needs_a_pooler
def test_a_server_that_reaches_the_database_only_through_a_pooler_sends_no_pongs(
    url: str, cluster: Cluster, tmp_path: Path
) -> None:
    with (
        pgbouncer.pooler(cluster.port, 3) as pooler,
        serving(tmp_path, "--no-worker", settings={URL: pooler.url()}) as program,
        watching(program.address) as watcher,
        SessionClient(program.address) as client,
    ):
        deadline = time.monotonic() + PATIENCE_SECONDS
        while WATCH_URL not in program.stderr:
            assert time.monotonic() < deadline
            watcher.ping()
            client.sign_out(client.create("ada").token)
            time.sleep(0.05)
        with pytest.raises(Empty):
            watcher.next(0.5)


def test_an_invalid_address_is_refused_at_startup(url: str, tmp_path: Path) -> None:
    bad = {URL: url, WATCH_URL: "postgresql://me:word@host/x?passwort=pass"}
    done = run("serve", "--listen", "127.0.0.1:0", cwd=tmp_path, settings=bad)
    assert done.returncode != 0
    assert "SESSION_AUTHORITY_WATCH_DATABASE_URL can't be used: libpq does not know" in done.stderr
    assert "me:word" not in done.stderr
    assert "passwort" not in done.stderr
