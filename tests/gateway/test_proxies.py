"""One table of cases, in front of each proxy as documented, with a site that knows nothing about sessions."""

import re
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import httpx
import pytest

from session_authority import AsyncSessionClient, NewSession
from session_authority.testing import Authority, authority
from session_authority_gateway.serving import RunningGateway, serving
from session_authority_gateway.settings import load_gateway_settings
from tests.gateway.doors import COOKIE, HOST, Door, identity, passed, received, status_of
from tests.support.front_doors import EXAMPLES, PROXIES, Proxy
from tests.support.in_thread import LoopThread, loop_thread
from tests.support.upstream import upstream

PAGE = {"accept": "text/html", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}
ROUTES = {
    "/optional": "session=optional",
    "/recent": "max_age=15m",
    "/mfa": "methods=mfa,hwk",
    "/misspelt": "sesion=optional",
}


@dataclass(frozen=True)
class Back:
    """The parts that stand behind every proxy."""

    authority: Authority
    gateway: RunningGateway
    site: str


@pytest.fixture(scope="module")
def loop() -> Iterator[LoopThread]:
    with loop_thread() as it:
        yield it


@pytest.fixture(scope="module")
def back(loop: LoopThread) -> Iterator[Back]:
    with ExitStack() as stack:
        running = stack.enter_context(authority())
        site = stack.enter_context(loop.during(upstream()))
        client = AsyncSessionClient(running.address, near_cache=True)
        stack.enter_context(loop.during(client))
        settings = load_gateway_settings(
            listen="127.0.0.1:0", grpc_listen="127.0.0.1:0", sign_in_url="/sign-in"
        )
        gateway = stack.enter_context(loop.during(serving(settings, client=client)))
        yield Back(running, gateway, site)


@pytest.fixture(scope="module", params=[*PROXIES.values()], ids=[*PROXIES])
def door(
    request: pytest.FixtureRequest, back: Back, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Door]:
    proxy: Proxy = request.param
    if not proxy.is_installed():
        pytest.skip(f"{proxy.name} is not installed")
    folder = tmp_path_factory.mktemp(proxy.name)
    with (
        proxy.start(folder, back.site, back.gateway, ROUTES) as address,
        httpx.Client(timeout=30, verify=False) as http,  # no TLS here, so load no certificates
    ):
        yield Door(address, back.authority, http)


@pytest.fixture
def session(back: Back) -> NewSession:
    return back.authority.sign_in("mary", authentication_methods=["pwd"])


@pytest.fixture
def token(session: NewSession) -> str:
    return session.token.reveal()


def test_a_live_session_passes_with_the_identity_headers(
    door: Door, session: NewSession, token: str
) -> None:
    assert passed(door.ask("/a?b=c", token)) == identity(session)


@pytest.mark.parametrize("name", ["x-session-token", "authorization"])
def test_a_program_sends_the_token_in_a_header(
    door: Door, session: NewSession, token: str, name: str
) -> None:
    value = token if name == "x-session-token" else f"Bearer {token}"
    assert passed(door.ask("/", method="POST", **{name: value})) == identity(session)


def test_a_session_with_an_actor_and_without_methods_says_so(door: Door) -> None:
    new = door.authority.sign_in("mary", actor_id="support-7")
    assert passed(door.ask("/", new.token.reveal())) == identity(
        new, "x-session-actor-id: support-7"
    )


def test_a_user_id_beyond_ascii_is_percent_encoded(door: Door) -> None:
    new = door.authority.sign_in("José, 100 %", authentication_methods=["pwd"])
    assert "x-session-user-id: Jos%C3%A9%2C%20100%20%25" in passed(
        door.ask("/", new.token.reveal())
    )


