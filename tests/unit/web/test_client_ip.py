import ipaddress
import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from session_authority.web.client_ip import HEADER_LIMIT_CHARACTERS, HOPS_LIMIT, ClientIp

PROXY = "10.0.0.1"
BEHIND_PROXY = ClientIp(["10.0.0.0/8", "fd00::/8"])
FORWARDED = ClientIp(["10.0.0.0/8"], header="forwarded")


def test_without_trusted_proxies_the_peer_is_the_client() -> None:
    assert ClientIp().find("203.0.113.7", "198.51.100.1") == "203.0.113.7"


def test_the_header_of_an_untrusted_peer_is_ignored() -> None:
    assert BEHIND_PROXY.find("203.0.113.7", "198.51.100.1") == "203.0.113.7"


def test_the_header_of_a_trusted_proxy_gives_the_client() -> None:
    assert BEHIND_PROXY.find(PROXY, "203.0.113.7") == "203.0.113.7"


def test_the_rightmost_untrusted_hop_is_the_client_whatever_is_left_of_it() -> None:
    chain = "127.0.0.1, 198.51.100.66, 203.0.113.7, 10.2.3.4, 10.9.9.9"

    assert BEHIND_PROXY.find(PROXY, chain) == "203.0.113.7"


def test_if_every_hop_is_trusted_the_first_one_is_the_client() -> None:
    assert BEHIND_PROXY.find(PROXY, "10.7.7.7, 10.2.3.4") == "10.7.7.7"


def test_a_proxy_without_a_forwarding_header_is_the_client() -> None:
    assert BEHIND_PROXY.find(PROXY, "") == PROXY


@pytest.mark.parametrize(
    ("hop", "address"),
    [
        ("203.0.113.7:4711", "203.0.113.7"),
        ("2001:db8::5", "2001:db8::5"),
        ("[2001:DB8:0::5]:443", "2001:db8::5"),
        ("[2001:db8::5]", "2001:db8::5"),
        ("::ffff:203.0.113.7", "203.0.113.7"),
        ("fe80::1%eth0", "fe80::1"),
        ("unknown", None),
        ("_hidden", None),
        ("_x:80", None),
        ("app.example", None),
        ("203.0.113.7.", None),
        ("[203.0.113.7", "203.0.113.7"),
        ("1" * 65, None),
        ('"203.0.113.7"', "203.0.113.7"),
        ('"[2001:db8::5]:443"', "2001:db8::5"),
        ('"', None),
        ('""', None),
        ("unix:", None),  # a Unix socket, which this site does not trust
    ],
)
def test_a_hop_is_parsed_as_an_address_or_as_unknown(hop: str, address: str | None) -> None:
    assert BEHIND_PROXY.find(PROXY, f"198.51.100.1, {hop}") == address


def test_an_address_hidden_by_a_proxy_is_unknown_whatever_the_client_claims() -> None:
    assert BEHIND_PROXY.find(PROXY, "198.51.100.1, unknown, 10.2.3.4") is None


@pytest.mark.parametrize(
    ("header", "address"),
    [
        ("for=203.0.113.7", "203.0.113.7"),
        ('For="203.0.113.7:4711"', "203.0.113.7"),
        ('for="[2001:db8:cafe::17]:4711";proto=https;by=10.0.0.9', "2001:db8:cafe::17"),
        ("by=10.0.0.9; FOR = 203.0.113.7 ;host=a", "203.0.113.7"),
        ("for=198.51.100.1, for=203.0.113.7, for=10.2.2.2", "203.0.113.7"),
        ("for=198.51.100.1, for=unknown", None),
        ('for=198.51.100.1, for="_gazonk"', None),
        ("for=198.51.100.1, proto=https", None),
        ("for=198.51.100.1, xfor=203.0.113.7", None),
        ('for=198.51.100.1;host="a,b", for=203.0.113.7', "203.0.113.7"),
        (r'for="203.0.113.\7"', "203.0.113.7"),
        # A quotation mark that the client left open does not hide the proxy's element.
        ('for="198.51.100.1, for=203.0.113.7', "203.0.113.7"),
        (r'for="198.51.100.1\", for=203.0.113.7', "203.0.113.7"),
        (r'for="x\"y,z", for=203.0.113.7', "203.0.113.7"),
    ],
)
def test_the_forwarded_header_is_parsed_in_all_its_forms(header: str, address: str | None) -> None:
    assert FORWARDED.find(PROXY, header) == address


