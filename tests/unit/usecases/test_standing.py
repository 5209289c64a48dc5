"""Restrictions on listing, revoking and naming: a recent proof of identity, and no actors."""

from collections.abc import Awaitable, Callable
from datetime import timedelta

import pytest

from session_authority_server.domain.errors import (
    ImpersonationForbidden,
    InvalidRequest,
    ReauthenticationRequired,
    RetryMismatch,
    SessionNotLive,
)
from session_authority_server.domain.policy import Policy
from session_authority_server.domain.verdict import Rejection, RejectionReason
from session_authority_server.usecases.create_session import SignIn
from session_authority_server.usecases.list_sessions import Listing
from session_authority_server.usecases.reauthenticate_session import Reauthentication
from session_authority_server.usecases.validate_sessions import Validation
from tests.support.engines import MINUTE, SECOND, START
from tests.unit.usecases.conftest import Authority

MAX_AGE = timedelta(minutes=5)
CALLS: dict[str, Callable[[Authority, str, str], Awaitable[object]]] = {
    "list": lambda authority, token, _own: authority.list(Listing(session_token=token)),
    "revoke": lambda authority, token, own: authority.revoke(token, own),
    "name": lambda authority, token, own: authority.name(token, own, "Study"),
    "revoke others": lambda authority, token, _own: authority.revoke_others(token),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
async def test_an_old_proof_of_identity_is_refused_if_the_policy_limits_its_age(
    authority: Authority, call: Callable[[Authority, str, str], Awaitable[object]]
) -> None:
    wary = authority.under(Policy(max_authentication_age=MAX_AGE))
    target, other = await wary.sign_in()
    session, token = await wary.sign_in(authenticate_time=START - MINUTE)
    wary.clock.advance(4 * MINUTE + SECOND / 1000)
    with pytest.raises(ReauthenticationRequired) as refusal:
        await call(wary, token, str(target.session_id))
    assert refusal.value.max_age == MAX_AGE
    assert await wary.is_accepted(other)
    assert await wary.is_accepted(token)
    await call(authority, token, str(target.session_id))  # the default accepts any age
    assert await wary.is_accepted(token)
    _, new = await wary.reauthenticate(Reauthentication(session_token=token))
    await call(wary, new.encode(), str(session.session_id))


async def test_a_proof_exactly_at_the_age_limit_is_enough(authority: Authority) -> None:
    wary = authority.under(Policy(max_authentication_age=MAX_AGE))
    _, token = await wary.sign_in()
    wary.clock.advance(MAX_AGE)
    assert (await wary.list(Listing(session_token=token))).sessions


async def test_an_invalid_token_does_not_get_re_authentication_required(
    authority: Authority,
) -> None:
    wary = authority.under(Policy(max_authentication_age=MAX_AGE))
    _, token = await wary.sign_in()
    await wary.sign_out(token)
    wary.clock.advance(2 * MAX_AGE)
    with pytest.raises(SessionNotLive):
        await wary.list(Listing(session_token=token))


async def test_an_actor_can_sign_out_and_stays_an_actor_after_a_renewal(
    authority: Authority,
) -> None:
    _, token = await authority.sign_in(actor_id="support-7")
    renewed, new = await authority.reauthenticate(Reauthentication(session_token=token))
    assert renewed.actor_id == "support-7"
    with pytest.raises(ImpersonationForbidden):
        await authority.revoke_others(new.encode())
    await authority.sign_out(new.encode())
    answer = await authority.validate(Validation(new.encode()))
    assert answer == Rejection(RejectionReason.SIGNED_OUT)


@pytest.mark.parametrize("actor_id", ["a" * 256, "two\nlines"])
async def test_an_actor_id_has_the_same_limits_as_a_user_id(
    authority: Authority, actor_id: str
) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        await authority.sign_in(actor_id=actor_id)
    assert [each.field for each in refusal.value.violations] == ["actor_id"]


async def test_a_sign_in_with_another_actor_is_no_repetition(authority: Authority) -> None:
    secret = b"r" * 32
    session, _ = await authority.create(SignIn(user_id="ann", actor_id="one", retry_secret=secret))
    again, _ = await authority.create(SignIn(user_id="ann", actor_id="one", retry_secret=secret))
    assert again.session_id == session.session_id
    for other in ("", "two"):
        with pytest.raises(RetryMismatch):
            await authority.create(SignIn(user_id="ann", actor_id=other, retry_secret=secret))
