"""The types of the public names. This file is type-checked and never run."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import assert_type

from session_authority import (
    AsyncSessionClient,
    Device,
    DeviceType,
    EndReason,
    EndSubscription,
    FieldViolation,
    InitiatingEntity,
    InvalidArgument,
    Location,
    NearCache,
    NearCacheStatistics,
    NewSession,
    Rejection,
    RejectionReason,
    RevokedSession,
    Session,
    SessionAuthorityError,
    SessionClient,
    SessionNotLive,
    SessionState,
    SessionToken,
    Unavailable,
    ValidationRequest,
    events,
    testing,
)


def a_validation_is_narrowed_by_its_truth_value(client: SessionClient, token: str | None) -> None:
    if session := client.validate(token, ip_address="192.0.2.1", user_id="ana", passive=True):
        assert_type(session, Session)
    else:
        assert_type(session, Rejection)
        assert_type(session.reason, RejectionReason)


def the_client_accepts_masked_and_plain_tokens(client: SessionClient, token: SessionToken) -> None:
    new = client.create("ana", user_agent=b"Mozilla", lifetime=timedelta(days=1))
    assert_type(new, NewSession)
    assert_type(new.token, SessionToken)
    assert_type(new.token.reveal(), str)
    assert_type(client.validate(token), Session | Rejection)
    assert_type(client.validate_cached(token), Session | Rejection | None)
    assert_type(client.require("ses_"), Session)
    assert_type(client.validate_many([ValidationRequest(token)]), list[Session | Rejection])
    assert_type(client.list(token, show_ended=True), list[Session])
    revoked = client.revoke(token, "s-1")
    assert_type(revoked, RevokedSession)
    assert_type(revoked.effective_time, datetime)
    assert_type(revoked.already_ended, bool)
    assert_type(client.revoke_identity("https://id.example", sid="s-1"), datetime)
    assert_type(client.name(token, "s-1", "Study"), Session)
    assert_type(client.revoke_others(token), datetime)
    assert_type(client.sign_out(None), datetime)
    assert_type(client.reauthenticate(token, authentication_methods=["pwd"]), NewSession)
    with SessionClient.from_env() as entered:
        assert_type(entered, SessionClient)


async def the_async_client_has_the_same_types(
    client: AsyncSessionClient, token: SessionToken
) -> None:
    if session := await client.validate(token):
        assert_type(session, Session)
    assert_type(await client.create("ana", attributes={"tenant": "t-1"}), NewSession)
    assert_type(client.validate_cached(token), Session | Rejection | None)
    assert_type(await client.require("ses_"), Session)
    assert_type(await client.validate_many([ValidationRequest(None)]), list[Session | Rejection])
    assert_type(await client.list(token), list[Session])
    assert_type(await client.revoke(token, "s-1"), RevokedSession)
    assert_type(await client.revoke_identity("https://id.example", sid="s-1"), datetime)
    assert_type(await client.name(token, "s-1", "Study"), Session)
    assert_type(await client.revoke_others(token), datetime)
    assert_type(await client.sign_out(token), datetime)
    assert_type(await client.reauthenticate(token), NewSession)
    assert_type(await client.close(), None)
    async with AsyncSessionClient.from_env() as entered:
        assert_type(entered, AsyncSessionClient)


def a_near_cache_can_be_enabled_and_read() -> None:
    client = SessionClient(near_cache=True)
    AsyncSessionClient(near_cache=NearCache(max_sessions=5, activity_seconds=10))
    assert_type(client.near_cache_statistics, NearCacheStatistics | None)
    if statistics := client.near_cache_statistics:
        assert_type(statistics.hits, int)
        assert_type(statistics.connected, bool)
        assert_type(statistics.lease_age_seconds, float | None)
        assert_type(statistics.problem, str | None)


async def the_end_of_a_session_can_be_watched(
    client: SessionClient, async_client: AsyncSessionClient
) -> None:
    def ended(error: SessionAuthorityError) -> None: ...

    async def ended_too(error: SessionAuthorityError) -> None: ...

    assert_type(client.on_end("ses_x", ended), EndSubscription)
    subscription = await async_client.on_end(SessionToken("ses_x"), ended_too)
    assert_type(subscription.ended, SessionAuthorityError | None)
    assert_type(subscription.cancel(), None)


def optional_fields_of_a_session_may_be_none(session: Session) -> None:
    assert_type(session.session_id, str)
    assert_type(session.state, SessionState)
    assert_type(session.device, Device)
    assert_type(session.device.type, DeviceType)
    assert_type(session.location, Location | None)
    assert_type(session.ip_address, str | None)
    assert_type(session.create_time, datetime)
    assert_type(session.authentication_methods, tuple[str, ...])
    assert_type(session.idle_expire_time, datetime | None)
    assert_type(session.end_time, datetime | None)
    assert_type(session.end_reason, EndReason | None)
    assert_type(session.initiating_entity, InitiatingEntity | None)
    assert_type(session.attributes, Mapping[str, str])


def errors_have_their_attributes(client: SessionClient) -> None:
    try:
        client.require(None)
    except SessionNotLive as error:
        assert_type(error.rejection, Rejection | None)
    except Unavailable as error:
        assert_type(error.retry_after, timedelta | None)
    except InvalidArgument as error:
        assert_type(error.violations, tuple[FieldViolation, ...])
        assert_type(error.reason, str | None)
        assert_type(error.metadata, Mapping[str, str])


def a_test_runs_an_authority() -> None:
    with testing.authority(idle_timeout=timedelta(hours=1), session_limit=None) as authority:
        assert_type(authority, testing.Authority)
        assert_type(authority.address, str)
        assert_type(authority.environment, Mapping[str, str])
        assert_type(authority.now, datetime)
        assert_type(authority.client(), SessionClient)
        assert_type(authority.async_client(), AsyncSessionClient)
        assert_type(authority.sign_in("ana", user_agent="curl"), NewSession)
        authority.advance(timedelta(days=1))
        with authority.outage():
            authority.stop()
        authority.advance(60)  # type: ignore[arg-type]


def mistakes_are_type_errors(client: SessionClient, session: Session) -> None:
    session.user_id = "eve"  # type: ignore[misc]
    session.attributes["tenant"] = "t-2"  # type: ignore[index]
    client.validate(b"ses_")  # type: ignore[arg-type]
    client.create("ana", "192.0.2.1")  # type: ignore[call-arg]
    client.create("ana", lifetime=60)  # type: ignore[arg-type]


def an_event_is_narrowed_by_its_class(headers: Mapping[str, str], body: bytes) -> None:
    event = events.verify(headers, body, ["whsec_"])
    assert_type(event, events.Event)
    match event:
        case events.NewDevice() | events.SessionEstablished():
            assert_type(event.device, Device)
            assert_type(event.location, Location | None)
        case events.SessionEnded():
            assert_type(event.reason, EndReason)
        case events.SessionsSwept():
            assert_type(event.user_id, str | None)
