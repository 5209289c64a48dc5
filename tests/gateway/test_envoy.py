"""Real Envoy, configured as documented, in front of a site that knows nothing about sessions."""

import json
import re
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest

from session_authority import AsyncSessionClient, NewSession
from session_authority.testing import Authority, authority
from session_authority_gateway.serving import serving
from session_authority_gateway.settings import load_gateway_settings
from tests.support import envoy as envoys
from tests.support.in_thread import LoopThread, loop_thread
from tests.support.upstream import upstream
from tests.support.waiting import wait_until

pytestmark = pytest.mark.skipif(envoys.program() is None, reason="Envoy is not installed")

PAGE = {"accept": "text/html", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}
ECHO = "/benchmark.Echo/Echo"
ROUTES = (
    envoys.route("/optional", session="optional"),
    envoys.route("/recent", max_age="15m"),
    envoys.route("/mfa", methods="mfa,hwk"),
    envoys.route("/misspelt", sesion="optional"),
    envoys.route(ECHO, cluster="grpc"),
)


@asynccontextmanager
async def echoing() -> AsyncIterator[str]:
    """Serve a gRPC method that answers with the metadata of the call."""

    async def echo(_request: bytes, context: Any) -> bytes:
        return json.dumps(
            [(key, value) for key, value in context.invocation_metadata() if key != "user-agent"]
        ).encode()

    server = grpc.aio.server()
    method: Any = grpc.unary_unary_rpc_method_handler(echo)
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("benchmark.Echo", {"Echo": method}),)
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


class Door:
    """An authority, a gateway, Envoy and a site."""

    def __init__(self, authority: Authority, address: str, loop: LoopThread) -> None:
        self.authority = authority
        self.address = address
        self.loop = loop

    def get(self, path: str, token: str = "", **headers: str) -> httpx.Response:
        return self.send("GET", path, token, headers)

    def send(self, method: str, path: str, token: str, headers: dict[str, str]) -> httpx.Response:
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        if token:
            given["cookie"] = f"__Host-auth_session={token}"
        return httpx.request(method, f"http://{self.address}{path}", headers=given)

    def raw(self, request: bytes) -> bytes:
        """Send bytes, and return everything that Envoy sends until it closes the connection."""
        host, _, port = self.address.rpartition(":")
        with socket.create_connection((host, int(port)), timeout=30) as connection:
            connection.sendall(request)
            received = b""
            while data := connection.recv(65536):
                received += data
        return received


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    with ExitStack() as stack:
        running = stack.enter_context(authority())
        loop = stack.enter_context(loop_thread())
        site = stack.enter_context(loop.during(upstream()))
        echo = stack.enter_context(loop.during(echoing()))
        client = AsyncSessionClient(running.address, near_cache=True)
        stack.enter_context(loop.during(client))
        settings = load_gateway_settings(
            listen="127.0.0.1:0", grpc_listen="127.0.0.1:0", sign_in_url="/sign-in"
        )
        gateway = stack.enter_context(loop.during(serving(settings, client=client)))
        address = stack.enter_context(
            envoys.envoy(
                tmp_path_factory.mktemp("envoy"),
                upstream=site,
                gateway=gateway.grpc_address,
                routes=ROUTES,
                grpc_upstream=echo,
            )
        )
        yield Door(running, address, loop)


@pytest.fixture
def session(door: Door) -> NewSession:
    return door.authority.sign_in("mary", authentication_methods=["pwd"])


def received(response: httpx.Response) -> list[str]:
    """Return the lines with identity headers that reached the site, in any spelling."""
    assert response.status_code == 200, response.text
    lines = response.text.splitlines()
    return sorted(line for line in lines if re.match(r"x.session.", line.lower()))


def identity(new: NewSession) -> list[str]:
    time = new.session.authenticate_time.isoformat().replace("+00:00", "Z")
    return [
        f"x-session-authenticate-time: {time}",
        "x-session-authentication-methods: pwd",
        f"x-session-id: {new.session.session_id}",
        f"x-session-user-id: {new.session.user_id}",
    ]


