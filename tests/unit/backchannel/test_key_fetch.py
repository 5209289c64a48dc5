"""The keys of a provider, over HTTP on loopback."""

import gzip
import itertools
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from session_authority.backchannel import Provider
from session_authority.backchannel.key_fetch import DOCUMENT_LIMIT_BYTES, FETCH_SECONDS, fetch_keys
from session_authority.backchannel.key_source import KeysUnavailable
from tests.support.postgresql import free_port
from tests.support.provider_tokens import key_set, signing_key

KEYS = key_set(signing_key())
DISCOVERY = "/.well-known/openid-configuration"


class Site:
    """A provider's web server. It answers with a status, headers and a body, by path."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.answers: dict[str, tuple[int, dict[str, str], bytes]] = {}
        self.asked: list[str] = []

    def put(self, path: str, body: bytes, status: int = 200, **headers: str) -> None:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self.answers[path] = (status, named, body)

    def discover(self, **changes: object) -> None:
        document = {"issuer": self.address, "jwks_uri": f"{self.address}/keys", **changes}
        self.put(DISCOVERY, json.dumps(document).encode())


@contextmanager
def serving() -> Iterator[Site]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            running.asked.append(self.path)
            status, headers, body = running.answers.get(self.path, (404, {}, b""))
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        running = Site(f"http://127.0.0.1:{server.server_port}")
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield running
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture(scope="module")
def shared() -> Iterator[Site]:
    with serving() as running:
        yield running


@pytest.fixture
def site(shared: Site) -> Site:
    shared.answers, shared.asked = {}, []
    shared.put("/keys", KEYS)
    return shared


def direct(site: Site) -> Provider:
    return Provider("https://id.example", "shop", f"{site.address}/keys")


def test_the_keys_come_from_the_given_address(site: Site) -> None:
    [key] = fetch_keys(direct(site))
    assert key.key_id == "first"
    assert site.asked == ["/keys"]


def test_the_discovery_document_names_the_address_of_the_keys(site: Site) -> None:
    site.discover()
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
    site: Site, changes: dict[str, object], problem: str
) -> None:
    site.discover(**changes)
    with pytest.raises(KeysUnavailable, match=problem):
        fetch_keys(Provider(site.address, "shop"))


@pytest.mark.parametrize("document", [b"", b"[]", b"<html>", b"[" * 20_000])
def test_a_discovery_document_that_is_no_object_is_refused(site: Site, document: bytes) -> None:
    site.put(DISCOVERY, document)
    with pytest.raises(KeysUnavailable, match="not the discovery document"):
        fetch_keys(Provider(site.address, "shop"))


@pytest.mark.parametrize("status", [204, 301, 302, 404, 500, 503])
def test_other_statuses_are_refused_and_redirects_are_not_followed(site: Site, status: int) -> None:
    site.put("/other", KEYS)
    site.put("/keys", b"", status, location=f"{site.address}/other")
    with pytest.raises(KeysUnavailable, match=f"answers {status}"):
        fetch_keys(direct(site))
    assert site.asked == ["/keys"]


def test_a_document_that_is_too_large_is_refused(site: Site) -> None:
    site.put("/keys", KEYS + b" " * DOCUMENT_LIMIT_BYTES)
    with pytest.raises(KeysUnavailable, match="sends more than 262144 bytes"):
        fetch_keys(direct(site))


def test_a_slow_answer_is_refused(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = itertools.count(step=2 * FETCH_SECONDS)
    monkeypatch.setattr("time.monotonic", lambda: next(ticks))
    with pytest.raises(KeysUnavailable, match="takes more than"):
        fetch_keys(direct(site))


def test_a_compressed_document_is_not_unpacked(site: Site) -> None:
    site.put("/keys", gzip.compress(KEYS), content_encoding="gzip")
    with pytest.raises(KeysUnavailable, match="is not usable"):
        fetch_keys(direct(site))


@pytest.mark.parametrize("document", [b"", b"<html>", b"{}"])
def test_a_document_without_keys_is_refused(site: Site, document: bytes) -> None:
    site.put("/keys", document)
    with pytest.raises(KeysUnavailable, match="is not usable"):
        fetch_keys(direct(site))


def test_a_provider_that_does_not_answer_is_reported() -> None:
    provider = Provider("https://id.example", "shop", f"http://127.0.0.1:{free_port()}/keys")
    with pytest.raises(KeysUnavailable, match=r"does not answer \(ConnectError\)"):
        fetch_keys(provider)
