"""The keys of a provider, over HTTP on loopback."""

import gzip
import itertools
import json
import socket
import threading
from collections.abc import Iterator

import pytest

from session_authority.backchannel import Provider
from session_authority.backchannel.key_fetch import DOCUMENT_LIMIT_BYTES, FETCH_SECONDS, fetch_keys
from session_authority.backchannel.key_source import KeysUnavailable
from tests.support.key_site import KeySite, key_site
from tests.support.postgresql import free_port
from tests.support.provider_tokens import key_set, signing_key

KEYS = key_set(signing_key())
DISCOVERY = "/.well-known/openid-configuration"


@pytest.fixture(scope="module")
def shared() -> Iterator[KeySite]:
    with key_site() as running:
        yield running


@pytest.fixture
def site(shared: KeySite) -> KeySite:
    shared.clear()
    shared.put("/keys", KEYS)
    return shared


def discover(site: KeySite, **changes: object) -> None:
    document = {"issuer": site.address, "jwks_uri": f"{site.address}/keys", **changes}
    site.put(DISCOVERY, json.dumps(document).encode())


def direct(site: KeySite) -> Provider:
    return Provider("https://id.example", "shop", f"{site.address}/keys")


def test_the_keys_come_from_the_given_address(site: KeySite) -> None:
    [key] = fetch_keys(direct(site))
    assert key.key_id == "first"
    assert site.asked == ["/keys"]


def test_the_discovery_document_names_the_address_of_the_keys(site: KeySite) -> None:
    discover(site)
    [key] = fetch_keys(Provider(site.address, "shop"))
    assert key.key_id == "first"
    assert site.asked == [DISCOVERY, "/keys"]


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"issuer": "https://id.example"}, "not the discovery document of this issuer"),
        ({"issuer": None}, "not the discovery document of this issuer"),
        ({"jwks_uri": None}, "names no jwks_uri with https"),
        ({"jwks_uri": 7}, "names no jwks_uri with https"),
        ({"jwks_uri": "http://id.example/keys"}, "names no jwks_uri with https"),
        ({"jwks_uri": "file:///etc/passwd"}, "names no jwks_uri with https"),
    ],
)
def test_an_unusable_discovery_document_is_refused(
    site: KeySite, changes: dict[str, object], problem: str
) -> None:
    discover(site, **changes)
    with pytest.raises(KeysUnavailable, match=problem):
        fetch_keys(Provider(site.address, "shop"))


def test_a_provider_elsewhere_can_not_name_an_address_on_this_machine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    document = {"issuer": "https://id.example", "jwks_uri": "http://127.0.0.1:8080/keys"}
    monkeypatch.setattr(
        "session_authority.backchannel.key_fetch._get", lambda *_: json.dumps(document).encode()
    )
    with pytest.raises(KeysUnavailable, match="names no jwks_uri with https"):
        fetch_keys(Provider("https://id.example", "shop"))


@pytest.mark.parametrize("document", [b"", b"[]", b"<html>", b"[" * 20_000])
def test_a_discovery_document_that_is_no_object_is_refused(site: KeySite, document: bytes) -> None:
    site.put(DISCOVERY, document)
    with pytest.raises(KeysUnavailable, match="not the discovery document"):
        fetch_keys(Provider(site.address, "shop"))


@pytest.mark.parametrize("status", [204, 301, 302, 404, 500, 503])
def test_other_statuses_are_refused_and_redirects_are_not_followed(
    site: KeySite, status: int
) -> None:
    site.put("/other", KEYS)
    site.put("/keys", b"", status, location=f"{site.address}/other")
    with pytest.raises(KeysUnavailable, match=f"answers {status}"):
        fetch_keys(direct(site))
    assert site.asked == ["/keys"]


def test_a_document_that_is_too_large_is_refused(site: KeySite) -> None:
    site.put("/keys", KEYS + b" " * DOCUMENT_LIMIT_BYTES)
    with pytest.raises(KeysUnavailable, match="sends more than 262144 bytes"):
        fetch_keys(direct(site))


def test_a_slow_answer_is_refused(site: KeySite, monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = itertools.count(step=2 * FETCH_SECONDS)
    monkeypatch.setattr("time.monotonic", lambda: next(ticks))
    with pytest.raises(KeysUnavailable, match="takes more than"):
        fetch_keys(direct(site))


@pytest.mark.parametrize(
    "parts",
    [
        itertools.chain([b"HTTP/1.1 200 OK\r\nX: "], itertools.repeat(b"x")),
        itertools.repeat(b"HTTP/1.1 103 Early Hints\r\n\r\n"),
        itertools.chain([b"HTTP/1.1 200 OK\r\n\r\n"], itertools.repeat(b" ")),
    ],
    ids=["headers", "hints", "body"],
)
def test_an_answer_that_never_ends_is_cut(
    parts: Iterator[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("session_authority.backchannel.key_fetch.FETCH_SECONDS", 0.5)
    was_cut = threading.Event()

    def drip() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(4096)
            for part in parts:
                try:
                    connection.sendall(part)
                except OSError:
                    break
                if was_cut.wait(0.02):
                    return
        was_cut.set()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        dripping = threading.Thread(target=drip)
        dripping.start()
        address = f"http://127.0.0.1:{listener.getsockname()[1]}/keys"
        try:
            with pytest.raises(KeysUnavailable, match="takes more than"):
                fetch_keys(Provider("https://id.example", "shop", address))
            assert was_cut.wait(30)
        finally:
            was_cut.set()
            dripping.join()


def test_a_compressed_document_is_not_unpacked(site: KeySite) -> None:
    site.put("/keys", gzip.compress(KEYS), content_encoding="gzip")
    with pytest.raises(KeysUnavailable, match="is not usable"):
        fetch_keys(direct(site))


@pytest.mark.parametrize("document", [b"", b"<html>", b"{}"])
def test_a_document_without_keys_is_refused(site: KeySite, document: bytes) -> None:
    site.put("/keys", document)
    with pytest.raises(KeysUnavailable, match="is not usable"):
        fetch_keys(direct(site))


def test_a_provider_that_does_not_answer_is_reported() -> None:
    provider = Provider("https://id.example", "shop", f"http://127.0.0.1:{free_port()}/keys")
    with pytest.raises(KeysUnavailable, match=r"does not answer \(ConnectError\)"):
        fetch_keys(provider)