def test_a_page_without_a_session_is_redirected_to_the_sign_in_page(door: Door) -> None:
    answer = door.ask("/basket?item=1&x=%2F", **PAGE)
    assert answer.status_code == 303
    assert answer.headers["location"] == "/sign-in?next=%2Fbasket%3Fitem%3D1%26x%3D%252F"
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["vary"] == "Cookie, Authorization, X-Session-Token"


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
def test_another_request_without_a_session_is_refused(door: Door, method: str) -> None:
    headers = PAGE if method != "GET" else {}
    answer = door.ask("/basket", method=method, **headers)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    assert answer.headers["cache-control"] == "no-store"
    assert "location" not in answer.headers


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "HEAD"])
def test_every_method_passes_with_a_session(door: Door, token: str, method: str) -> None:
    assert door.ask("/", token, method).status_code == 200


def test_a_malformed_token_is_refused_and_its_cookie_cleared(door: Door) -> None:
    answer = door.ask("/", "rubbish", **PAGE)
    assert answer.status_code == 303
    assert answer.headers["set-cookie"].startswith(f"{COOKIE}=;")
    assert (
        "set-cookie" not in door.ask("/", "rubbish", **(PAGE | {"sec-fetch-mode": "cors"})).headers
    )


@pytest.mark.parametrize("with_session", [True, False])
@pytest.mark.parametrize(
    "name",
    [
        "X-Session-User-Id",
        "x-session-USER-id",
        "X_SESSION_USER_ID",
        "X-Session_User-Id",
        "X.Session.User.Id",
        "X-Session-Id",
        "X-Session-Authenticate-Time",
        "X-Session-Authentication-Methods",
        "X-Session-Actor-Id",
        "x_session_actor_id",
    ],
)
def test_forged_identity_headers_never_reach_the_site(
    door: Door, session: NewSession, token: str, name: str, with_session: bool
) -> None:
    cookie = [f"Cookie: {COOKIE}={token}"] if with_session else []
    answer = door.raw(f"{name}: eve", f"{name}: eve2", *cookie, request="GET /optional HTTP/1.1")
    assert status_of(answer) in (200, 400, 403)
    assert b"eve" not in answer.partition(b"\r\n\r\n")[2].replace(name.encode(), b"")
    if status_of(answer) == 200:
        assert received(answer.decode()) == (identity(session) if with_session else [])


@pytest.mark.parametrize(
    "lines",
    [
        ["Connection: X-Session-Actor-Id"],
        ["Connection: close, x-session-ACTOR-id, X-Session-User-Id"],
        ["Connection: x", "Connection: x-session-actor-id"],
        ["Connection: X-Forwarded-For, X-Forwarded-Uri, X-Forwarded-Host"],
    ],
    ids=str,
)
def test_a_client_cannot_remove_identity_headers_as_hop_by_hop_headers(
    door: Door, lines: list[str]
) -> None:
    """Proxies remove the headers that `Connection` names (RFC 9110, section 7.6.1)."""
    new = door.authority.sign_in("mary", actor_id="support-7", authentication_methods=["pwd"])
    answer = door.raw(*lines, f"Cookie: {COOKIE}={new.token.reveal()}")
    assert status_of(answer) in (200, 400)  # Envoy refuses some of these lines
    if status_of(answer) == 200:
        assert received(answer.decode()) == identity(new, "x-session-actor-id: support-7")


def test_a_proxy_overwrites_the_forwarding_headers_of_a_client(door: Door) -> None:
    answer = door.raw(
        "X-Forwarded-Method: POST",
        "X-Forwarded-Uri: //evil.example/",
        "X-Forwarded-Host: evil.example",
        "Accept: text/html",
        request="GET /here HTTP/1.1",
    )
    assert status_of(answer) == 303
    assert b"location: /sign-in?next=%2fhere\r\n" in answer.lower()


def test_a_revoked_session_is_refused_by_its_effective_time_on_a_kept_connection(
    door: Door, token: str
) -> None:
    headers = {"host": HOST, "cookie": f"{COOKIE}={token}"}
    with (
        httpx.Client(base_url=door.url, timeout=30, verify=False) as browser,
        door.authority.client() as api,
    ):
        assert browser.get("/", headers=headers).status_code == 200
        effective = api.sign_out(token)
        while browser.get("/", headers=headers).status_code == 200:
            assert datetime.now(UTC) <= effective
        answer = browser.get("/", headers=headers | PAGE)
    assert answer.status_code == 303
    assert "Max-Age=0" in answer.headers["set-cookie"]


