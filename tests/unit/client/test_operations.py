import secrets
from datetime import UTC, datetime, timedelta, timezone
from ipaddress import ip_address

import grpc
import pytest

from session_authority import (
    InternalError,
    InvalidArgument,
    NewSession,
    RevokedSession,
    SessionNotLive,
    SessionState,
    SessionToken,
    _core,
)
from session_authority.v1 import session_pb2
from session_authority.v1 import session_service_pb2 as v1
from tests.support.fake_authority import (
    NOON,
    NOON_MESSAGE,
    TOKEN,
    FakeAuthority,
    Fault,
    accepted,
    created,
    session_message,
)
from tests.unit.client.conftest import NOT_FOUND, UNPRESENTABLE, Twin

pytestmark = pytest.mark.usefixtures("brief_retries")


async def test_create_sends_its_arguments_and_returns_the_session_with_its_token(
    twin: Twin, authority: FakeAuthority
) -> None:
    authority.answers("CreateSession", created())

    new = await twin.create(
        "ana",
        ip_address=ip_address("192.0.2.1"),
        user_agent="Mozilla/5.0",
        authenticate_time=datetime(2030, 1, 1, 13, tzinfo=timezone(timedelta(hours=1))),
        authentication_methods=["pwd", "otp"],
        lifetime=timedelta(days=1),
        idle_timeout=timedelta(minutes=2),
        attributes={"tenant": "t-1"},
    )

    assert isinstance(new, NewSession)
    assert new.session.user_id == "ana"
    assert new.token == SessionToken(TOKEN)
    (request,) = authority.requests
    assert request.user_id == "ana"
    assert request.ip_address == "192.0.2.1"
    assert request.user_agent == "Mozilla/5.0"
    assert request.authenticate_time.ToDatetime(UTC) == NOON
    assert request.authentication_methods == ["pwd", "otp"]
    assert request.lifetime.ToTimedelta() == timedelta(days=1)
    assert request.idle_timeout.ToTimedelta() == timedelta(minutes=2)
    assert request.attributes == {"tenant": "t-1"}
    assert len(request.retry_secret) == 32


async def test_create_leaves_omitted_arguments_unset(twin: Twin, authority: FakeAuthority) -> None:
    authority.answers("CreateSession", created())

    await twin.create("ana")

    (request,) = authority.requests
    given = {field.name for field, _ in request.ListFields()}
    assert given == {"user_id", "retry_secret"}


async def test_every_call_carries_the_api_key_and_a_deadline(
    twin: Twin, authority: FakeAuthority
) -> None:
    authority.answers("ValidateSession", accepted())

    await twin.validate(TOKEN)

    (call,) = authority.calls
    assert call.metadata["authorization"] == "Bearer key-1"
    assert call.seconds_left == pytest.approx(5, abs=2)


@pytest.mark.parametrize(
    ("header", "sent"),
    [
        (None, ""),
        (b"caf\xe9", "caf\ufffd"),
        ("caf\udce9", "caf?"),
        ("x" * 10_000, "x" * 4096),
        ("é" * 3000, "é" * 2048),
    ],
)
async def test_no_user_agent_fails_a_sign_in(
    twin: Twin, authority: FakeAuthority, header: str | bytes | None, sent: str
) -> None:
    authority.answers("CreateSession", created())

    await twin.create("ana", user_agent=header)

    assert authority.requests[0].user_agent == sent


async def test_a_time_without_a_time_zone_is_refused_by_name(
    twin: Twin, authority: FakeAuthority
) -> None:
    naive = datetime(2030, 1, 1)  # noqa: DTZ001
    with pytest.raises(
        InvalidArgument, match="authenticate_time: the datetime must have a time zone"
    ):
        await twin.create("ana", authenticate_time=naive)
    assert authority.calls == []


async def test_a_string_that_is_not_valid_unicode_is_refused_by_name(
    twin: Twin, authority: FakeAuthority
) -> None:
    with pytest.raises(InvalidArgument) as caught:
        await twin.create("ana\udcff")
    assert [violation.field for violation in caught.value.violations] == ["user_id"]
    assert authority.calls == []


async def test_a_user_id_must_be_a_string(twin: Twin) -> None:
    with pytest.raises(TypeError, match="user_id must be a str, not int"):
        await twin.create(7)


async def test_authentication_methods_must_not_be_a_single_string(twin: Twin) -> None:
    with pytest.raises(TypeError, match="not a str"):
        await twin.create("ana", authentication_methods="pwd")


async def test_an_answer_without_the_new_token_is_an_error(
    twin: Twin, authority: FakeAuthority
) -> None:
    authority.answers("CreateSession", created(token=""))
    with pytest.raises(InternalError, match="no token"):
        await twin.create("ana")


def page(next_page_token: str, *session_ids: str) -> v1.ListSessionsResponse:
    return v1.ListSessionsResponse(
        sessions=[session_message(name, current=name == "s-1") for name in session_ids],
        next_page_token=next_page_token,
    )


async def test_list_follows_all_pages_and_shows_each_session_once(
    twin: Twin, authority: FakeAuthority
) -> None:
    authority.answers(
        "ListSessions", page("p-2", "s-1", "s-2"), page("p-3", "s-2", "s-3"), page("", "s-4")
    )

    sessions = await twin.list(TOKEN, show_ended=True, page_size=2)

    assert [session.session_id for session in sessions] == ["s-1", "s-2", "s-3", "s-4"]
    assert [session.current for session in sessions] == [True, False, False, False]
    assert [request.page_token for request in authority.requests] == ["", "p-2", "p-3"]
    assert all(request.show_ended and request.page_size == 2 for request in authority.requests)


