"""The JSON API over HTTP, in front of a real authority: its answers, its errors and its limits."""

import gzip
import re
import socket
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from session_authority_gateway import json_api
from session_authority_server.domain.errors import StoreUnavailable
from session_authority_server.rpc.methods import METHODS, REQUEST_LIMIT_BYTES
from tests.support.json_gateway import SERVICE, JsonGateway, details_of, json_gateway

WATCH = "/session_authority.v1.SessionWatchService/WatchSessions"
ADMIN = "/session_authority.v1.SessionAdminService/"
JSON = "application/json"
UNARY = [path for path, method in METHODS.items() if not method.streams]


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[JsonGateway]:
    with json_gateway(tmp_path_factory.mktemp("gateway")) as running:
        yield running


def refused(answer: httpx.Response, status: int, code: str) -> str:
    """Check an error in the form of Connect, and return its message."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == JSON
    assert answer.headers["cache-control"] == "no-store"
    body = answer.json()
    assert body["code"] == code
    assert set(body) <= {"code", "message", "details"}
    return str(body["message"])


def test_a_session_begins_and_ends_through_json(gateway: JsonGateway) -> None:
    created = gateway.sign_in(
        "ada",
        userAgent="curl/8.5.0",
        ipAddress="203.0.113.7",
        authenticateTime=datetime.now(UTC).isoformat(),
        authenticationMethods=["pwd"],
        lifetime="3600s",
        attributes={"team": "blue"},
    )
    token, session = created["sessionToken"], created["session"]
    assert session["device"]["displayName"] == "curl"
    assert session["attributes"] == {"team": "blue"}
    lifetime = datetime.fromisoformat(session["expireTime"]) - datetime.fromisoformat(
        session["createTime"]
    )
    assert lifetime == timedelta(hours=1)
    assert gateway.call("ValidateSession", sessionToken=token)["session"]["userId"] == "ada"
    listed = gateway.call("ListSessions", sessionToken=token)
    assert (listed["totalSize"], listed["nextPageToken"]) == (1, "")
    assert listed["sessions"][0]["current"] is True
    revoked = gateway.call("RevokeSession", sessionToken=token, sessionId=session["sessionId"])
    assert revoked["session"]["state"] == "SESSION_STATE_ENDED"
    assert revoked["alreadyEnded"] is False
    assert datetime.fromisoformat(revoked["effectiveTime"]) > datetime(2026, 1, 1, tzinfo=UTC)
    assert gateway.call("ValidateSession", sessionToken=token) == {
        "rejection": {"reason": "REJECTION_REASON_SIGNED_OUT"}
    }


def test_a_retry_secret_is_base64_and_makes_a_repetition_safe(gateway: JsonGateway) -> None:
    secret = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="
    first, second = (gateway.sign_in("rita", retrySecret=secret) for _ in range(2))
    assert first == second


@pytest.mark.parametrize("path", UNARY)
def test_every_unary_method_is_served(gateway: JsonGateway, path: str) -> None:
    answer = gateway.post(path, {})
    assert answer.status_code in (200, 400, 401, 404), answer.text
    assert "code" not in answer.json() or answer.json()["code"] != "unimplemented"
    no_key = gateway.post(path, {}, {"authorization": ""})
    refused(no_key, 401, "unauthenticated")


@pytest.mark.parametrize("verb", ["GET", "HEAD", "PUT", "OPTIONS", "DELETE", "TRACE"])
def test_only_post_makes_a_call(gateway: JsonGateway, verb: str) -> None:
    answer = httpx.request(verb, gateway.url + SERVICE + "SignOut", verify=False)
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
    assert "access-control-allow-origin" not in answer.headers
    assert bool(answer.content) == (verb != "HEAD")


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/verify",
        "/session_authority.v1.SessionService",
        SERVICE,
        SERVICE + "CreateSession/",
        SERVICE + "createSession",
        SERVICE + "..%2fSessionAdminService/EraseUser",
        "/" + SERVICE + "CreateSession",
        "/grpc.health.v1.Health/Check",
        "/session_authority.v2.SessionService/CreateSession",
        "/%00",
        "/é",
        SERVICE + "%43reateSession",
        "/session_authority.v1.SessionService%2fCreateSession",
    ],
)
def test_an_unknown_method_is_not_found(gateway: JsonGateway, path: str) -> None:
    message = refused(gateway.post(path, {}), 404, "unimplemented")
    assert message == "there is no such method; GET /openapi.json lists them"


def test_a_stream_is_not_implemented(gateway: JsonGateway) -> None:
    message = refused(gateway.post(WATCH, {}), 501, "unimplemented")
    assert message == "WatchSessions is a stream, which the JSON API lacks; call it by gRPC"


@pytest.mark.parametrize(
    "content_type",
    [
        "",
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "application/json; charset=latin-1",
        "application/json, text/plain",
        "application/jsonx",
        "application/proto",
        "application/connect+json",
        "application/grpc",
    ],
)
def test_another_content_type_is_refused_with_the_right_one(
    gateway: JsonGateway, content_type: str
) -> None:
    answer = gateway.post("SignOut", {}, {"content-type": content_type})
    message = refused(answer, 415, "invalid_argument")
    assert message == "send the request as JSON, with the header Content-Type: application/json"
    assert answer.headers["accept-post"] == JSON


@pytest.mark.parametrize(
    "content_type",
    [JSON, "Application/JSON", "application/json;charset=utf-8", JSON + '; charset="UTF-8"'],
)
def test_json_may_name_its_charset(gateway: JsonGateway, content_type: str) -> None:
    assert gateway.post("SignOut", {}, {"content-type": content_type}).status_code == 200


@pytest.mark.parametrize("coding", ["gzip", "br", "deflate", "identity, gzip", "x"])
def test_a_compressed_body_is_refused_unread(gateway: JsonGateway, coding: str) -> None:
    bomb = gzip.compress(b" " * 10_000_000)
    answer = gateway.post("SignOut", bomb, {"content-encoding": coding})
    message = refused(answer, 415, "unimplemented")
    assert message == "send the request uncompressed, without the header Content-Encoding"
    assert answer.headers["accept-encoding"] == "identity"


@pytest.mark.parametrize(
    ("header", "value", "status"),
    [
        ("connect-protocol-version", "1", 200),
        ("connect-protocol-version", "2", 400),
        ("connect-timeout-ms", "30000", 200),
        ("connect-timeout-ms", "9999999999", 200),
        ("connect-timeout-ms", "99999999999", 400),
        ("connect-timeout-ms", "-1", 400),
        ("connect-timeout-ms", "1e3", 400),
        ("connect-timeout-ms", "٣", 400),
        ("connect-timeout-ms", "", 400),
        ("connect-timeout-ms", "0", 504),
    ],
)
def test_the_headers_of_the_protocol(
    gateway: JsonGateway, header: str, value: str, status: int
) -> None:
    answer = gateway.post("SignOut", {}, {header: value.encode()})  # type: ignore[dict-item]
    assert answer.status_code == status
    if status == 400:
        [_, fields] = details_of(answer)
        [violation] = fields["fieldViolations"]
        assert violation["field"].lower() == header
    if status == 504:
        assert answer.json()["code"] == "deadline_exceeded"
        assert answer.headers["retry-after"] == "1"


def test_an_error_has_its_details_and_its_request_id(gateway: JsonGateway) -> None:
    token = gateway.sign_in("eve")["sessionToken"]
    answer = gateway.post(
        "RevokeSession", {"sessionToken": token, "sessionId": "mine"}, {"x-request-id": "order-7"}
    )
    assert "session_id: is not a session id" in refused(answer, 400, "invalid_argument")
    assert answer.headers["x-request-id"] == "order-7"
    info, fields = details_of(answer)
    assert info == {"reason": "INVALID_FIELD", "domain": "session-authority"}
    assert fields["fieldViolations"][0]["field"] == "session_id"
    assert [each["type"] for each in answer.json()["details"]] == [
        "google.rpc.ErrorInfo",
        "google.rpc.BadRequest",
    ]


def test_an_unknown_field_gets_the_same_form_of_error(gateway: JsonGateway) -> None:
    answer = gateway.post("SignOut", {"token": "x"}, {"x-request-id": "order-8"})
    assert refused(answer, 400, "invalid_argument").startswith("token: is not a field of")
    assert answer.headers["x-request-id"] == "order-8"
    assert details_of(answer)[0]["reason"] == "INVALID_FIELD"


def test_a_body_that_is_not_json_gets_the_same_form_of_error(gateway: JsonGateway) -> None:
    answer = gateway.post("SignOut", b"{")
    assert "it is not JSON at line 1, column 2" in refused(answer, 400, "invalid_argument")
    assert details_of(answer)[0]["reason"] == "MALFORMED_REQUEST"
    assert re.fullmatch("[0-9a-f]{32}", answer.headers["x-request-id"])


KEYS = {
    "none": ("", "API_KEY_MISSING"),
    "another scheme": ("Basic c2Fr", "API_KEY_INVALID"),
    "unknown": ("Bearer sak_" + "a" * 70, "API_KEY_INVALID"),
    "not ASCII": ("Bearer sak_é", "API_KEY_INVALID"),
    "a tab": ("Bearer sak_\tx", "API_KEY_INVALID"),
    "too long": ("Bearer " + "a" * 4_000, "API_KEY_INVALID"),
    "two": ("Bearer {key}, Bearer {key}", "API_KEY_INVALID"),
    "a session token": ("Bearer ses_" + "a" * 70, "API_KEY_INVALID"),
}


@pytest.mark.parametrize("kind", KEYS)
def test_a_call_needs_the_callers_own_key(gateway: JsonGateway, kind: str) -> None:
    header, reason = KEYS[kind]
    value: Any = header.replace("{key}", gateway.key).encode()
    headers = {"content-type": JSON} | ({"authorization": value} if value else {})
    answer = httpx.post(gateway.url + SERVICE + "SignOut", json={}, headers=headers, verify=False)
    refused(answer, 401, "unauthenticated")
    assert answer.headers["www-authenticate"] == "Bearer"
    assert details_of(answer)[0]["reason"] == reason
    assert gateway.key not in answer.text


def test_the_size_limit_of_a_request_is_that_of_grpc(gateway: JsonGateway) -> None:
    small, large = (
        b" " * (size - 2) + b"{}" for size in (REQUEST_LIMIT_BYTES, REQUEST_LIMIT_BYTES + 1)
    )
    assert gateway.post("SignOut", small).status_code == 200
    answer = gateway.post("SignOut", large)
    message = refused(answer, 429, "resource_exhausted")
    assert message == f"the request is larger than {REQUEST_LIMIT_BYTES} bytes"
    assert details_of(answer)[0]["metadata"] == {"limit_bytes": str(REQUEST_LIMIT_BYTES)}
    assert "retry-after" not in answer.headers
    assert gateway.post("BatchValidateSessions", large).status_code == 400  # empty, not too large


def test_a_chunked_request_ends_at_the_limit(gateway: JsonGateway) -> None:
    head = _head(gateway, "SignOut", "Transfer-Encoding: chunked")
    chunk = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
    with _connected(gateway) as connection:
        connection.sendall(head + chunk + chunk)
        answer = _answer(connection)
    assert answer.startswith(b"HTTP/1.1 429 ")
    assert b"REQUEST_TOO_LARGE" in answer


def test_a_batch_of_a_thousand_fits(gateway: JsonGateway) -> None:
    token = gateway.sign_in("bea")["sessionToken"]
    request = {"sessionToken": token, "ipAddress": "2001:db8::1", "userId": "bea"}
    responses = gateway.call("BatchValidateSessions", requests=[request] * 1_000)["responses"]
    assert len(responses) == 1_000
    assert {each["session"]["userId"] for each in responses} == {"bea"}


def test_a_caller_that_leaves_gets_no_answer_and_harms_nothing(gateway: JsonGateway) -> None:
    with _connected(gateway) as connection:
        connection.sendall(_head(gateway, "SignOut", "Content-Length: 100") + b"{")
    assert gateway.call("SignOut", sessionToken="x")


def test_a_body_that_does_not_arrive_times_out(
    gateway: JsonGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(json_api, "BODY_SECONDS", 0.05)
    with _connected(gateway) as connection:
        connection.sendall(_head(gateway, "SignOut", "Content-Length: 100") + b"{")
        assert _answer(connection).startswith(b"HTTP/1.1 504 ")


@pytest.mark.parametrize("limit", ["CALLS_LIMIT", "BODIES_LIMIT_BYTES"])
def test_above_its_limits_the_gateway_is_overloaded(
    gateway: JsonGateway, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    monkeypatch.setattr(json_api, limit, 0)
    answer = gateway.post("SignOut", {})
    refused(answer, 429, "resource_exhausted")
    assert answer.headers["retry-after"] == "1"
    assert details_of(answer)[0]["reason"] == "SERVER_OVERLOADED"
    monkeypatch.undo()
    assert gateway.post("SignOut", {}).status_code == 200


def test_an_outage_of_the_store_is_unavailable(gateway: JsonGateway) -> None:
    token = gateway.sign_in("oscar")["sessionToken"]
    store = gateway.threaded.authority.store
    store.failure = StoreUnavailable("reading")
    try:
        answer = gateway.post("ValidateSession", {"sessionToken": token})
    finally:
        store.failure = None
    refused(answer, 503, "unavailable")
    assert answer.headers["retry-after"] == "1"
    assert details_of(answer)[0]["reason"] == "STORE_UNAVAILABLE"
    assert "session" in gateway.call("ValidateSession", sessionToken=token)


def test_nothing_secret_is_logged_or_repeated(
    gateway: JsonGateway, capfd: pytest.CaptureFixture[str]
) -> None:
    token = gateway.sign_in("sam")["sessionToken"]
    answers = [
        gateway.post("ListSessions", {"pageSize": token}),
        gateway.post("ListSessions", {token: 1}),
        gateway.post("ListSessions", {"sessionToken": token, "pageToken": token}),
        gateway.post("ListSessions", f'{{"sessionToken": "{token}'.encode()),
        gateway.post(f"/{token}", {}),
        gateway.post("ListSessions", {}, {"x-request-id": f"{token} {token}"}),
    ]
    out, err = capfd.readouterr()
    for text in (out, err, *(each.text + str(each.headers) for each in answers)):
        assert token not in text
        assert gateway.key not in text


def _connected(gateway: JsonGateway) -> "closing[socket.socket]":
    url = urlsplit(gateway.url)
    assert url.hostname
    assert url.port
    return closing(socket.create_connection((url.hostname, url.port), timeout=60))


def _head(gateway: JsonGateway, method: str, length: str) -> bytes:
    return (
        f"POST {SERVICE}{method} HTTP/1.1\r\nHost: x\r\nContent-Type: {JSON}\r\n"
        f"Authorization: Bearer {gateway.key}\r\n{length}\r\n\r\n"
    ).encode()


def _answer(connection: socket.socket) -> bytes:
    """Return the status line and the body of an answer."""
    with connection.makefile("rb") as file:
        status = file.readline()
        length = 0
        while (line := file.readline()) != b"\r\n":
            name, _, value = line.partition(b":")
            if name == b"content-length":
                length = int(value)
        return status + file.read(length)