@pytest.mark.parametrize(
    ("header", "address"),
    [
        ("203.0.113.7, ", "203.0.113.7"),
        (", 203.0.113.7", "203.0.113.7"),
        ("203.0.113.7,, 10.2.2.2", "203.0.113.7"),
        ("198.51.100.1, 203.0.113.7, \t ,10.2.2.2,", "203.0.113.7"),
        ("198.51.100.1, unknown,, 10.2.2.2", None),
        (", ,", PROXY),
    ],
)
def test_empty_elements_of_a_list_are_ignored(header: str, address: str | None) -> None:
    standard = ", ".join(f"for={hop.strip()}" if hop.strip() else "" for hop in header.split(","))

    assert BEHIND_PROXY.find(PROXY, header) == address
    assert FORWARDED.find(PROXY, standard) == address


@pytest.mark.parametrize("peer", [None, "", "unix:", "unix:/run/app.sock", PROXY])
@pytest.mark.parametrize("socket", ["unix:", "UNIX:", "unix:/run/nginx.sock", '"unix:"', "unix"])
def test_a_trusted_unix_socket_counts_as_a_trusted_hop(peer: str | None, socket: str) -> None:
    trusted = ["unix", "10.0.0.0/8"]
    for chain in (f"198.51.100.1, 203.0.113.7, {socket}", f"203.0.113.7, {socket}, 10.2.2.2"):
        standard = ", ".join(f"for={hop}" for hop in chain.split(", "))
        assert ClientIp(trusted).find(peer, chain) == "203.0.113.7"
        assert ClientIp(trusted, header="forwarded").find(peer, standard) == "203.0.113.7"
        assert ClientIp([PROXY]).find(PROXY, f"203.0.113.7, {socket}") is None


@pytest.mark.parametrize(
    ("headers", "scheme"),
    [
        ({"forwarded": "for=203.0.113.7;proto=https"}, "https"),
        ({"forwarded": 'for="[2001:db8::5]:4711";Proto="HTTPS";host=app.example'}, "https"),
        ({"forwarded": "proto=https"}, "https"),
        ({"forwarded": "for=203.0.113.7;proto=wss"}, "https"),
        ({"forwarded": "for=203.0.113.7;proto=http"}, "http"),
        ({"forwarded": "for=203.0.113.7;proto=gopher"}, None),
        ({"forwarded": "for=203.0.113.7;xproto=https"}, None),
        ({"forwarded": 'for=203.0.113.7;host="a;proto=https"'}, None),
        ({"forwarded": "for=203.0.113.7"}, None),
        ({"forwarded": ""}, None),
        # The browser calls the outer proxy, which calls the inner one.
        ({"forwarded": "for=203.0.113.7;proto=https, for=10.2.2.2;proto=http"}, "https"),
        ({"forwarded": "for=203.0.113.7;proto=http, for=10.2.2.2;proto=https"}, "http"),
        ({"forwarded": "for=203.0.113.7, , for=10.2.2.2;proto=https"}, "https"),
        # A client wrote the first element.
        ({"forwarded": "for=10.1.1.1;proto=https, for=203.0.113.7;proto=http"}, "http"),
        ({"forwarded": "for=10.1.1.1;proto=https, for=203.0.113.7"}, None),
        ({"forwarded": "for=10.1.1.1;proto=https, for=unknown;proto=http"}, "http"),
        ({"forwarded": "for=203.0.113.7", "x-forwarded-proto": "https"}, "https"),
        ({"forwarded": "for=203.0.113.7;proto=http", "x-forwarded-proto": "https"}, "http"),
    ],
)
def test_the_forwarded_header_has_the_scheme_that_the_browser_used(
    headers: dict[str, str], scheme: str | None
) -> None:
    assert FORWARDED.scheme(PROXY, lambda name: headers.get(name, "")) == scheme
    assert FORWARDED.scheme("203.0.113.9", lambda name: headers.get(name, "")) is None


@pytest.mark.parametrize(
    ("said", "scheme"),
    [
        ("https", "https"),
        ("HTTPS", "https"),
        ("wss", "https"),
        ("ws", "http"),
        ("https, http", "http"),
        ("http, https, ", "https"),
        ("https, gopher", None),
        (", ", None),
    ],
)
def test_x_forwarded_proto_of_the_nearest_proxy_has_the_scheme(
    said: str, scheme: str | None
) -> None:
    headers = {"x-forwarded-proto": said, "forwarded": "for=203.0.113.7;proto=https"}

    assert BEHIND_PROXY.scheme(PROXY, lambda name: headers.get(name, "")) == scheme
    assert BEHIND_PROXY.scheme(None, lambda name: headers.get(name, "")) is None


