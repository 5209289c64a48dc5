from collections.abc import Iterable, Sequence
from ipaddress import ip_address

import httpcore
import pytest

from session_authority_server.domain.webhook import Address
from session_authority_workers.guarded_network import (
    ADDRESSES_TRIED,
    AddressRefused,
    GuardedNetwork,
)


class Network(httpcore.AsyncNetworkBackend):
    """Records the addresses that it should connect to, and connects to one of them at most."""

    def __init__(self, answering: str = "") -> None:
        self.connected: list[str] = []
        self._answering = answering

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        assert port == 443
        assert timeout
        self.connected.append(host)
        if host != self._answering:
            raise httpcore.ConnectTimeout
        return Stream()


class Stream(httpcore.AsyncNetworkStream):
    """Has as many bytes as are wanted."""

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return bytes(max_bytes)


class Names:
    """Answers each question about a name with the next of some answers."""

    def __init__(self, *answers: Sequence[str]) -> None:
        self._answers = iter(answers)

    async def __call__(self, _host: str, _port: int) -> Sequence[Address]:
        return [ip_address(each) for each in next(self._answers)]


def guarded(names: Names, network: Network, *, may_be_private: bool = False) -> GuardedNetwork:
    return GuardedNetwork(may_be_private=may_be_private, resolve=names, network=network)


async def test_the_checked_address_is_the_connected_address() -> None:
    """A name whose addresses change between the check and the connection leads nowhere else."""
    network = Network("198.41.0.4")
    await guarded(Names(["198.41.0.4"], ["10.0.0.1"]), network).connect_tcp("app.example.com", 443)
    assert network.connected == ["198.41.0.4"]


async def test_each_connection_checks_again() -> None:
    network = Network("198.41.0.4")
    guard = guarded(Names(["198.41.0.4"], ["10.0.0.1"]), network)
    await guard.connect_tcp("app.example.com", 443)
    with pytest.raises(AddressRefused):
        await guard.connect_tcp("app.example.com", 443)
    assert network.connected == ["198.41.0.4"]


async def test_refused_addresses_are_passed_over() -> None:
    network = Network("198.41.0.4")
    names = Names(["10.0.0.1", "169.254.169.254", "198.41.0.4"])
    await guarded(names, network).connect_tcp("app.example.com", 443)
    assert network.connected == ["198.41.0.4"]


async def test_further_addresses_are_tried_but_not_many() -> None:
    addresses = [f"198.41.0.{number}" for number in range(1, 9)]
    network = Network("198.41.0.2")
    await guarded(Names(addresses), network).connect_tcp("app.example.com", 443)
    assert network.connected == addresses[:2]

    network = Network()
    with pytest.raises(httpcore.ConnectTimeout):
        await guarded(Names(addresses), network).connect_tcp("app.example.com", 443)
    assert network.connected == addresses[:ADDRESSES_TRIED]


async def test_a_private_address_needs_the_operators_permission() -> None:
    network = Network("10.0.0.1")
    with pytest.raises(AddressRefused):
        await guarded(Names(["10.0.0.1"]), network).connect_tcp("app.example.com", 443)
    assert network.connected == []
    allowing = guarded(Names(["10.0.0.1"]), network, may_be_private=True)
    await allowing.connect_tcp("app.example.com", 443)
    assert network.connected == ["10.0.0.1"]


async def test_an_answer_of_many_tiny_parts_leaves_other_tasks_their_turns() -> None:
    """The parser makes no pause within a piece, so a piece must be small."""
    network = guarded(Names(["198.41.0.4"]), Network("198.41.0.4"))
    stream = await network.connect_tcp("app.example.com", 443)
    assert len(await stream.read(1 << 20)) == 4 * 1024
