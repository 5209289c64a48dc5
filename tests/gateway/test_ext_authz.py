"""`Authorization/Check` on both hosts, with requests that Envoy never sends, and with each form that it does send."""

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager
from datetime import timedelta
from typing import Any

import grpc
import pytest

from session_authority import AsyncSessionClient
from session_authority.testing import Authority, authority
from session_authority_gateway import ext_authz
from session_authority_gateway.application import new_parts
from session_authority_gateway.envoy import external_auth_pb2 as pb
from session_authority_gateway.ext_authz import CHECK_LIMIT_BYTES, PACKAGE, Checks
from session_authority_gateway.gate import Gate
from session_authority_gateway.settings import load_gateway_settings
from session_authority_server.rpc.host import Health
from session_authority_server.rpc.host.grpcio import GrpcioHost
from session_authority_server.rpc.host.native import NativeHost
from tests.support.hosts import HOSTS
from tests.support.in_thread import LoopThread, loop_thread

Ask = Callable[[pb.CheckRequest | bytes], pb.CheckResponse]


@pytest.fixture(scope="module")
def running() -> Iterator[Authority]:
    with authority() as it:
        yield it


@pytest.fixture(scope="module")
def loop() -> Iterator[LoopThread]:
    with loop_thread() as it:
        yield it


@asynccontextmanager
async def serving(host_name: str, gate: Gate) -> AsyncIterator[str]:
    checks = Checks(gate)
    grpcio = GrpcioHost(checks, {}, Health(), package=PACKAGE)
    host = grpcio if host_name == "grpcio" else NativeHost(checks, grpcio)
    address = host.bind("127.0.0.1:0")
    await host.start()
    try:
        yield address
    finally:
        await host.stop(0)


@pytest.fixture(scope="module")
def gate(running: Authority, loop: LoopThread) -> Iterator[Gate]:
    with loop.during(AsyncSessionClient(running.address, near_cache=True)) as client:
        yield new_parts(load_gateway_settings(sign_in_url="/sign-in"), client).gate


@pytest.fixture(scope="module", params=HOSTS)
def ask(request: pytest.FixtureRequest, loop: LoopThread, gate: Gate) -> Iterator[Ask]:
    with ExitStack() as stack:
        address = stack.enter_context(loop.during(serving(request.param, gate)))
        channel = stack.enter_context(grpc.insecure_channel(address))
        call: Any = channel.unary_unary(f"/{PACKAGE}.Authorization/Check")

        def send(message: pb.CheckRequest | bytes) -> pb.CheckResponse:
            payload = message if isinstance(message, bytes) else message.SerializeToString()
            return pb.CheckResponse.FromString(call(payload, timeout=30))

        yield send


def a_request(*headers: tuple[str, bytes], **options: str) -> pb.CheckRequest:
    """Return a request as Envoy sends it with `encode_raw_headers`."""
    request = pb.CheckRequest()
    http = request.attributes.request.http
    http.method, http.path, http.host, http.scheme = "POST", "/", "shop.example", "https"
    for key, value in headers:
        http.header_map.headers.add(key=key, raw_value=value)
    request.attributes.context_extensions.update(options)
    request.attributes.source.address.socket_address.address = "203.0.113.7"
    return request


def status(response: pb.CheckResponse) -> int:
    """Return the HTTP status; 200 if the request may pass."""
    allows = response.status.code == 0 and response.HasField("ok_response")
    refuses = response.status.code != 0 and response.HasField("denied_response")
    assert allows != refuses
    return 200 if allows else response.denied_response.status.code


def set_headers(response: pb.CheckResponse) -> dict[str, bytes]:
    return {each.header.key: each.header.value for each in response.ok_response.headers}


@pytest.fixture
def cookie(running: Authority) -> bytes:
    return b"__Host-auth_session=" + running.sign_in("mary").token.reveal().encode()


@pytest.mark.parametrize(
    ("payload", "expected"),
    [
        (b"", 400),
        (b"\xff\xff\xff", 400),
        (b"\x0a\x02\x22\x00", 400),  # attributes with an empty request
        (b"\x0a\x05\x52\x03\x0a\x01\xff", 400),  # an option whose name is not UTF-8
        (b"\0" * (CHECK_LIMIT_BYTES + 1), 431),
        (b"\x0a\x0c\x52\x0a\x0a\x06sesion\x12\x00", 500),  # an unknown option, and no request
    ],
)
def test_bad_messages_are_refused(ask: Ask, payload: bytes, expected: int) -> None:
    assert status(ask(payload)) == expected


def test_a_request_without_any_address_or_header_is_refused(ask: Ask) -> None:
    request = pb.CheckRequest()
    request.attributes.request.http.method = "GET"
    assert status(ask(request)) == 401