async def test_list_stops_at_a_repeated_page_token(twin: Twin, authority: FakeAuthority) -> None:
    authority.answers("ListSessions", page("p-2", "s-1"))
    with pytest.raises(InternalError, match="names itself as the next page"):
        await twin.list(TOKEN)


@pytest.mark.parametrize("page_size", [0, -1, 201])
async def test_list_refuses_an_invalid_page_size(twin: Twin, page_size: int) -> None:
    with pytest.raises(InvalidArgument, match="page_size: must be from 1 to 200"):
        await twin.list(TOKEN, page_size=page_size)


@pytest.mark.parametrize("already_ended", [False, True])
async def test_revoke_returns_the_ended_session_and_its_effective_time(
    twin: Twin, authority: FakeAuthority, already_ended: bool
) -> None:
    ended = session_message("s-2", state=session_pb2.SESSION_STATE_ENDED, end_time=NOON)
    authority.answers(
        "RevokeSession",
        v1.RevokeSessionResponse(
            session=ended, effective_time=NOON_MESSAGE, already_ended=already_ended
        ),
    )

    revoked = await twin.revoke(TOKEN, "s-2")

    assert isinstance(revoked, RevokedSession)
    assert revoked.session.state is SessionState.ENDED
    assert revoked.effective_time == NOON
    assert revoked.already_ended is already_ended
    assert authority.requests == [v1.RevokeSessionRequest(session_token=TOKEN, session_id="s-2")]


async def test_revoke_others_returns_its_effective_time(
    twin: Twin, authority: FakeAuthority
) -> None:
    authority.answers(
        "RevokeOtherSessions", v1.RevokeOtherSessionsResponse(effective_time=NOON_MESSAGE)
    )
    assert await twin.revoke_others(TOKEN) == NOON
    assert authority.requests == [v1.RevokeOtherSessionsRequest(session_token=TOKEN)]


async def test_sign_out_returns_its_effective_time(twin: Twin, authority: FakeAuthority) -> None:
    authority.answers("SignOut", v1.SignOutResponse(effective_time=NOON_MESSAGE))
    assert await twin.sign_out(SessionToken(TOKEN)) == NOON
    assert authority.requests == [v1.SignOutRequest(session_token=TOKEN)]


@pytest.mark.parametrize("token", UNPRESENTABLE)
async def test_signing_out_without_a_token_is_effective_immediately(
    twin: Twin, authority: FakeAuthority, token: str | None
) -> None:
    assert await twin.sign_out(token) == datetime(1970, 1, 1, tzinfo=UTC)
    assert authority.calls == []


async def test_reauthenticate_returns_the_session_with_its_new_token(
    twin: Twin, authority: FakeAuthority
) -> None:
    authority.answers(
        "ReauthenticateSession",
        v1.ReauthenticateSessionResponse(session=session_message(), session_token="ses_new"),
    )

    new = await twin.reauthenticate(TOKEN, authentication_methods=("hwk",), authenticate_time=NOON)

    assert new.token == SessionToken("ses_new")
    (request,) = authority.requests
    assert request.session_token == TOKEN
    assert request.authentication_methods == ["hwk"]
    assert request.authenticate_time.ToDatetime(UTC) == NOON
    assert len(request.retry_secret) == 32


@pytest.mark.parametrize("token", UNPRESENTABLE)
@pytest.mark.parametrize(
    ("method", "arguments"),
    [
        ("require", ()),
        ("list", ()),
        ("revoke", ("s-1",)),
        ("revoke_others", ()),
        ("reauthenticate", ()),
    ],
)
async def test_a_call_without_a_token_raises_session_not_live(
    twin: Twin,
    authority: FakeAuthority,
    method: str,
    arguments: tuple[str, ...],
    token: str | None,
) -> None:
    with pytest.raises(SessionNotLive) as caught:
        await getattr(twin, method)(token, *arguments)
    assert caught.value.rejection == NOT_FOUND
    assert authority.calls == []


async def test_each_creation_has_a_different_retry_secret(
    twin: Twin, authority: FakeAuthority, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = iter([b"1" * 32, b"2" * 32])
    monkeypatch.setattr(secrets, "token_bytes", lambda count: next(made))
    authority.answers("CreateSession", created())

    await twin.create("ana")
    await twin.create("ana")

    assert [request.retry_secret for request in authority.requests] == [b"1" * 32, b"2" * 32]


async def test_an_operation_can_continue_after_a_failed_call(
    twin: Twin, authority: FakeAuthority
) -> None:
    authority.answers("ValidateSession", Fault(grpc.StatusCode.INTERNAL), accepted())
    question = _core.Call(
        "/session_authority.v1.SessionService/ValidateSession",
        v1.ValidateSessionRequest(session_token=TOKEN).SerializeToString(),
    )

    def insisting() -> _core.Operation[bytes]:
        with pytest.raises(InternalError):
            yield question
        return (yield question)

    answer = v1.ValidateSessionResponse.FromString(await twin.run_operation(insisting()))
    assert answer.session.session_id == "s-1"


async def test_an_operation_raises_an_error_that_it_does_not_handle(
    twin: Twin, authority: FakeAuthority
) -> None:
    authority.answers("SignOut", Fault(grpc.StatusCode.INTERNAL))

    with pytest.raises(InternalError) as caught:
        await twin.run_operation(_core.sign_out(TOKEN))

    assert caught.value.__context__ is None
    assert caught.value.__cause__ is None