def test_an_outage_is_a_503_that_keeps_the_cookie(door: Door, token: str) -> None:
    with door.authority.outage():
        answer = door.ask("/", token, **PAGE)
        other = door.ask("/optional", token)
    assert (answer.status_code, other.status_code) == (503, 503)
    assert answer.headers["retry-after"] == "5"
    assert "set-cookie" not in answer.headers
    assert door.ask("/", token).status_code == 200


def test_an_optional_route_passes_without_a_session(door: Door) -> None:
    assert passed(door.ask("/optional")) == []
    assert passed(door.ask("/optional", "rubbish")) == []


def test_an_optional_route_gets_the_identity_of_a_session(
    door: Door, session: NewSession, token: str
) -> None:
    assert passed(door.ask("/optional", token)) == identity(session)


def test_a_route_can_require_a_recent_proof_of_identity(door: Door) -> None:
    now = datetime.now(UTC)
    with door.authority.client() as api:
        recent = api.create("mary", authenticate_time=now - timedelta(minutes=14)).token.reveal()
        old = api.create("mary", authenticate_time=now - timedelta(minutes=16)).token.reveal()
    assert door.ask("/recent", recent).status_code == 200
    page = door.ask("/recent?a=b", old, **PAGE)
    assert (page.status_code, page.headers["location"]) == (303, "/sign-in?next=%2Frecent%3Fa%3Db")
    assert "set-cookie" not in page.headers
    answer = door.ask("/recent", old, "POST")
    assert answer.status_code == 401
    assert 'max_age="900"' in answer.headers["www-authenticate"]


def test_a_route_can_require_a_method(door: Door, token: str) -> None:
    assert door.ask("/mfa", token, **PAGE).status_code == 403
    other = door.authority.sign_in("mary", authentication_methods=["pwd", "mfa"])
    assert door.ask("/mfa", other.token.reveal()).status_code == 200


def test_an_unknown_option_refuses_even_a_live_session(door: Door, token: str) -> None:
    assert door.ask("/misspelt", token).status_code in (500, 503)
    assert door.ask("/misspelt").status_code in (500, 503)


@pytest.mark.parametrize(
    "path",
    [
        "/a%2Fb",
        "//evil.example/a",
        "/a/../recentx",
        "/a/%2e%2e/b",
        "/%E2%82%AC",
        "/a%00b",
        "/?a=%",
        "/optional/../private",
        "/optional%2f..%2fprivate",
        "/a;b=c",
        "/*",
    ],
)
def test_an_unusual_path_needs_a_session_too(door: Door, token: str, path: str) -> None:
    refused = door.raw("Accept: text/html", request=f"GET {path} HTTP/1.1")
    if path.startswith("/optional%"):  # the site gets this path as it is, below /optional
        assert status_of(refused) in (200, 303, 400)
    else:
        assert status_of(refused) in (301, 303, 307, 308, 400)
    location = re.search(rb"\r\nlocation: (\S+)\r\n", refused, re.IGNORECASE)
    assert location is None or not location[1].startswith((b"//", b"http://evil"))
    allowed = door.raw(f"Cookie: {COOKIE}={token}", request=f"GET {path} HTTP/1.1")
    assert status_of(allowed) in (200, 301, 307, 308, 400)


def test_a_path_beyond_ascii_needs_a_session_too(door: Door, token: str) -> None:
    request = "GET /\u20ac?\u20ac HTTP/1.1"
    assert status_of(door.raw(request=request)) in (400, 401)
    assert status_of(door.raw(f"Cookie: {COOKIE}={token}", request=request)) in (200, 400)


def test_http_1_0_is_checked_too(door: Door, token: str) -> None:
    cookie = f"Cookie: {COOKIE}={token}"
    assert status_of(door.raw(cookie, request="GET / HTTP/1.0")) == 200
    assert status_of(door.raw(request="GET / HTTP/1.0")) == 401


