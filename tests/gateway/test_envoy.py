"""Behaviour that only Envoy has, configured as in `docs/use/envoy.md` and `examples/proxies/envoy/envoy.yaml`.

`test_proxies.py` has the cases that all proxies share.
"""

import json
import re
import socket
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
import yaml

from session_authority import AsyncSessionClient, NewSession
from session_authority.testing import Authority, authority
from session_authority_gateway.serving import serving
from session_authority_gateway.settings import load_gateway_settings
from tests.support import envoy as envoys
from tests.support.in_thread import LoopThread, loop_thread
from tests.support.upstream import upstream

pytestmark = pytest.mark.skipif(envoys.program() is None, reason="Envoy is not installed")

PAGE = {"accept": "text/html", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}
ECHO = "/benchmark.Echo/Echo"
DOCUMENT = Path(__file__).parents[2] / "docs" / "use" / "envoy.md"


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


def documented_routes() -> list[dict[str, Any]]:
    found = re.search(r'```yaml title="routes"\n(.*?)```', DOCUMENT.read_text(), re.DOTALL)
    assert found is not None
    routes: list[dict[str, Any]] = yaml.safe_load(found[1])
    return routes


@dataclass(frozen=True)
class Door:
    """An authority, Envoy, the site behind it, and the gateway's gRPC port."""

    authority: Authority
    address: str
    loop: LoopThread
    site: str
    gateway: str

    def get(
        self, path: str, token: str, headers: Mapping[str, str] | None = None
    ) -> httpx.Response:
        given = {"host": "shop.example", "cookie": f"__Host-auth_session={token}"}
        return httpx.get(
            f"http://{self.address}{path}", headers=given | dict(headers or {}), verify=False
        )

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
                routes=[*documented_routes(), envoys.route(ECHO, cluster="grpc")],
                grpc_upstream=echo,
            )
        )
        yield Door(running, address, loop, site, gateway.grpc_address)


@pytest.fixture
def session(door: Door) -> NewSession:
    return door.authority.sign_in("mary", authentication_methods=["pwd"])


def identity(new: NewSession) -> list[str]:
    time = new.session.authenticate_time.isoformat().replace("+00:00", "Z")
    return [
        f"x-session-authenticate-time: {time}",
        "x-session-authentication-methods: pwd",
        f"x-session-id: {new.session.session_id}",
        f"x-session-user-id: {new.session.user_id}",
    ]


def test_a_live_session_passes_with_only_the_gateways_identity_headers(
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


def test_a_documented_route_passes_without_a_session_and_clears_its_cookie(door: Door) -> None:
    answer = door.get("/help", "ses_dead", PAGE)
    assert answer.status_code == 200
    assert "x-session-" not in answer.text
    [cleared] = answer.headers.get_list("set-cookie")
    assert cleared.startswith("__Host-auth_session=; Path=/; Max-Age=0; ")


def test_a_documented_route_requires_a_method_and_a_recent_proof(door: Door) -> None:
    password = door.authority.sign_in("mary", authentication_methods=["pwd"])
    assert door.get("/account", password.token.reveal()).status_code == 403
    token = door.authority.sign_in("mary", authentication_methods=["pwd", "mfa"]).token.reveal()
    assert door.get("/account", token).status_code == 200
    door.authority.advance(timedelta(minutes=16))
    answer = door.get("/account", token)
    assert (answer.status_code, answer.json()["error"]) == (401, "reauthentication_required")


def test_a_site_works_without_raw_headers(door: Door, tmp_path: Path, session: NewSession) -> None:
    with envoys.envoy(
        tmp_path,
        upstream=door.site,
        gateway=door.gateway,
        filter_changes={"encode_raw_headers": False},
    ) as address:
        other = replace(door, address=address)
        token = session.token.reveal()
        assert other.get("/", token).status_code == 200
        assert other.get("/", "ses_dead").status_code == 401
        # Envoy joins several `Cookie` headers with commas, so the gateway may find no session.
        cookies = f"Cookie: __Host-auth_session={token}\r\nCookie: a=b\r\n"
        request = f"GET / HTTP/1.1\r\nHost: a.example\r\nConnection: close\r\n{cookies}\r\n"
        assert other.raw(request.encode()).startswith(b"HTTP/1.1 401 ")


def test_nothing_passes_while_the_gateway_is_down(tmp_path: Path, door: Door) -> None:
    with envoys.envoy(tmp_path, upstream=door.site, gateway="127.0.0.1:1") as address:
        assert httpx.get(f"http://{address}/").status_code == 503
