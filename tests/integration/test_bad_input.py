"""A value over a documented limit is refused with its field. A value within the limits succeeds."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, TypeAlias
from uuid import uuid4

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import error_details_pb2

from session_authority.v1 import session_service_pb2 as pb
from session_authority.v1.session_service_pb2_grpc import SessionServiceStub
from tests.support.program import Program
from tests.support.status import status_of

pytestmark = pytest.mark.both_hosts

Violations: TypeAlias = dict[str, str]
DAY = 86_400


@pytest.fixture
def stub(server: Program) -> Iterator[SessionServiceStub]:
    with grpc.insecure_channel(server.address) as channel:
        yield SessionServiceStub(channel)


@pytest.fixture
def token(stub: SessionServiceStub) -> str:
    return stub.CreateSession(pb.CreateSessionRequest(user_id="ada")).session_token


def _violations(call: Callable[[Any], Any], request: Any) -> Violations:
    with pytest.raises(grpc.RpcError) as caught:
        call(request)
    error: Any = caught.value
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    status = status_of(error)
    assert (status.code, status.message) == (error.code().value[0], error.details())
    info, bad_request = status.details
    reason, found = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
    assert info.Unpack(reason)
    assert bad_request.Unpack(found)
    assert (reason.reason, reason.domain) == ("INVALID_FIELD", "session-authority")
    return {violation.field: violation.description for violation in found.field_violations}


def _in(seconds: float) -> Timestamp:
    time = Timestamp()
    time.FromDatetime(datetime.now(UTC) + timedelta(seconds=seconds))
    return time


# A request, the field that the error names, and a part of the error's hint.
BAD_SIGN_INS: list[tuple[dict[str, Any], str, str]] = [
    ({"user_id": ""}, "user_id", "1 to 255"),
    ({"user_id": "é" * 128}, "user_id", "1 to 255"),
    ({"ip_address": "203.0.113"}, "ip_address", "IPv4 or IPv6"),
    ({"ip_address": "x" * 60_000}, "ip_address", "IPv4 or IPv6"),
    ({"authenticate_time": _in(3_600)}, "authenticate_time", "began"),
    ({"authenticate_time": Timestamp(seconds=2**62)}, "authenticate_time", "1 and 9999"),
    ({"authenticate_time": Timestamp(seconds=-(2**62))}, "authenticate_time", "1 and 9999"),
    ({"authenticate_time": Timestamp(nanos=-1)}, "authenticate_time", "1 and 9999"),
    ({"authentication_methods": ["pwd"] * 17}, "authentication_methods", "at most 16"),
    ({"authentication_methods": ["pwd", ""]}, "authentication_methods[1]", "1 to 32"),
    ({"lifetime": Duration(seconds=90 * DAY + 1)}, "lifetime", "at most the policy's 7776000 s"),
    ({"lifetime": Duration()}, "lifetime", "at least 1 s"),
    ({"lifetime": Duration(nanos=999_000_000)}, "lifetime", "at least 1 s"),
    ({"lifetime": Duration(seconds=2**62)}, "lifetime", "at most"),
    ({"lifetime": Duration(seconds=1, nanos=-1)}, "lifetime", "not a duration"),
    ({"idle_timeout": Duration(seconds=59)}, "idle_timeout", "at least 60 s"),
    ({"idle_timeout": Duration(seconds=2**62)}, "idle_timeout", "at most"),
    ({"attributes": {str(n): "" for n in range(17)}}, "attributes", "at most 16"),
    ({"attributes": {"k": "v" * 257}}, "attributes[k]", "at most 256"),
    ({"attributes": {"k\n": "v"}}, "attributes[…]", "control character"),
    ({"retry_secret": b"x"}, "retry_secret", "32 random bytes"),
]


@pytest.mark.parametrize(
    ("fields", "field", "remedy"),
    BAD_SIGN_INS,
    ids=[f"{number}-{field}" for number, (_, field, _) in enumerate(BAD_SIGN_INS)],
)
def test_a_sign_in_over_a_limit_is_refused_with_its_field_and_a_remedy(
    stub: SessionServiceStub, fields: dict[str, Any], field: str, remedy: str
) -> None:
    request = pb.CreateSessionRequest(**{"user_id": "ada", **fields})

    violations = _violations(stub.CreateSession, request)

    assert list(violations) == [field]
    assert remedy in violations[field]


def test_all_violations_are_reported_at_once(stub: SessionServiceStub) -> None:
    request = pb.CreateSessionRequest(
        ip_address="x", lifetime=Duration(), attributes={"k": "v" * 257}, retry_secret=b"x"
    )

    violations = _violations(stub.CreateSession, request)

    assert set(violations) == {
        "user_id",
        "ip_address",
        "lifetime",
        "attributes[k]",
        "retry_secret",
    }


def test_the_first_of_many_violations_are_reported_and_the_rest_counted(
    stub: SessionServiceStub,
) -> None:
    # The largest possible details: keys of full length, with bytes that percent-encoding triples.
    request = pb.CreateSessionRequest(
        user_id="ada",
        authentication_methods=["é"] * 16,
        attributes={"é" * 31 + f"{n:02}": "é" * 300 + "\0" for n in range(16)},
    )

    violations = _violations(stub.CreateSession, request)

    assert len(violations) == 8
    request.ClearField("authentication_methods")
    with pytest.raises(grpc.RpcError) as caught:
        stub.CreateSession(request)
    error: Any = caught.value
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert error.details().endswith("; and 24 more")


def test_a_validation_with_an_invalid_address_is_refused_with_its_field(
    stub: SessionServiceStub, token: str
) -> None:
    request = pb.ValidateSessionRequest(session_token=token, ip_address="somewhere")

    assert list(_violations(stub.ValidateSession, request)) == ["ip_address"]


def test_a_batch_is_refused_with_its_invalid_entry(stub: SessionServiceStub, token: str) -> None:
    good = pb.ValidateSessionRequest(session_token=token)
    bad = pb.ValidateSessionRequest(session_token=token, ip_address="somewhere")
    request = pb.BatchValidateSessionsRequest(requests=[good, good, bad])

    assert list(_violations(stub.BatchValidateSessions, request)) == ["requests[2].ip_address"]


@pytest.mark.parametrize("count", [0, 1_001])
def test_a_batch_has_1_to_1000_entries(stub: SessionServiceStub, count: int) -> None:
    request = pb.BatchValidateSessionsRequest(requests=[pb.ValidateSessionRequest()] * count)

    violations = _violations(stub.BatchValidateSessions, request)

    assert "1 to 1000" in violations["requests"]


@pytest.mark.parametrize(
    ("fields", "field", "remedy"),
    [
        ({"page_size": -1}, "page_size", "1 to 200"),
        ({"page_size": -(2**31)}, "page_size", "1 to 200"),
        ({"page_token": "x"}, "page_token", "leave it empty"),
        ({"page_token": "é"}, "page_token", "leave it empty"),
        ({"page_token": "A" * 60_000}, "page_token", "leave it empty"),
        ({"page_token": "_" * 59}, "page_token", "leave it empty"),
    ],
)
def test_a_list_request_over_a_limit_is_refused_with_its_field(
    stub: SessionServiceStub, token: str, fields: dict[str, Any], field: str, remedy: str
) -> None:
    violations = _violations(
        stub.ListSessions, pb.ListSessionsRequest(session_token=token, **fields)
    )

    assert list(violations) == [field]
    assert remedy in violations[field]


def test_every_forged_page_token_is_refused_or_harmless(
    stub: SessionServiceStub, token: str
) -> None:
    for _ in range(3):
        stub.CreateSession(pb.CreateSessionRequest(user_id="ada"))
    real = stub.ListSessions(
        pb.ListSessionsRequest(session_token=token, page_size=1)
    ).next_page_token
    for at in range(len(real)):
        forged = real[:at] + ("A" if real[at] != "A" else "B") + real[at + 1 :]
        try:
            page = stub.ListSessions(pb.ListSessionsRequest(session_token=token, page_token=forged))
        except grpc.RpcError as error:
            assert error.code() is grpc.StatusCode.INVALID_ARGUMENT  # noqa: PT017
        else:
            assert {session.user_id for session in page.sessions} <= {"ada"}


def test_a_reauthentication_is_refused_with_all_violations(
    stub: SessionServiceStub, token: str
) -> None:
    request = pb.ReauthenticateSessionRequest(
        session_token=token,
        authenticate_time=_in(3_600),
        authentication_methods=["one two"],
        retry_secret=b"x",
    )

    assert set(_violations(stub.ReauthenticateSession, request)) == {
        "authenticate_time",
        "authentication_methods[0]",
        "retry_secret",
    }
    assert stub.ValidateSession(pb.ValidateSessionRequest(session_token=token)).HasField("session")


@pytest.mark.parametrize(
    "fields",
    [
        {"user_id": "é" * 127},
        {"user_id": "Ада 王 \u200d🙂"},
        {"user_agent": "🙂" * 5_000},
        {"user_agent": "Fire\x00fox\r\nX-Injected: 1\x1b[31m\x7f"},
        {"ip_address": "::ffff:203.0.113.7"},
        {"authenticate_time": _in(3)},
        {"authenticate_time": Timestamp(seconds=-62_135_596_800)},
        {"authentication_methods": ["~" * 32] * 16},
        {"lifetime": Duration(seconds=1)},
        {"idle_timeout": Duration(seconds=90 * DAY)},
        {"attributes": {f"{n:064}": "v" * 256 for n in range(16)}},
        {"retry_secret": uuid4().bytes * 2},
    ],
    ids=lambda fields: "-".join(fields),
)
def test_values_exactly_at_the_limits_succeed(
    stub: SessionServiceStub, fields: dict[str, Any]
) -> None:
    new = stub.CreateSession(pb.CreateSessionRequest(**{"user_id": "ada", **fields}))

    found = stub.ValidateSession(pb.ValidateSessionRequest(session_token=new.session_token))

    assert found.session == new.session
    assert found.session.user_id == fields.get("user_id", "ada")
    assert found.session.attributes == fields.get("attributes", {})
    assert found.session.device.display_name
    assert found.session.device.display_name.isprintable()
