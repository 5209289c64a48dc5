import contextlib
import socket
import threading
from contextlib import ExitStack, closing

import pytest

from session_authority_server.app.process import CannotStart
from session_authority_server.cli.reserved_port import reserved
from session_authority_server.config import split_address


def _listening(address: str, *, share: bool) -> socket.socket:
    """Listen on a port, with or without sharing it."""
    made = socket.socket()
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, int(share))
    try:
        made.bind(split_address(address))
        made.listen()
    except OSError:
        made.close()
        raise
    return made


@pytest.fixture
def free() -> str:
    with closing(socket.create_server(("127.0.0.1", 0))) as found:
        return f"127.0.0.1:{found.getsockname()[1]}"


def _assert_refused(address: str) -> None:
    with pytest.raises(CannotStart, match=f"{address} can't be listened on"), reserved(address):
        pass


def test_port_0_becomes_a_free_one() -> None:
    with reserved("127.0.0.1:0") as one, reserved("127.0.0.1:0") as other:
        assert one != other
        assert split_address(one)[0] == "127.0.0.1"
        assert split_address(one)[1] > 0


def test_many_processes_can_listen_on_a_reserved_port_and_only_they_get_connections() -> None:
    with reserved("127.0.0.1:0") as address, ExitStack() as stack:
        servers = [stack.enter_context(closing(_listening(address, share=True))) for _ in range(3)]
        for server in servers:
            server.setblocking(False)
        for _ in range(30):
            stack.enter_context(closing(socket.create_connection(split_address(address), 5)))
        assert sum(_accepted(server) for server in servers) == 30


def _accepted(server: socket.socket) -> int:
    count = 0
    while True:
        try:
            server.accept()[0].close()
        except BlockingIOError:
            return count
        count += 1


def test_connections_are_refused_before_a_process_listens() -> None:
    with reserved("127.0.0.1:0") as address, pytest.raises(ConnectionRefusedError):
        socket.create_connection(split_address(address), 5)


def test_a_port_in_use_is_refused_and_a_reserved_port_stays_reserved(free: str) -> None:
    with closing(_listening(free, share=False)):
        _assert_refused(free)
    with reserved(free), pytest.raises(OSError, match="in use"):
        _listening(free, share=False)


def test_a_port_that_another_program_shares_is_refused(free: str) -> None:
    with closing(_listening(free, share=True)):
        _assert_refused(free)


@pytest.mark.parametrize("processes", [0, 2])
def test_two_reservations_never_get_the_same_port(free: str, processes: int) -> None:
    with reserved(free), ExitStack() as stack:
        for _ in range(processes):
            stack.enter_context(closing(_listening(free, share=True)))
        _assert_refused(free)
        stack.close()  # all processes have ended
        _assert_refused(free)
    with reserved(free) as address:
        assert address == free


def test_one_of_many_concurrent_reservations_of_a_port_succeeds(free: str) -> None:
    together, done = threading.Barrier(8, timeout=20), threading.Barrier(8, timeout=20)
    won: list[str] = []

    def reserve() -> None:
        for _ in range(20):
            together.wait()
            with contextlib.suppress(CannotStart), reserved(free) as address:
                won.append(address)
                done.wait()
                continue
            done.wait()

    threads = [threading.Thread(target=reserve) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert won == [free] * 20


def test_lingering_connections_of_an_earlier_server_do_not_block_a_new_one(free: str) -> None:
    with closing(_listening(free, share=False)) as server:
        client = socket.create_connection(split_address(free), 5)
        server.accept()[
            0
        ].close()  # the server closes first, so that its side of the connection lingers
        assert client.recv(1) == b""
        client.close()
    with reserved(free), closing(_listening(free, share=True)):
        pass


def test_all_addresses_of_a_name_have_the_same_port() -> None:
    with reserved("localhost:0") as address:
        assert address.startswith("localhost:")
        _assert_refused(address)
        _assert_refused(f"127.0.0.1:{split_address(address)[1]}")


@pytest.mark.parametrize("address", ["203.0.113.1:0", "no..name:0"])
def test_an_address_of_another_machine_is_refused(address: str) -> None:
    _assert_refused(address)
