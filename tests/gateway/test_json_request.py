"""JSON becomes a message exactly, or an error that names the field or the place."""

import contextlib
import json
from datetime import UTC, datetime
from typing import Any

import pytest
from google.protobuf.json_format import MessageToJson
from google.protobuf.message import Message
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from session_authority.v1 import session_admin_service_pb2 as admin_pb
from session_authority.v1 import session_service_pb2 as pb
from session_authority.v1 import session_watch_service_pb2 as watch_pb
from session_authority_gateway.json_request import ITEMS_LIMIT, read_json
from session_authority_server.domain.errors import InvalidRequest
from session_authority_server.rpc.error_table import MalformedRequest

TOKEN = "ses_" + "a" * 70
SECRET = bytes(range(32))


def violations(kind: type[Message], body: bytes) -> dict[str, str]:
    """Return what is wrong with the fields of a body."""
    with pytest.raises(InvalidRequest) as refused:
        read_json(kind, body)
    return {each.field: each.description for each in refused.value.violations}


def test_reads_both_spellings_and_every_type() -> None:
    body = {
        "userId": "ada",
        "user_agent": "curl",
        "authenticateTime": "2026-01-15T12:00:00.5Z",
        "authenticationMethods": ["pwd", "otp"],
        "lifetime": "3600s",
        "attributes": {"team": "blue"},
        "retrySecret": "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=",
        "actorId": None,
    }
    message = read_json(pb.CreateSessionRequest, json.dumps(body).encode())
    assert (message.user_id, message.user_agent, message.actor_id) == ("ada", "curl", "")
    assert message.authenticate_time.ToDatetime(UTC) == datetime(
        2026, 1, 15, 12, 0, 0, 500_000, tzinfo=UTC
    )
    assert message.authentication_methods == ["pwd", "otp"]
    assert message.lifetime.seconds == 3600
    assert message.attributes == {"team": "blue"}
    assert message.retry_secret == SECRET


def test_reads_lists_of_messages() -> None:
    message = read_json(
        pb.BatchValidateSessionsRequest,
        b'{"requests": [{"sessionToken": "a", "passive": true}, {"sessionToken": "b"}]}',
    )
    assert [(each.session_token, each.passive) for each in message.requests] == [
        ("a", True),
        ("b", False),
    ]
    assert not read_json(pb.BatchValidateSessionsRequest, b'{"requests": null}').requests


def test_a_message_without_values_stays_set() -> None:
    assert read_json(watch_pb.WatchSessionsRequest, b'{"ping": {}}').HasField("ping")


@pytest.mark.parametrize("secret", ["AAE", "AAE=", "-_8", "+/8="])
def test_base64_may_lack_padding_and_may_be_safe_for_urls(secret: str) -> None:
    body = json.dumps({"retrySecret": secret}).encode()
    assert len(read_json(pb.CreateSessionRequest, body).retry_secret) == 2


NOT_JSON = {
    b"": "it is no JSON object; send at least {}",
    b"null": "it is no JSON object; send at least {}",
    b"[]": "it is no JSON object; send at least {}",
    b'"text"': "it is no JSON object; send at least {}",
    b"{'userId': 1}": "it is not JSON at line 1, column 2",
    b'{"userId":\n"ada",}': "it is not JSON at line 2, column 7",
    b'{"userId": "ada"} {}': "it is not JSON at line 1, column 19",
    b'{"userId": "a\nb"}': "it is not JSON at line 1, column 14",
    b'\xef\xbb\xbf{"userId": "ada"}': "it is not JSON at line 1, column 1",
    '{"userId": "ada"}'.encode("utf-16"): "byte 1 is not UTF-8",
    b'{"userId": "\xff"}': "byte 13 is not UTF-8",
    b'{"userId": "\xed\xa0\x80"}': "byte 13 is not UTF-8",
    b'{"userId": NaN}': "JSON has no NaN",
    b'{"lifetime": -Infinity}': "JSON has no -Infinity",
    b'{"userId": "ada", "userId": "bob"}': "the name userId appears twice in an object",
    b'{"attributes": {"a": "1", "a": "2"}}': "the name a appears twice in an object",
    b"[" * 60_000: "it is nested too deeply",
    b'{"attributes": ' * 60_000: "it is nested too deeply",
    b'{"lifetime": ' + b"9" * 5_000 + b"}": "a number has too many digits",
}