@pytest.mark.parametrize(
    ("hops", "said", "scheme"),
    [
        ("203.0.113.7, 10.2.2.2", "https, http", "https"),
        ("203.0.113.7,10.2.2.2", "https,http", "https"),
        ("203.0.113.7, 10.2.2.2, 10.3.3.3", "https, http, http", "https"),
        ("203.0.113.7, 10.2.2.2", "http, https", "http"),
        ("203.0.113.7, 10.2.2.2", "https", "https"),
        ("203.0.113.7", "https, https", "https"),
        # A client wrote the first scheme.
        ("203.0.113.7", "https, http", "http"),
        ("198.51.100.1, 203.0.113.7", "https, http", "http"),
        ("10.1.1.1, 203.0.113.7, 10.2.2.2", "https, http, https", "http"),
    ],
)
def test_the_scheme_is_that_of_the_outermost_trusted_proxy(
    hops: str, said: str, scheme: str
) -> None:
    standard = ", ".join(f"for={hop.strip()}" for hop in hops.split(","))
    headers = {"x-forwarded-proto": said, "x-forwarded-for": hops, "forwarded": standard}

    assert BEHIND_PROXY.scheme(PROXY, lambda name: headers.get(name, "")) == scheme
    assert FORWARDED.scheme(PROXY, lambda name: headers.get(name, "")) == scheme


def test_an_unknown_forwarding_header_is_refused() -> None:
    assert FORWARDED.header == "forwarded"
    assert BEHIND_PROXY.header == "x-forwarded-for"
    with pytest.raises(ValueError, match="x-forwarded-for"):
        ClientIp(header="x-real-ip")  # type: ignore[arg-type]


@pytest.mark.parametrize("client_ip", [BEHIND_PROXY, FORWARDED])
def test_junk_that_a_client_sends_first_changes_no_result(
    client_ip: ClientIp,
) -> None:
    is_standard = client_ip is FORWARDED
    junk = ('for="\\' if is_standard else "9.9.9.9,") * HEADER_LIMIT_CHARACTERS
    hop = "for=203.0.113.7" if is_standard else "203.0.113.7"

    assert client_ip.find(PROXY, f"{junk}, {hop}") == "203.0.113.7"


@pytest.mark.parametrize(("client_ip", "hop"), [(BEHIND_PROXY, PROXY), (FORWARDED, f"for={PROXY}")])
def test_a_chain_is_followed_for_a_limited_number_of_hops(client_ip: ClientIp, hop: str) -> None:
    client = hop.replace(PROXY, "203.0.113.7")
    within = ", ".join([client] + [hop] * (HOPS_LIMIT - 1))
    beyond = ", ".join([client] + [hop] * HOPS_LIMIT)

    assert client_ip.find(PROXY, within) == "203.0.113.7"
    assert client_ip.find(PROXY, beyond) == PROXY


@pytest.mark.parametrize("peer", [None, "", "testclient", "unix:/run/app.sock"])
def test_a_peer_without_an_address_has_none(peer: str | None) -> None:
    assert BEHIND_PROXY.find(peer, "203.0.113.7") is None


@pytest.mark.parametrize("peer", [None, ""])
def test_a_unix_socket_can_be_trusted(peer: str | None) -> None:
    assert ClientIp(["unix"]).find(peer, "203.0.113.7") == "203.0.113.7"
    assert ClientIp(["unix"]).find(peer, "") is None


def test_an_ipv4_mapped_peer_counts_as_its_ipv4_address() -> None:
    assert BEHIND_PROXY.find("::ffff:10.0.0.1", "203.0.113.7") == "203.0.113.7"


def test_a_private_peer_whose_headers_are_ignored_is_logged_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    client_ip = ClientIp()

    with caplog.at_level(logging.WARNING):
        client_ip.find("8.8.8.8", "198.51.100.1")  # any client can send the header
        client_ip.find("172.17.0.1", "")
        assert not caplog.records
        for _ in range(3):
            assert client_ip.find("172.17.0.1", "198.51.100.1") == "172.17.0.1"

    (record,) = caplog.records
    assert "private address 172.17.0.1 sends x-forwarded-for" in record.message
    assert "trusted proxies" in record.message


@pytest.mark.parametrize("network", ["10.0.0.1/8", "proxy.internal", "", "*"])
def test_an_invalid_network_is_refused(network: str) -> None:
    with pytest.raises(ValueError, match=r"network|host bits"):
        ClientIp([network])


def test_a_single_string_is_refused_as_a_list_of_networks() -> None:
    with pytest.raises(TypeError, match="not a str"):
        ClientIp("10.0.0.0/8")


@given(
    peer=st.one_of(st.none(), st.just(PROXY), st.text(max_size=20)),
    header=st.text(alphabet='for=",;\\ 0123456789.:[]_%xunkow', max_size=200),
)
def test_the_result_is_always_an_address_or_none(peer: str | None, header: str) -> None:
    for client_ip in (BEHIND_PROXY, FORWARDED, ClientIp(["unix", PROXY])):
        found = client_ip.find(peer, header)
        assert found is None or str(ipaddress.ip_address(found)) == found
