"""The OpenAPI description is valid, complete, and true of what the gateway really answers."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator

from session_authority_server.rpc.methods import METHODS
from tests.support.json_gateway import JsonGateway, json_gateway

FILE = Path(__file__).parents[2] / "docs" / "reference" / "openapi.json"
DOCUMENT: dict[str, Any] = json.loads(FILE.read_text())
SESSION_SERVICE = "/session_authority.v1.SessionService/"
EVENT_SERVICE = "/session_authority.v1.SessionEventService/"
ADMIN_SERVICE = "/session_authority.v1.SessionAdminService/"


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[JsonGateway]:
    with json_gateway(tmp_path_factory.mktemp("gateway")) as running:
        yield running


def check(value: object, schema: dict[str, Any]) -> None:
    """Check a value against a schema of the description."""
    whole = schema | {"components": DOCUMENT["components"]}
    validator = jsonschema.Draft202012Validator(
        whole, format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER
    )
    validator.validate(value)


def operation(path: str) -> dict[str, Any]:
    described: dict[str, Any] = DOCUMENT["paths"][path]["post"]
    return described


def content(part: dict[str, Any]) -> dict[str, Any]:
    schema: dict[str, Any] = part["content"]["application/json"]["schema"]
    return schema


def test_the_description_is_valid() -> None:
    OpenAPIV31SpecValidator(DOCUMENT).validate()


def test_every_unary_method_is_described_and_no_stream() -> None:
    unary = {path for path, method in METHODS.items() if not method.streams}
    assert set(DOCUMENT["paths"]) == unary
    tags = {each["name"] for each in DOCUMENT["tags"]}
    for path in unary:
        assert operation(path)["tags"][0] in tags
        assert "Permission: `" in operation(path)["description"]


def test_what_no_method_uses_is_left_out() -> None:
    text = FILE.read_text()
    for name in DOCUMENT["components"]["schemas"]:
        assert f'"$ref": "#/components/schemas/{name}"' in text, name
    assert "Evict" not in DOCUMENT["components"]["schemas"]


def test_the_gateway_serves_the_description(gateway: JsonGateway) -> None:
    answer = httpx.get(f"{gateway.url}/openapi.json")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
    assert answer.content == FILE.read_bytes()
    head = httpx.head(f"{gateway.url}/openapi.json")
    assert (head.content, head.headers["content-length"]) == (b"", str(len(answer.content)))
    refused = httpx.post(f"{gateway.url}/openapi.json")
    assert (refused.status_code, refused.headers["allow"]) == (405, "GET, HEAD")


def test_requests_and_answers_are_as_described(gateway: JsonGateway) -> None:
    described: set[str] = set()

    def call(path: str, **request: Any) -> Any:
        described.add(path)
        check(request, content(operation(path)["requestBody"]))
        answer = gateway.post(path, request)
        assert answer.status_code == 200, answer.text
        check(answer.json(), content(operation(path)["responses"]["200"]))
        return answer.json()

    created, other = (
        call(
            SESSION_SERVICE + "CreateSession",
            userId="olga",
            userAgent="curl/8.5.0",
            ipAddress="203.0.113.7",
            authenticationMethods=["pwd"],
            idleTimeout="3600s",
            attributes={"team": "blue"},
            identity={"issuer": "https://id.example", "subject": "u-1", "sid": "s-1"},
        )
        for _ in range(2)
    )
    token = created["sessionToken"]
    again = call(SESSION_SERVICE + "ReauthenticateSession", sessionToken=token)
    token, other_id = again["sessionToken"], other["session"]["sessionId"]
    call(SESSION_SERVICE + "RevokeSession", sessionToken=token, sessionId=other_id)
    named = {"sessionId": again["session"]["sessionId"], "label": "Study"}
    call(SESSION_SERVICE + "NameSession", sessionToken=token, **named)
    call(SESSION_SERVICE + "ListSessions", sessionToken=token, pageSize=1, showEnded=True)
    call(SESSION_SERVICE + "ValidateSession", sessionToken=token, passive=True)
    call(SESSION_SERVICE + "ValidateSession", sessionToken="unknown")
    requests = [{"sessionToken": token}, {"sessionToken": other["sessionToken"]}]
    call(SESSION_SERVICE + "BatchValidateSessions", requests=requests)
    call(SESSION_SERVICE + "RevokeOtherSessions", sessionToken=token)
    call(SESSION_SERVICE + "SignOut", sessionToken=token)
    call(ADMIN_SERVICE + "RevokeUserSessions", userId="olga", reason="test")
    call(ADMIN_SERVICE + "RevokeOneSession", sessionId=other_id)
    call(ADMIN_SERVICE + "RevokeKeySessions", createdByKey="01890a5d-ac96-774b-bcce-b302099a8057")
    call(ADMIN_SERVICE + "RevokeIdentitySessions", issuer="https://id.example", sid="s-1")
    call(ADMIN_SERVICE + "EraseUser", userId="olga")
    call(ADMIN_SERVICE + "RevokeAllSessions")
    call(EVENT_SERVICE + "GetEventTransmitter")
    stream = call(EVENT_SERVICE + "CreateEventStream", description="Sign-outs")["stream"]
    of_stream = {"streamId": stream["streamId"]}
    call(EVENT_SERVICE + "GetEventStream")
    events = {"uris": ["https://schemas.openid.net/secevent/caep/event-type/session-revoked"]}
    call(EVENT_SERVICE + "UpdateEventStream", **of_stream, eventsRequested=events)
    call(EVENT_SERVICE + "VerifyEventStream", **of_stream, state="state")
    [token] = call(EVENT_SERVICE + "PollEventStream", **of_stream, limit=10)["tokens"]
    error = {"tokenId": token["tokenId"], "code": "invalid_state"}
    call(EVENT_SERVICE + "PollEventStream", **of_stream, errors=[error])
    paused = "EVENT_STREAM_STATUS_PAUSED"
    call(EVENT_SERVICE + "SetEventStreamStatus", **of_stream, status=paused, reason="test")
    call(EVENT_SERVICE + "DeleteEventStream", **of_stream)
    assert described == set(DOCUMENT["paths"])


@pytest.mark.parametrize(
    "request_body",
    [{}, {"userId": 7}, {"userId": "a", "user": "a"}, {"userId": "a", "attributes": {"a": 1}}],
)
def test_requests_that_the_description_forbids_are_refused_as_described(
    gateway: JsonGateway, request_body: dict[str, Any]
) -> None:
    described = operation(SESSION_SERVICE + "CreateSession")
    with pytest.raises(jsonschema.ValidationError):
        check(request_body, content(described["requestBody"]))
    answer = gateway.post("CreateSession", request_body)
    assert answer.status_code == 400
    check(answer.json(), content(DOCUMENT["components"]["responses"]["Error"]))