@pytest.mark.parametrize(("body", "problem"), NOT_JSON.items(), ids=NOT_JSON.values())
def test_a_body_that_is_not_one_json_object_is_refused(body: bytes, problem: str) -> None:
    with pytest.raises(MalformedRequest) as refused:
        read_json(pb.CreateSessionRequest, body)
    expected = f"the request is not a valid CreateSessionRequest message: {problem}"
    assert str(refused.value) == expected
    # The parser's error holds the body, so it must not be in a log.
    assert refused.value.__context__ is None


WRONG_VALUES = {
    '{"userId": 7}': ("user_id", "must be a string of Unicode text"),
    '{"userId": ["ada"]}': ("user_id", "must be a string of Unicode text"),
    '{"userId": {"deep": {"deep": {}}}}': ("user_id", "must be a string of Unicode text"),
    '{"userId": "\\ud800"}': ("user_id", "must be a string of Unicode text"),
    '{"userId": "a", "user_id": "b"}': ("user_id", "is given twice, in two spellings"),
    '{"lifetime": "1h"}': ("lifetime", 'must be a number of seconds such as "3600s"'),
    '{"lifetime": 3600}': ("lifetime", 'must be a number of seconds such as "3600s"'),
    '{"lifetime": "1e99s"}': ("lifetime", 'must be a number of seconds such as "3600s"'),
    '{"authenticateTime": "noon"}': (
        "authenticate_time",
        'must be a time such as "2026-01-31T12:00:00Z"',
    ),
    '{"authenticateTime": 1768478400}': (
        "authenticate_time",
        'must be a time such as "2026-01-31T12:00:00Z"',
    ),
    '{"authenticateTime": "99999-01-01T00:00:00Z"}': (
        "authenticate_time",
        'must be a time such as "2026-01-31T12:00:00Z"',
    ),
    '{"authenticateTime": "2026-01-15T12:00:00"}': (
        "authenticate_time",
        'must be a time such as "2026-01-31T12:00:00Z"',
    ),
    '{"retrySecret": "a secret!"}': ("retry_secret", "must be a string of base64"),
    '{"retrySecret": "AAEC\\n"}': ("retry_secret", "must be a string of base64"),
    '{"retrySecret": [1, 2]}': ("retry_secret", "must be a string of base64"),
    '{"authenticationMethods": "pwd"}': (
        "authentication_methods",
        "must be a list, and each value must be a string of Unicode text",
    ),
    '{"authenticationMethods": ["pwd", null]}': (
        "authentication_methods",
        "must be a list, and each value must be a string of Unicode text",
    ),
    '{"attributes": {"n": 1}}': ("attributes", "must be an object whose values are strings"),
    '{"attributes": []}': ("attributes", "must be an object whose values are strings"),
}


@pytest.mark.parametrize("body", WRONG_VALUES)
def test_a_value_of_the_wrong_type_is_refused_by_its_field(body: str) -> None:
    field, problem = WRONG_VALUES[body]
    assert violations(pb.CreateSessionRequest, body.encode()) == {field: problem}


@pytest.mark.parametrize("number", ["1.5", "3000000000", "1e400", "true", '"many"', "[]", '""'])
def test_a_page_size_must_be_a_whole_number(number: str) -> None:
    body = f'{{"pageSize": {number}}}'.encode()
    assert violations(pb.ListSessionsRequest, body) == {
        "page_size": "must be a whole number of 32 bits"
    }