def test_a_live_session_passes_with_the_identity_headers_alone(
    door: Door, session: NewSession
) -> None:
    forged = (
        "X-Session-User-Id: eve\r\nx-session-user-id: eve\r\nX_SESSION_USER_ID: eve\r\n"
        "X-Session_Id: eve\r\nX.Session.User.Id: eve\r\nX-Session-Actor-Id: eve\r\n"
    )
    answer = door.raw(
        f"GET /a?b=c HTTP/1.1\r\nHost: shop.example\r\nConnection: close\r\n{forged}"
        f"Cookie: __Host-auth_session={session.token.reveal()}\r\n\r\n".encode()
    )
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert b"eve" not in answer
    lines = answer.decode().split("\r\n")
    assert sorted(line for line in lines if line.startswith("x-session")) == identity(session)


@pytest.mark.parametrize("name", ["x-session-token", "authorization"])
def test_a_program_may_send_the_token_in_a_header(
    door: Door, session: NewSession, name: str
) -> None:
    token = session.token.reveal()
    value = token if name == "x-session-token" else f"Bearer {token}"
    answer = door.send("POST", "/", "", {name: value})
    assert [line for line in received(answer) if "token" not in line] == identity(session)


def test_a_page_is_redirected_to_the_sign_in_page(door: Door) -> None:
    answer = door.send("GET", "/basket?item=1", "", PAGE)
    assert answer.status_code == 303
    assert answer.headers["location"] == "/sign-in?next=%2Fbasket%3Fitem%3D1"
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["vary"] == "Cookie, Authorization, X-Session-Token"


def test_other_requests_get_401_as_json(door: Door) -> None:
    answer = door.send("POST", "/basket", "", {})
    assert answer.status_code == 401
    assert answer.json()["error"] == "session_required"
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["www-authenticate"] == "Bearer"


def test_a_revoked_session_is_refused_on_a_kept_connection(door: Door, session: NewSession) -> None:
    token = session.token.reveal()
    with httpx.Client(base_url=f"http://{door.address}") as browser, door.authority.client() as api:
        headers = {"host": "shop.example", "cookie": f"__Host-auth_session={token}"}
        assert browser.get("/", headers=headers).status_code == 200
        api.sign_out(token)
        wait_until(lambda: browser.get("/", headers=headers).status_code == 401, seconds=3.1)
        answer = browser.get("/", headers=headers | PAGE)
    assert answer.status_code == 303
    cleared = answer.headers.get_list("set-cookie")
    assert [each.partition(";")[0] for each in cleared] == ["__Host-auth_session="]
    assert "Max-Age=0" in cleared[0]


def test_an_outage_answers_503_and_keeps_the_cookie(door: Door, session: NewSession) -> None:
    with door.authority.outage():
        answer = door.send("GET", "/", session.token.reveal(), PAGE)
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "5"
    assert "set-cookie" not in answer.headers


def test_a_route_with_an_optional_session_passes_without_one(door: Door) -> None:
    answer = door.send("GET", "/optional", "", {"x-session-user-id": "eve", "x_session_id": "eve"})
    assert received(answer) == []


def test_a_route_with_an_optional_session_gets_the_identity(
    door: Door, session: NewSession
) -> None:
    assert received(door.get("/optional", session.token.reveal())) == identity(session)


def test_a_route_can_require_a_recent_proof_of_identity(door: Door, session: NewSession) -> None:
    token = session.token.reveal()
    assert received(door.get("/recent", token)) == identity(session)
    door.authority.advance(timedelta(minutes=16))
    page = door.send("GET", "/recent", token, PAGE)
    assert (page.status_code, page.headers["location"]) == (303, "/sign-in?next=%2Frecent")
    answer = door.send("POST", "/recent", token, {})
    assert (answer.status_code, answer.json()["error"]) == (401, "reauthentication_required")


def test_a_route_can_require_an_authentication_method(door: Door, session: NewSession) -> None:
    answer = door.get("/mfa", session.token.reveal())
    assert (answer.status_code, answer.json()["error"]) == (403, "method_required")
    other = door.authority.sign_in("mary", authentication_methods=["pwd", "mfa"])
    assert door.get("/mfa", other.token.reveal()).status_code == 200


def test_a_misspelt_option_refuses_even_a_live_session(door: Door, session: NewSession) -> None:
    answer = door.get("/misspelt", session.token.reveal())
    assert answer.status_code == 500
    assert "'sesion' is not an option; did you mean session?" in answer.json()["message"]


