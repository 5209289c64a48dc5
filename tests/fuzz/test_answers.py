"""The oracle reports every undocumented answer."""

from collections.abc import Sequence

import grpc
import pytest
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo
from google.rpc.status_pb2 import Status

from session_authority_server.domain.errors import InvalidRequest, SessionNotFound, Violation
from session_authority_server.rpc import error_table
from session_authority_server.rpc.error_table import TABLE
from tests.fuzz.answers import FAULTS_OF_THE_AUTHORITY, Answer, faults
from tests.support.api import RPCS

_BY_NAME = {rpc.method: rpc for rpc in RPCS}
CREATE = _BY_NAME["CreateSession"]
OK = grpc.StatusCode.OK
BAD = grpc.StatusCode.INVALID_ARGUMENT


def answered(code: grpc.StatusCode, reason: str, *fields: str, said: str = "no") -> Answer:
    status = Status(code=code.value[0], message=said)
    if reason:
        status.details.add().Pack(ErrorInfo(reason=reason, domain="session-authority"))
    if fields:
        violations = [BadRequest.FieldViolation(field=each, description="no") for each in fields]
        status.details.add().Pack(BadRequest(field_violations=violations))
    return Answer(code, b"", said, [("grpc-status-details-bin", status.SerializeToString())])


@pytest.mark.parametrize(
    ("method", "fields"),
    [
        ("CreateSession", ["user_id", "attributes", "attributes[]", "attributes[a.b]c]"]),
        ("CreateSession", ["authentication_methods", "authentication_methods[16]"]),
        ("BatchValidateSessions", ["requests", "requests[2].ip_address"]),
        ("RevokeOneSession", ["target", "session_id"]),
    ],
)
def test_documented_answers_have_no_faults(method: str, fields: Sequence[str]) -> None:
    rpc = _BY_NAME[method]
    for error in (
        InvalidRequest([Violation(each, "is odd") for each in fields]),
        SessionNotFound(),
    ):
        answer = error_table.answer(error)
        assert not faults(rpc, Answer(answer.code, b"", answer.message, answer.trailing_metadata))
    assert not faults(rpc, Answer(OK))


@pytest.mark.parametrize(
    "answer",
    [
        Answer(OK, b"\xff"),
        Answer(grpc.StatusCode.INTERNAL),
        Answer(grpc.StatusCode.UNKNOWN, message="Unexpected <class 'ValueError'>"),
        Answer(grpc.StatusCode.DEADLINE_EXCEEDED),
        Answer(BAD, message="without details"),
        answered(grpc.StatusCode.INTERNAL, "INTERNAL"),
        answered(grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE"),
        answered(BAD, "MADE_UP"),
        answered(BAD, ""),
        answered(grpc.StatusCode.NOT_FOUND, "SESSION_NOT_LIVE"),
        answered(BAD, "INVALID_FIELD"),
        answered(BAD, "MALFORMED_REQUEST", "user_id"),
        answered(BAD, "INVALID_FIELD", "user"),
        answered(BAD, "INVALID_FIELD", "user_id[0]"),
        answered(BAD, "INVALID_FIELD", "user_id.x"),
        answered(BAD, "INVALID_FIELD", "authentication_methods[x]"),
        answered(BAD, "INVALID_FIELD", ""),
        answered(BAD, "INVALID_FIELD", "user_id", said="é" * 1_400),
        answered(BAD, "INVALID_FIELD", "user_id", said="not ses_" + "0" * 70),
    ],
)
def test_an_undocumented_answer_is_a_fault(answer: Answer) -> None:
    assert faults(CREATE, answer)


def test_every_internal_error_is_a_fault() -> None:
    faulty = {row.reason for row in TABLE.values() if faults(CREATE, _of(row))}
    assert faulty == {*FAULTS_OF_THE_AUTHORITY}


def _of(row: error_table.Row) -> Answer:
    fields = ["user_id"] if row.reason in ("INVALID_FIELD", "RETRY_MISMATCH") else []
    return answered(row.code, row.reason, *fields)