@pytest.mark.parametrize("truth", ['"true"', "1", "{}"])
def test_a_switch_must_be_true_or_false(truth: str) -> None:
    body = f'{{"showEnded": {truth}}}'.encode()
    assert violations(pb.ListSessionsRequest, body) == {"show_ended": "must be true or false"}


def test_an_unknown_field_is_named_with_the_fields_that_exist() -> None:
    assert violations(pb.SignOutRequest, b'{"token": "x", "session_Token": "x"}') == {
        "token": "is not a field of SignOutRequest, whose fields are: session_token",
        "session_Token": "is not a field of SignOutRequest, whose fields are: session_token",
    }
    assert violations(pb.BatchValidateSessionsRequest, b'{"requests": [{}, {"token": ""}, 3]}') == {
        "requests[1].token": "is not a field of ValidateSessionRequest, whose fields are: "
        "session_token, ip_address, user_id, passive",
        "requests[2]": "must be an object",
    }


@pytest.mark.parametrize("requests", ["{}", '"x"', "7"])
def test_a_list_must_be_a_list(requests: str) -> None:
    body = f'{{"requests": {requests}}}'.encode()
    assert violations(pb.BatchValidateSessionsRequest, body) == {
        "requests": "must be a list of objects"
    }


def test_a_list_that_is_too_long_is_not_read() -> None:
    body = json.dumps({"requests": [{}] * (ITEMS_LIMIT + 1)}).encode()
    assert violations(pb.BatchValidateSessionsRequest, body) == {
        "requests": f"must have at most {ITEMS_LIMIT} objects"
    }


def test_an_error_repeats_neither_values_nor_names_that_could_be_secrets() -> None:
    bodies: list[dict[str, Any]] = [
        {"pageSize": TOKEN},
        {TOKEN: 1},
        {"showEnded": TOKEN},
        {"sessionToken": [TOKEN]},
        {"sak_" + TOKEN: {}},
        {"a\nb": 1},
    ]
    for body in bodies:
        found = violations(pb.ListSessionsRequest, json.dumps(body).encode())
        assert TOKEN not in str(found)
        assert "\\n" not in str(found)
    twice = f'{{"{TOKEN}": 1, "{TOKEN}": 2}}'.encode()
    with pytest.raises(MalformedRequest, match=r"the name \(a name of 74 characters\) appears"):
        read_json(pb.ListSessionsRequest, twice)


def test_fields_that_exclude_each_other_are_refused_together() -> None:
    both = b'{"sessionId": "a", "sessionToken": "b"}'
    assert violations(admin_pb.RevokeOneSessionRequest, both) == {
        "session_token": "excludes session_id; give one of them"
    }
    one = b'{"sessionId": "a", "sessionToken": null}'
    assert read_json(admin_pb.RevokeOneSessionRequest, one).WhichOneof("target") == "session_id"


def test_a_large_body_of_unknown_names_is_refused_quickly() -> None:
    body = json.dumps({f"n{number}": number for number in range(30_000)}).encode()
    assert len(violations(pb.BatchValidateSessionsRequest, body)) == 8


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=9),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [field.json_name for field in pb.CreateSessionRequest.DESCRIPTOR.fields]
            )
            | st.text(max_size=5),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@settings(suppress_health_check=[HealthCheck.too_slow])  # the machine may be busy
@given(VALUES)
def test_any_json_is_read_or_refused(value: Any) -> None:
    body = json.dumps(value).encode()
    for kind in (pb.CreateSessionRequest, pb.BatchValidateSessionsRequest, pb.ListSessionsRequest):
        with contextlib.suppress(MalformedRequest, InvalidRequest):
            message = read_json(kind, body)
            assert read_json(kind, MessageToJson(message).encode()) == message


@given(st.binary(max_size=60))
def test_any_bytes_are_read_or_refused(body: bytes) -> None:
    with contextlib.suppress(MalformedRequest, InvalidRequest):
        read_json(pb.CreateSessionRequest, body)