def test_an_absolute_request_target_is_checked_too(door: Door, token: str) -> None:
    request = f"GET http://{HOST}/here HTTP/1.1"
    assert status_of(door.raw(f"Cookie: {COOKIE}={token}", request=request)) == 200
    refused = door.raw("Accept: text/html", request=request)
    assert status_of(refused) == 303
    assert b"location: /sign-in?next=%2fhere\r\n" in refused.lower()


def test_bodies_in_any_encoding_reach_the_site_only_with_a_session(door: Door, token: str) -> None:
    for chunked in (False, True):
        body = (b"a" * 100_000,) if chunked else b"a" * 100_000
        for cookie, status in ((f"{COOKIE}={token}", 200), ("", 401)):
            headers = {"host": HOST, "cookie": cookie, "content-encoding": "gzip"}
            answer = httpx.post(door.url, content=body, headers=headers, timeout=30, verify=False)
            assert answer.status_code == status


def test_huge_headers_do_no_harm(door: Door, token: str) -> None:
    cookie = f"Cookie: {COOKIE}={token}"
    assert status_of(door.raw(cookie, f"X-Large: {'a' * 4_000}")) == 200
    for size in (30_000, 200_000):
        with_session = door.raw(cookie, f"X-Large: {'a' * size}")
        without = door.raw(f"X-Large: {'a' * size}")
        assert not with_session or status_of(with_session) in (200, 400, 413, 431, 500, 503)
        assert not without or status_of(without) in (400, 401, 413, 431, 500, 503)


def test_a_websocket_opens_only_with_a_session(door: Door, token: str) -> None:
    upgrade = (
        f"GET /live HTTP/1.1\r\nHost: {HOST}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    )
    with socket.create_connection(door.address, timeout=30) as connection:
        connection.sendall(f"{upgrade}Cookie: {COOKIE}={token}\r\n\r\n".encode())
        stream = connection.makefile("rb")
        assert b" 101 " in stream.readline()
        while stream.readline() != b"\r\n":
            pass
        connection.sendall(b"frame")
        assert stream.read(5) == b"frame"
    with socket.create_connection(door.address, timeout=30) as connection:
        connection.sendall(f"{upgrade}\r\n".encode())
        assert b" 401 " in connection.makefile("rb").readline()


def test_all_cookies_of_the_name_are_tried(door: Door, token: str) -> None:
    ended = door.authority.sign_in("mary").token.reveal()
    with door.authority.client() as api:
        api.sign_out(ended)
    for cookies in (
        (f"Cookie: {COOKIE}={ended}; {COOKIE}={token}",),
        (f"Cookie: {COOKIE}={ended}", f"Cookie: {COOKIE}={token}"),
        ("Cookie: theme=dark", f"Cookie: {COOKIE}={token}"),
        (f'Cookie: {COOKIE}="{token}"',),
        (f'Cookie: a="b; c"; {COOKIE}={token}; d=',),
    ):
        assert status_of(door.raw(*cookies)) == 200, cookies
    for cookies in (
        (f"Cookie: {COOKIE.lower()}={token}",),
        (f"Cookie: auth_session={token}",),
        (f"Cookie: {COOKIE}={ended}", f"Cookie: theme={token}"),
    ):
        assert status_of(door.raw(*cookies)) == 401, cookies


def test_odd_bytes_in_headers_do_no_harm(door: Door, token: str) -> None:
    for odd in (b"X-Odd: \xff\xfe", b"User-Agent: \xc3(", b"Accept: \x80"):
        assert status_of(door.raw(odd, f"Cookie: {COOKIE}={token}")) in (200, 400)
        assert status_of(door.raw(odd)) in (400, 401)


def test_the_documented_configurations_need_at_most_10_lines() -> None:
    marked = re.compile(r"Session Authority: begin\n(.*?)\n[^\n]*Session Authority: end", re.DOTALL)
    files = [
        EXAMPLES / name
        for name in (
            "nginx/site.conf",
            "haproxy/haproxy.cfg",
            "caddy/Caddyfile",
            "traefik/site.yaml",
            "envoy/envoy.yaml",
        )
    ]
    for file in files:
        lines = [line for block in marked.findall(file.read_text()) for line in block.split("\n")]
        assert 1 <= len(lines) <= 10, file
