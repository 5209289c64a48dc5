"""Starting, draining and stopping."""

import socket
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from session_authority import SessionClient, Unavailable
from session_authority.v1 import session_service_pb2 as pb
from session_authority.v1.session_service_pb2_grpc import SessionServiceStub
from tests.support.program import COMMAND, Program, running, serving, writers_held_up

pytestmark = pytest.mark.both_hosts

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
SERVICE = "session_authority.v1.SessionService"


def _accepts_connections(server: Program) -> bool:
    host, port = server.address.split(":")
    try:
        socket.create_connection((host, int(port)), timeout=60).close()
    except ConnectionRefusedError:
        return False
    return True


def _sign_in_under_way(channel: grpc.Channel) -> Any:
    """Begin a sign-in. Return once later calls on the same connection are answered, so the server has received it."""
    stub = SessionServiceStub(channel)
    sign_in = stub.CreateSession.future(pb.CreateSessionRequest(user_id="ada"), timeout=60)
    for _ in range(10):  # on a busy machine, a client may send the first of them earlier
        stub.ValidateSession(pb.ValidateSessionRequest(session_token="ses_unknown"), timeout=60)
    return sign_in


def test_health_is_serving_for_the_server_and_for_the_service(server: Program) -> None:
    with grpc.insecure_channel(server.address) as channel:
        health: Any = health_pb2_grpc.HealthStub(channel)
        for name in ("", SERVICE):
            assert health.Check(health_pb2.HealthCheckRequest(service=name)).status == SERVING
        with pytest.raises(grpc.RpcError) as caught:
            health.Check(health_pb2.HealthCheckRequest(service="no.such.Service"))
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


def test_sigterm_lets_calls_in_flight_finish_and_then_closes_the_port(tmp_path: Path) -> None:
    with serving(tmp_path) as server, grpc.insecure_channel(server.address) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        health = stub.Watch(health_pb2.HealthCheckRequest())
        assert next(health).status == SERVING
        with writers_held_up(tmp_path):
            under_way = _sign_in_under_way(channel)
            server.terminate()
            assert next(health).status == NOT_SERVING
            server.wait_for("(draining)")
            assert not under_way.done()
            assert server.process.poll() is None
        answer = under_way.result()
        health.cancel()
        assert server.exit_code() == 0
        assert not _accepts_connections(server)
        assert "stopped" in server.stdout
        assert "Traceback" not in server.stderr

    with serving(tmp_path) as server, SessionClient(server.address) as client:
        assert client.validate(answer.session_token)


def test_a_second_sigterm_does_not_shorten_the_drain(tmp_path: Path) -> None:
    with serving(tmp_path) as server, grpc.insecure_channel(server.address) as channel:
        with writers_held_up(tmp_path):
            under_way = _sign_in_under_way(channel)
            server.terminate()
            server.wait_for("(draining)")
            server.terminate()
            time.sleep(0.2)
            assert server.process.poll() is None
        assert under_way.result().session_token
        assert server.exit_code() == 0
        assert "Traceback" not in server.stderr


def test_calls_that_do_not_finish_are_ended_after_the_grace_period(tmp_path: Path) -> None:
    settings = {"SESSION_AUTHORITY_DRAIN_SECONDS": "0.2"}
    with serving(tmp_path, settings=settings) as server:
        with writers_held_up(tmp_path), grpc.insecure_channel(server.address) as channel:
            under_way = _sign_in_under_way(channel)
            server.terminate()
            with pytest.raises(grpc.RpcError) as caught:
                under_way.result()
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert server.exit_code() == 0


def test_calls_during_a_restart_succeed_or_get_unavailable(
    tmp_path: Path,
) -> None:
    seen: list[object] = []
    stop = threading.Event()
    with serving(tmp_path) as server, SessionClient(server.address) as client:
        new = client.create("ada")

        def ask() -> None:
            while not stop.is_set():
                try:
                    seen.append(bool(client.validate(new.token)))
                except Unavailable as error:
                    seen.append(type(error))
                    return

        asking = threading.Thread(target=ask)
        asking.start()
        try:
            while seen.count(True) <= 10 and asking.is_alive():
                time.sleep(0.01)
            assert server.stop() == 0
        finally:
            stop.set()
            asking.join(60)
    assert seen.count(True) > 10
    assert False not in seen


def test_activity_in_memory_is_written_during_a_drain(tmp_path: Path) -> None:
    settings = {"SESSION_AUTHORITY_LAST_ACTIVE_RESOLUTION_SECONDS": "1"}
    with serving(tmp_path, settings=settings) as server, SessionClient(server.address) as client:
        new = client.create("ada")
        time.sleep(1.1)
        assert client.validate(new.token, ip_address="198.51.100.9")
        assert server.stop() == 0

    with serving(tmp_path) as server, SessionClient(server.address) as client:
        session = client.require(new.token, passive=True)
    assert session.last_active_time > new.session.last_active_time
    assert session.last_ip_address == "198.51.100.9"


@pytest.mark.parametrize("command", ["serve", "demo"])
def test_ctrl_c_stops_the_server_gracefully(tmp_path: Path, command: str) -> None:
    with running(command, "--listen", "127.0.0.1:0", cwd=tmp_path) as program:
        program.wait_for(r"(serving on|Press Ctrl-C to stop)")
        time.sleep(0.2)
        program.process.send_signal(2)
        assert program.exit_code() == 0
        assert "topped" in program.stdout
        assert "Traceback" not in program.stderr


def test_a_health_watch_gets_not_serving_and_ends(tmp_path: Path) -> None:
    with (
        serving(tmp_path, settings={"SESSION_AUTHORITY_DRAIN_SECONDS": "30"}) as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        stub: Any = health_pb2_grpc.HealthStub(channel)
        watching = stub.Watch(health_pb2.HealthCheckRequest())
        assert next(watching).status == SERVING
        started = time.monotonic()
        server.terminate()
        statuses = [answer.status for answer in watching]
        assert server.exit_code() == 0
        assert time.monotonic() - started < 25  # less than the grace period
    assert statuses == [NOT_SERVING]


def test_connections_are_not_limited_by_the_shells_limit_of_open_files(tmp_path: Path) -> None:
    few_files: list[str | Path] = ["/bin/sh", "-c", 'ulimit -S -n 64; exec "$@"', "sh", COMMAND]
    arguments = ["serve", "--insecure", "--listen", "127.0.0.1:0"]
    with running(*arguments, cwd=tmp_path, command=few_files) as program, ExitStack() as stack:
        host, port = program.address.split(":")
        for _ in range(200):
            stack.enter_context(socket.create_connection((host, int(port)), timeout=60))
        with SessionClient(program.address) as client:
            assert client.validate(client.create("ada").token)
