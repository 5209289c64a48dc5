import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from session_authority import (
    InternalError,
    InvalidArgument,
    Rejection,
    RejectionReason,
    Session,
    SessionNotLive,
    SessionState,
    SessionToken,
    ValidationRequest,
)
from session_authority.v1 import session_service_pb2 as v1
from tests.support.fake_authority import (
    TOKEN,
    FakeAuthority,
    accepted,
    rejected,
    session_message,
)
from tests.unit.client.conftest import NOT_FOUND, UNPRESENTABLE, Twin

pytestmark = pytest.mark.usefixtures("brief_retries")


async def test_validate_returns_the_session_of_a_good_token(
    twin: Twin, authority: FakeAuthority
) -> None:
    authority.answers("ValidateSession", accepted())

    session = await twin.validate(
        SessionToken(TOKEN), ip_address="192.0.2.7", user_id="ana", passive=True
    )

    assert isinstance(session, Session)
    assert session
    assert session.state is SessionState.ACTIVE
    assert authority.requests == [
        v1.ValidateSessionRequest(
            session_token=TOKEN, ip_address="192.0.2.7", user_id="ana", passive=True
        )
    ]


async def test_validate_returns_a_falsy_rejection_of_a_bad_token(
    twin: Twin, authority: FakeAuthority
) -> None:
    authority.answers("ValidateSession", rejected(v1.REJECTION_REASON_REVOKED))

    answer = await twin.validate(TOKEN)

    assert answer == Rejection(RejectionReason.REVOKED)
    assert not answer


@pytest.mark.parametrize("token", UNPRESENTABLE)
async def test_an_invalid_token_is_rejected_without_a_call(
    twin: Twin, authority: FakeAuthority, token: str | None
) -> None:
    assert await twin.validate(token) == NOT_FOUND
    assert authority.calls == []


async def test_a_token_of_another_type_is_an_error_that_does_not_quote_it(twin: Twin) -> None:
    with pytest.raises(TypeError, match="not bytes") as caught:
        await twin.validate(TOKEN.encode())
    assert TOKEN not in str(caught.value)


async def test_an_empty_user_id_does_not_match_every_user(
    twin: Twin, authority: FakeAuthority
) -> None:
    with pytest.raises(InvalidArgument, match="user_id: must not be empty"):
        await twin.validate(TOKEN, user_id="")
    assert authority.calls == []


async def test_an_answer_without_session_and_rejection_is_an_error(
    twin: Twin, authority: FakeAuthority
) -> None:
    authority.answers("ValidateSession", v1.ValidateSessionResponse())
    with pytest.raises(InternalError, match="neither a session nor a rejection"):
        await twin.validate(TOKEN)


async def test_an_answer_with_an_impossible_time_is_an_error(
    twin: Twin, authority: FakeAuthority
) -> None:
    authority.answers("SignOut", v1.SignOutResponse(effective_time=Timestamp(seconds=2**62)))
    with pytest.raises(InternalError, match="Python cannot represent"):
        await twin.sign_out(TOKEN)


async def test_a_malformed_answer_is_an_error(twin: Twin, authority: FakeAuthority) -> None:
    authority.answers("ValidateSession", b"\xff\xff\xff")
    with pytest.raises(InternalError, match="ValidateSession cannot be decoded"):
        await twin.validate(TOKEN)


async def test_require_returns_the_session(twin: Twin, authority: FakeAuthority) -> None:
    authority.answers("ValidateSession", accepted())
    assert (await twin.require(TOKEN)).session_id == "s-1"


async def test_require_raises_the_rejection(twin: Twin, authority: FakeAuthority) -> None:
    authority.answers("ValidateSession", rejected(v1.REJECTION_REASON_IDLE_TIMEOUT))
    with pytest.raises(SessionNotLive, match="idle_timeout") as caught:
        await twin.require(TOKEN)
    assert caught.value.rejection == Rejection(RejectionReason.IDLE_TIMEOUT)


async def test_validate_many_answers_in_order_and_asks_only_about_tokens(
    twin: Twin, authority: FakeAuthority
) -> None:
    authority.answers(
        "BatchValidateSessions",
        v1.BatchValidateSessionsResponse(
            responses=[accepted("s-1"), rejected(v1.REJECTION_REASON_EXPIRED)]
        ),
    )

    answers = await twin.validate_many(
        [
            ValidationRequest(None),
            ValidationRequest(TOKEN, user_id="ana"),
            ValidationRequest(""),
            ValidationRequest(SessionToken("ses_2"), passive=True),
        ]
    )

    assert answers[0] == answers[2] == NOT_FOUND
    assert answers[1].session_id == "s-1"
    assert answers[3] == Rejection(RejectionReason.EXPIRED)
    (request,) = authority.requests
    assert [item.session_token for item in request.requests] == [TOKEN, "ses_2"]


async def test_validate_many_asks_about_a_thousand_at_a_time(
    twin: Twin, authority: FakeAuthority
) -> None:
    authority.answers_by(
        "BatchValidateSessions",
        lambda request: v1.BatchValidateSessionsResponse(
            responses=[accepted(item.session_token) for item in request.requests]
        ),
    )

    answers = await twin.validate_many(ValidationRequest(f"ses_{n}") for n in range(2001))

    assert [answer.session_id for answer in answers] == [f"ses_{n}" for n in range(2001)]
    assert [len(request.requests) for request in authority.requests] == [1000, 1000, 1]


async def test_a_batch_of_the_largest_sessions_fits(twin: Twin, authority: FakeAuthority) -> None:
    attributes = {f"{n:02}".ljust(64, "k"): "v" * 256 for n in range(16)}
    largest = v1.ValidateSessionResponse(
        session=session_message(user_id="u" * 255, attributes=attributes)
    )
    authority.answers(
        "BatchValidateSessions", v1.BatchValidateSessionsResponse(responses=[largest] * 1000)
    )

    answers = await twin.validate_many([ValidationRequest(TOKEN)] * 1000)

    assert answers[999].attributes == attributes


async def test_validate_many_without_tokens_makes_no_call(
    twin: Twin, authority: FakeAuthority
) -> None:
    assert await twin.validate_many([]) == []
    assert authority.calls == []


async def test_a_batch_with_a_missing_answer_is_an_error(
    twin: Twin, authority: FakeAuthority
) -> None:
    authority.answers("BatchValidateSessions", v1.BatchValidateSessionsResponse())
    with pytest.raises(InternalError, match="1 requests got 0 answers"):
        await twin.validate_many([ValidationRequest(TOKEN)])