def test_a_websocket_opens_with_a_live_session_alone(door: Door, session: NewSession) -> None:
    upgrade = (
        "GET /live HTTP/1.1\r\nHost: shop.example\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    )
    host, _, port = door.address.rpartition(":")
    cookie = f"Cookie: __Host-auth_session={session.token.reveal()}\r\n"
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        connection.sendall(f"{upgrade}{cookie}\r\n".encode())
        stream = connection.makefile("rb")
        assert stream.readline() == b"HTTP/1.1 101 Switching Protocols\r\n"
        while stream.readline() != b"\r\n":
            pass
        connection.sendall(b"frame")
        assert stream.read(5) == b"frame"
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        connection.sendall(f"{upgrade}\r\n".encode())
        assert connection.makefile("rb").readline() == b"HTTP/1.1 401 Unauthorized\r\n"


def test_http_1_0_is_checked_too(door: Door, session: NewSession) -> None:
    cookie = f"Cookie: __Host-auth_session={session.token.reveal()}\r\n"
    answer = door.raw(f"GET / HTTP/1.0\r\nHost: shop.example\r\n{cookie}\r\n".encode())
    assert answer.startswith((b"HTTP/1.0 200 ", b"HTTP/1.1 200 "))
    assert b"x-session-user-id: mary\r\n" in answer
    refused = door.raw(b"GET / HTTP/1.0\r\nHost: shop.example\r\n\r\n")
    assert refused.split()[1] == b"401"


def test_several_cookies_and_cookie_headers_are_all_read(door: Door, session: NewSession) -> None:
    token = session.token.reveal()
    dead = door.authority.sign_in("mary")
    with door.authority.client() as api:
        api.sign_out(dead.token)
    for cookies in (
        f"Cookie: __Host-auth_session={dead.token.reveal()}; __Host-auth_session={token}",
        f"Cookie: __Host-auth_session={dead.token.reveal()}\r\nCookie: __Host-auth_session={token}",
        f"Cookie: theme=dark\r\nCookie: __Host-auth_session={token}",
    ):
        answer = door.raw(
            f"GET / HTTP/1.1\r\nHost: a.example\r\nConnection: close\r\n{cookies}\r\n\r\n".encode()
        )
        assert answer.startswith(b"HTTP/1.1 200 "), cookies
        assert b"x-session-user-id: mary\r\n" in answer


def test_odd_bytes_in_headers_do_no_harm(door: Door, session: NewSession) -> None:
    cookie = b"Cookie: __Host-auth_session=" + session.token.reveal().encode()
    for odd in (
        b"X-Odd: \xff\xfe",
        b"User-Agent: \xc3(",
        b"Accept: \x80",
        b"X-Forwarded-For: \xff",
    ):
        request = b"GET / HTTP/1.1\r\nHost: a.example\r\nConnection: close\r\n" + odd
        assert door.raw(request + b"\r\n" + cookie + b"\r\n\r\n").startswith(b"HTTP/1.1 200 ")
        assert door.raw(request + b"\r\n\r\n").startswith(b"HTTP/1.1 401 ")


def test_a_grpc_client_gets_a_grpc_status(door: Door, session: NewSession) -> None:
    with grpc.insecure_channel(door.address) as channel:
        call: Any = channel.unary_unary(ECHO)
        with pytest.raises(grpc.RpcError) as refused:
            call(b"", timeout=30)
        assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
        token = ("x-session-token", session.token.reveal())
        forged = (("x-session-user-id", "eve"), ("x_session_user_id", "eve"))
        metadata = dict(json.loads(call(b"", timeout=30, metadata=(token, *forged))))
        assert metadata["x-session-user-id"] == "mary"
        assert "x_session_user_id" not in metadata
        token = ("x-session-token", door.authority.sign_in("ann").token.reveal())
        with door.authority.outage(), pytest.raises(grpc.RpcError) as unavailable:
            call(b"", timeout=30, metadata=(token,))
        assert unavailable.value.code() is grpc.StatusCode.UNAVAILABLE


def test_nothing_passes_while_the_gateway_is_down(tmp_path: Path, door: Door) -> None:
    with (
        door.loop.during(upstream()) as site,
        envoys.envoy(tmp_path, upstream=site, gateway="127.0.0.1:1") as address,
    ):
        assert httpx.get(f"http://{address}/").status_code == 503