@pytest.mark.parametrize(
    "options",
    [
        {"sesion": "optional"},
        {"session": "Optional"},
        {"session": ""},
        {"max_age": "soon"},
        {"max_age": "0s"},
        {"methods": ""},
        {"session": "optional", "methods": "mfa"},
        {"x" * 1000: "y"},
    ],
    ids=str,
)
def test_an_invalid_option_refuses_a_live_session(
    ask: Ask, cookie: bytes, options: dict[str, str]
) -> None:
    response = ask(a_request(("cookie", cookie), **options))
    assert status(response) == 500
    assert "option" in response.denied_response.body


def test_both_forms_of_headers_are_read(ask: Ask, cookie: bytes) -> None:
    raw = ask(a_request(("cookie", b"a=b"), ("cookie", cookie)))
    assert status(raw) == 200
    plain = a_request()
    plain.attributes.request.http.headers["cookie"] = b"a=b; " + cookie
    assert set_headers(ask(plain)) == set_headers(raw)
    assert set_headers(raw)["x-session-user-id"] == b"mary"


def test_identity_headers_from_outside_are_removed_in_every_spelling(
    ask: Ask, cookie: bytes
) -> None:
    forged = ["x-session-user-id", "x_session_user_id", "x-session_id", "x.session.user.id"]
    forged += ["x-session-actor-id"]
    names = [(name, b"eve") for name in forged]
    allowed = ask(a_request(("cookie", cookie), *names)).ok_response
    # Envoy removes names after it has set them. So the gateway overwrites the names that it sets.
    assert list(allowed.headers_to_remove) == forged[1:]
    assert {each.append_action for each in allowed.headers} == {
        pb.HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD
    }
    anonymous = ask(a_request(*names, session="optional")).ok_response
    assert list(anonymous.headers_to_remove) == forged
    assert not anonymous.headers


def test_a_response_with_names_from_outside_is_not_kept(ask: Ask, cookie: bytes) -> None:
    def kept() -> int:
        return ext_authz._kept.cache_info().currsize

    ask(a_request(("cookie", cookie)))
    before = kept()
    for name in ("x_session_user_id", "x-session_user-id", "x.session.user.id"):
        assert list(
            ask(a_request(("cookie", cookie), (name, b"eve"))).ok_response.headers_to_remove
        ) == [name]
    assert kept() == before > 0


@pytest.mark.parametrize(
    "odd", [b"\xff\xfe", b"\0", b"\r\nx-session-user-id: eve", b"\xc3\xa9" * 9]
)
@pytest.mark.parametrize(
    "name",
    ["cookie", "x-session-token", "authorization", "x-forwarded-for", "user-agent", "accept"],
)
def test_odd_bytes_are_refused_and_cause_no_failure(ask: Ask, name: str, odd: bytes) -> None:
    assert status(ask(a_request((name, odd)))) == 401
    assert status(ask(a_request((name, b"Bearer ses_" + odd)))) == 401


def test_the_client_is_the_peer_of_envoy_unless_that_is_a_trusted_proxy(
    ask: Ask, running: Authority
) -> None:
    def recorded(peer: str, forwarded: bytes) -> str | None:
        new = running.sign_in("ann", ip_address="192.0.2.9")
        token = ("x-session-token", new.token.reveal().encode())
        request = a_request(token, ("x-forwarded-for", forwarded))
        request.attributes.source.address.socket_address.address = peer
        running.advance(timedelta(minutes=2))  # the next use is recorded
        assert status(ask(request)) == 200
        running.advance(timedelta(0))  # writes what was recorded
        with running.client() as client:
            return client.list(new.token)[0].last_ip_address

    # Envoy appends its peer. A visitor can forge what is to the left.
    assert recorded("203.0.113.7", b"198.51.100.1,203.0.113.7") == "203.0.113.7"
    assert recorded("127.0.0.1", b"6.6.6.6, 198.51.100.1,127.0.0.1") == "198.51.100.1"


def test_a_dead_cookie_is_cleared_in_each_kind_of_answer(ask: Ask) -> None:
    page = (("accept", b"text/html"), ("sec-fetch-mode", b"navigate"))
    dead = ("cookie", b"__Host-auth_session=ses_dead")
    refused = a_request(dead, *page)
    refused.attributes.request.http.method = "GET"
    response = ask(refused).denied_response
    headers = [(each.header.key, each.header.value) for each in response.headers]
    assert response.status.code == 303
    assert [value for key, value in headers if key == "set-cookie"]
    allowed = ask(a_request(dead, *page, session="optional")).ok_response
    assert [each.header.key for each in allowed.response_headers_to_add] == ["set-cookie"]


def test_a_failure_of_the_gateway_refuses_the_request(
    ask: Ask, cookie: bytes, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("a fault")

    for method in ("ask", "check_cached"):
        monkeypatch.setattr(gate, method, fail)
        response = ask(a_request(("cookie", cookie)))
        assert status(response) == 500
        assert "a fault" not in response.denied_response.body


def test_too_many_checks_at_once_are_answered_as_an_outage(
    ask: Ask, cookie: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ext_authz, "CHECKS_LIMIT", 0)
    response = ask(a_request(("cookie", cookie)))
    assert status(response) == 503
    headers = {each.header.key: each.header.value for each in response.denied_response.headers}
    assert headers["retry-after"] == b"5"
