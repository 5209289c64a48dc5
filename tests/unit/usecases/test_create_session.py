import asyncio
from datetime import timedelta

import pytest

from session_authority_server.domain.errors import (
    AuthenticationTooOld,
    InvalidRequest,
    RetryMismatch,
    RetryStale,
    SessionLimitReached,
)
from session_authority_server.domain.policy import AtLimit, Policy
from session_authority_server.domain.session import EndReason, InitiatingEntity
from session_authority_server.domain.token import hash_secret, parse
from session_authority_server.domain.verdict import Rejection, RejectionReason
from session_authority_server.usecases.create_session import SignIn
from session_authority_server.usecases.reauthenticate_session import Reauthentication
from tests.support.engines import DAY, MINUTE, SECOND, START, stored_fields
from tests.unit.usecases.conftest import Authority

CHROME = (
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) "
    "Chrome/140.0.0.0 Safari/537.36"
)
RETRY = b"r" * 32


async def test_a_sign_in_creates_a_session_with_all_its_fields(authority: Authority) -> None:
    session, token = await authority.sign_in(
        ip_address="::ffff:192.0.2.7",
        user_agent=CHROME,
        authenticate_time=START - MINUTE,
        authentication_methods=("pwd", "otp"),
        lifetime=DAY,
        idle_timeout=10 * MINUTE,
        attributes={"tenant": "acme"},
        caller="key-1",
    )
    assert session.user_id == "ann"
    assert session.device.display_name == "Chrome on Windows"
    assert session.ip_address == session.last_ip_address == "192.0.2.7"
    assert session.create_time == session.last_active_time == START
    assert session.authenticate_time == START - MINUTE
    assert session.authentication_methods == ("pwd", "otp")
    assert session.expire_time == START + DAY
    assert session.idle_expire_time == START + 10 * MINUTE
    assert dict(session.attributes) == {"tenant": "acme"}
    assert session.created_by == "key-1"
    assert await authority.is_accepted(token)


async def test_a_sign_in_without_options_gets_the_policys_defaults(
    authority: Authority,
) -> None:
    strict = authority.under(Policy(absolute_lifetime=7 * DAY, idle_timeout=DAY))
    session, _ = await strict.sign_in()
    assert session.expire_time == START + 7 * DAY
    assert session.idle_timeout == DAY
    assert session.authenticate_time == START
    assert session.ip_address is None


async def test_the_store_has_only_a_hash_of_the_token(authority: Authority) -> None:
    session, token = await authority.sign_in()
    parsed = parse(token)
    assert parsed is not None
    assert parsed.id == session.session_id
    assert (await authority.engine.get(parsed.id)).secret_hash == hash_secret(parsed.secret)


async def test_all_violations_are_reported_at_once_without_a_call_to_the_store(
    authority: Authority,
) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        await authority.sign_in(
            "",
            ip_address="nowhere",
            authenticate_time=START + DAY,
            authentication_methods=("",),
            lifetime=timedelta(0),
            idle_timeout=timedelta(0),
            attributes={"": ""},
            retry_secret=b"short",
        )
    assert [violation.field for violation in refusal.value.violations] == [
        "user_id",
        "ip_address",
        "authenticate_time",
        "authentication_methods[0]",
        "lifetime",
        "idle_timeout",
        "attributes[]",
        "retry_secret",
    ]
    assert authority.store.asked == []


# Limits


async def test_at_the_limit_the_least_recently_active_session_ends(authority: Authority) -> None:
    limited = authority.under(Policy(session_limit=2))
    tokens = []
    for _ in range(3):
        tokens.append((await limited.sign_in())[1])
        authority.clock.advance(MINUTE)
    assert await limited.answer(tokens[0]) == Rejection(RejectionReason.LIMIT)
    assert await limited.is_accepted(tokens[1])
    assert await limited.is_accepted(tokens[2])
    first = parse(tokens[0])
    assert first is not None
    ending = (await authority.engine.get(first.id)).ending
    assert ending is not None
    assert ending.time == START + 2 * MINUTE
    assert (ending.reason, ending.initiated_by) == (EndReason.LIMIT, InitiatingEntity.POLICY)


async def test_a_sign_in_that_the_policy_refuses_ends_no_session(authority: Authority) -> None:
    refusing = authority.under(Policy(session_limit=2, at_limit=AtLimit.REFUSE))
    tokens = [(await refusing.sign_in())[1] for _ in range(2)]
    with pytest.raises(SessionLimitReached) as refusal:
        await refusing.sign_in()
    assert refusal.value.limit == 2
    assert [await refusing.is_accepted(token) for token in tokens] == [True, True]
    await refusing.sign_out(tokens[0])
    await refusing.sign_in()


async def test_ended_sessions_without_a_recorded_ending_do_not_count(
    authority: Authority,
) -> None:
    refusing = authority.under(Policy(session_limit=1, at_limit=AtLimit.REFUSE))
    await refusing.sign_in(lifetime=SECOND)
    with pytest.raises(SessionLimitReached):
        await refusing.sign_in()
    authority.clock.advance(SECOND)
    await refusing.sign_in()


