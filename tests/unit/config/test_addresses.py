import pytest

from session_authority_server.config import is_loopback, split_address


@pytest.mark.parametrize(
    ("address", "host", "port"),
    [
        ("127.0.0.1:50551", "127.0.0.1", 50_551),
        ("[::1]:0", "::1", 0),
        ("localhost:1", "localhost", 1),
        ("example.org:65535", "example.org", 65_535),
    ],
)
def test_an_address_has_a_host_and_a_port(address: str, host: str, port: int) -> None:
    assert split_address(address) == (host, port)


@pytest.mark.parametrize(
    ("address", "local"),
    [
        ("127.0.0.1:1", True),
        ("127.8.8.8:1", True),
        ("[::1]:1", True),
        ("localhost:1", True),
        ("0.0.0.0:1", False),
        ("[::]:1", False),
        ("192.168.1.1:1", False),
        ("localhost.example.org:1", False),
        ("127.0.0.1.example.org:1", False),
    ],
)
def test_loopback_addresses_are_recognised(address: str, local: bool) -> None:
    assert is_loopback(address) is local