async def test_a_policy_without_a_limit_allows_any_number_of_sessions(authority: Authority) -> None:
    unlimited = authority.under(Policy(session_limit=None))
    tokens = [(await unlimited.sign_in())[1] for _ in range(110)]
    assert await unlimited.is_accepted(tokens[0])


@pytest.mark.parametrize("at_limit", AtLimit)
async def test_concurrent_sign_ins_keep_the_limit(authority: Authority, at_limit: AtLimit) -> None:
    limited = authority.under(Policy(session_limit=3, at_limit=at_limit))
    outcomes = await asyncio.gather(*(limited.sign_in() for _ in range(20)), return_exceptions=True)
    made = [outcome for outcome in outcomes if not isinstance(outcome, BaseException)]
    assert sum([await limited.is_accepted(token) for _, token in made]) == 3
    assert len(made) == (3 if at_limit is AtLimit.REFUSE else 20)


# Sweeps


async def test_a_refused_sign_in_ends_no_session(authority: Authority) -> None:
    limited = authority.under(Policy(session_limit=1))
    _, token = await limited.sign_in()
    authority.clock.advance(SECOND)
    await limited.revoke_others(token)
    with pytest.raises(AuthenticationTooOld):
        await limited.sign_in(authenticate_time=START)
    assert await limited.is_accepted(token)


# Repetitions


async def test_a_repetition_gets_the_same_session_and_token(authority: Authority) -> None:
    first, token = await authority.sign_in(retry_secret=RETRY)
    authority.clock.advance(10 * MINUTE - SECOND)
    again, same = await authority.sign_in(retry_secret=RETRY)
    assert (stored_fields(again), same) == (stored_fields(first), token)
    live = await authority.engine.sessions.list_live("ann", START, None, 10)
    assert len(live) == 1


async def test_concurrent_retries_create_one_session(authority: Authority) -> None:
    made = await asyncio.gather(*(authority.sign_in(retry_secret=RETRY) for _ in range(20)))
    assert len({token for _, token in made}) == 1
    assert len(await authority.engine.sessions.list_live("ann", START, None, 100)) == 1


async def test_a_repetition_at_the_limit_ends_nothing(authority: Authority) -> None:
    refusing = authority.under(Policy(session_limit=1, at_limit=AtLimit.REFUSE))
    _, token = await refusing.sign_in(retry_secret=RETRY)
    assert (await refusing.sign_in(retry_secret=RETRY))[1] == token


async def test_after_the_retry_window_a_repetition_is_a_new_sign_in(
    authority: Authority,
) -> None:
    first, token = await authority.sign_in(retry_secret=RETRY)
    authority.clock.advance(10 * MINUTE)
    other, new = await authority.sign_in(retry_secret=RETRY)
    assert other.session_id != first.session_id
    assert new != token
    assert await authority.is_accepted(token)
    assert (await authority.sign_in(retry_secret=RETRY))[1] == new


@pytest.mark.parametrize(
    "other",
    [
        {"user_id": "bob"},
        {"ip_address": "192.0.2.9"},
        {"user_agent": CHROME},
        {"authenticate_time": START - SECOND},
        {"authentication_methods": ("otp",)},
        {"lifetime": DAY},
        {"idle_timeout": DAY},
        {"attributes": {"a": "b"}},
    ],
    ids=lambda other: next(iter(other)),
)
async def test_a_repetition_with_other_parameters_is_refused(
    authority: Authority, other: dict[str, object]
) -> None:
    await authority.sign_in(retry_secret=RETRY)
    with pytest.raises(RetryMismatch) as refusal:
        await authority.create(
            SignIn(**({"user_id": "ann", "retry_secret": RETRY} | other))  # type: ignore[arg-type]
        )
    assert refusal.value.violations[0].field == "retry_secret"


async def test_a_retry_of_another_caller_is_a_separate_sign_in(authority: Authority) -> None:
    first, _ = await authority.sign_in(retry_secret=RETRY, caller="key-1")
    other, _ = await authority.sign_in(retry_secret=RETRY, caller="key-2")
    assert other.session_id != first.session_id


async def test_a_repetition_never_revives_an_ended_session(authority: Authority) -> None:
    _, token = await authority.sign_in(retry_secret=RETRY)
    await authority.sign_out(token)
    with pytest.raises(RetryStale):
        await authority.sign_in(retry_secret=RETRY)
    assert await authority.engine.sessions.list_live("ann", START, None, 10) == []


async def test_a_repetition_never_revives_a_superseded_token(authority: Authority) -> None:
    _, token = await authority.sign_in(retry_secret=RETRY)
    await authority.reauthenticate(Reauthentication(session_token=token))
    with pytest.raises(RetryStale):
        await authority.sign_in(retry_secret=RETRY)


async def test_a_sign_in_that_failed_can_be_repeated(authority: Authority) -> None:
    refusing = authority.under(Policy(session_limit=1, at_limit=AtLimit.REFUSE))
    _, blocking = await refusing.sign_in()
    with pytest.raises(SessionLimitReached):
        await refusing.sign_in(retry_secret=RETRY)
    await refusing.sign_out(blocking)
    _, token = await refusing.sign_in(retry_secret=RETRY)
    assert await refusing.is_accepted(token)
