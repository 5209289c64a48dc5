"""Operators end the sessions of a user, of a key or of all users, or one session, and erase users."""

from collections.abc import Awaitable, Callable
from datetime import timedelta
from functools import partial

import pytest

from session_authority_server.domain.errors import (
    AuthenticationTooOld,
    InvalidRequest,
    RetryStale,
    SessionNotLive,
)
from session_authority_server.domain.session import InitiatingEntity, Session
from session_authority_server.domain.token import Token, time_of
from session_authority_server.domain.verdict import NOT_FOUND, Rejection, RejectionReason
from session_authority_server.usecases.create_session import SignIn
from session_authority_server.usecases.erase_user import Erasure
from session_authority_server.usecases.reauthenticate_session import Reauthentication
from tests.support.engines import MINUTE, SECOND, START
from tests.unit.usecases.conftest import Authority, store_fails

EFFECTIVE = timedelta(seconds=3.1)
ADMIN = InitiatingEntity.ADMIN
REVOKED = Rejection(RejectionReason.REVOKED)
RETRY_SECRET = b"r" * 32


# Sessions of one user and of all users


Sweeping = Callable[[Authority], Awaitable[object]]
SWEEPS: dict[str, Sweeping] = {
    "hers": lambda authority: authority.revoke_user("ann"),
    "everybody's": lambda authority: authority.revoke_all(),
    "an erasure": lambda authority: authority.erase_user("ann"),
}


@pytest.mark.parametrize("sweep", SWEEPS.values(), ids=SWEEPS)
@pytest.mark.parametrize("known", [True, False])
async def test_a_sign_in_that_began_before_the_revocation_is_refused(
    authority: Authority, sweep: Sweeping, known: bool
) -> None:
    if known:
        await authority.sign_in("ann")
    authority.clock.advance(MINUTE)
    await sweep(authority)
    authority.clock.advance(SECOND)
    for _ in range(2):  # a refused sign-in must not make the next one succeed
        with pytest.raises(AuthenticationTooOld):
            await authority.sign_in("ann", authenticate_time=START + MINUTE - SECOND / 1000)
    _, token = await authority.sign_in("ann", authenticate_time=START + MINUTE)
    assert await authority.is_accepted(token)
    with pytest.raises(AuthenticationTooOld):
        await authority.sign_in("ann", authenticate_time=START)


@pytest.mark.parametrize("sweep", SWEEPS.values(), ids=SWEEPS)
async def test_a_sign_in_in_flight_without_a_given_time_is_refused(
    authority: Authority, sweep: Sweeping
) -> None:
    """Without a given time, the server uses the time of the call. Here that is before the sweep."""

    async def swept_meanwhile() -> None:
        authority.clock.advance(SECOND)
        await sweep(authority)

    authority.store.before["transact"] = swept_meanwhile
    with pytest.raises(AuthenticationTooOld):
        await authority.sign_in("ann")


@pytest.mark.parametrize("sweep", SWEEPS.values(), ids=SWEEPS)
@pytest.mark.parametrize("meanwhile", [True, False])
async def test_a_re_authentication_does_not_survive_a_sweep(
    authority: Authority, sweep: Sweeping, meanwhile: bool
) -> None:
    _, token = await authority.sign_in("ann")
    if meanwhile:
        authority.store.before["transact"] = lambda: sweep(authority)
    else:
        await sweep(authority)
    with pytest.raises(SessionNotLive):
        await authority.reauthenticate(Reauthentication(session_token=token))
    assert not await authority.is_accepted(token)


@pytest.mark.parametrize("sweep", SWEEPS.values(), ids=SWEEPS)
async def test_a_retry_of_an_earlier_sign_in_creates_no_new_session(
    authority: Authority, sweep: Sweeping
) -> None:
    request = SignIn(user_id="ann", retry_secret=RETRY_SECRET)
    await authority.create(request)
    await sweep(authority)
    authority.clock.advance(MINUTE)
    with pytest.raises(RetryStale):
        await authority.create(request)


# One


async def test_revoking_by_token_ends_its_session_even_if_superseded(
    authority: Authority,
) -> None:
    _, found = await authority.sign_in()
    await authority.revoke_by_token(found)
    assert await authority.answer(found) == REVOKED
    _, old = await authority.sign_in()
    _, new = await authority.reauthenticate(Reauthentication(session_token=old))
    await authority.revoke_by_token(old)
    assert await authority.answer(new.encode()) == REVOKED


async def test_a_forged_token_ends_nothing_and_gets_the_same_answer(authority: Authority) -> None:
    session, token = await authority.sign_in()
    forged = Token(session.session_id, b"f" * 32).encode()
    assert await authority.revoke_by_token(forged) == START + EFFECTIVE
    assert await authority.is_accepted(token)


async def test_a_session_that_had_already_ended_keeps_its_ending(authority: Authority) -> None:
    session, token = await authority.sign_in(lifetime=MINUTE)
    authority.clock.advance(MINUTE)
    await authority.revoke_by_id(str(session.session_id))
    assert await authority.answer(token) == Rejection(RejectionReason.EXPIRED)


@pytest.mark.parametrize("user_id", ["", "a" * 256, "a\0"])
@pytest.mark.parametrize("call", ["revoke_user", "erase_user"])
async def test_an_invalid_user_id_is_refused(authority: Authority, call: str, user_id: str) -> None:
    with pytest.raises(InvalidRequest):
        await getattr(authority, call)(user_id)
    assert authority.store.asked == []


@pytest.mark.parametrize("reason", ["é" * 129, "two\nlines"])
async def test_a_reason_beyond_the_limits_is_refused_before_anything_ends(
    authority: Authority, reason: str
) -> None:
    session, token = await authority.sign_in()
    calls: list[Callable[[], Awaitable[object]]] = [
        lambda: authority.revoke_user("ann", reason),
        lambda: authority.revoke_all(reason),
        lambda: authority.revoke_by_id(str(session.session_id), reason),
        lambda: authority.revoke_by_token(token, reason),
        lambda: authority.revoke_key("key", None, reason),
    ]
    for call in calls:
        with pytest.raises(InvalidRequest) as refusal:
            await call()
        assert [each.field for each in refusal.value.violations] == ["reason"]
    assert await authority.is_accepted(token)


# Sessions created by a key


async def made_by(authority: Authority, key: str, count: int) -> list[tuple[Session, str]]:
    return [await authority.sign_in(caller=key) for _ in range(count)]


async def test_a_revocation_that_runs_out_of_time_continues_at_the_next_call(
    authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("session_authority_server.usecases.operator_revoke.BATCH_LIMIT", 2)
    revoke = partial(authority.revoke_key, budget_seconds=0)
    made = []
    for _ in range(5):
        made += await made_by(authority, "key", 1)
        authority.clock.advance(SECOND)
    done = await revoke("key", START)
    assert done.resume_time == time_of(made[1][0].session_id)
    calls = 1
    while done.resume_time is not None:
        done, calls = await revoke("key", done.resume_time), calls + 1
    assert calls > 2
    assert [await authority.answer(token) for _, token in made] == [REVOKED] * 5


# Erasing


async def test_an_erasure_that_runs_out_of_time_has_ended_all_sessions_and_reports_incomplete(
    authority: Authority,
) -> None:
    _, token = await authority.sign_in()
    assert await authority.erase_user("ann", budget_seconds=0) == Erasure(
        START + EFFECTIVE, complete=False
    )
    assert await authority.answer(token) == REVOKED
    [pending] = await authority.engine.upkeep.pending_erasures(10)
    assert pending.user_id == "ann"
    assert (await authority.erase_user("ann")).complete
    assert await authority.answer(token) == NOT_FOUND


async def test_an_erasure_whose_deletion_fails_has_ended_all_sessions(authority: Authority) -> None:
    _, token = await authority.sign_in()
    authority.store.before["erase_some"] = store_fails
    assert await authority.erase_user("ann") == Erasure(START + EFFECTIVE, complete=False)
    assert await authority.answer(token) == REVOKED


async def test_a_sign_out_during_an_erasure_leaves_no_data_of_the_user(
    authority: Authority,
) -> None:
    session, token = await authority.sign_in("ann")
    engine = authority.engine

    class Overtaken:
        """A store whose transactions find the session at the first read only."""

        def __getattr__(self, name: str) -> object:
            return getattr(engine.sessions, name)

        async def transact(self, work: Callable[[object], Awaitable[object]]) -> object:
            async def with_a_gap(transaction: object) -> object:
                return await work(Gap(transaction))

            return await engine.sessions.transact(with_a_gap)

    class Gap:
        def __init__(self, transaction: object) -> None:
            self._transaction = transaction
            self._reads = [session, None]

        async def read_session(self, _session_id: object, of_user: str | None = None) -> object:
            return self._reads.pop(0)

        def __getattr__(self, name: str) -> object:
            return getattr(self._transaction, name)

    await authority.erase_user("ann")
    overtaken = Authority(engine, authority.clock, Overtaken(), authority.policy)
    assert await overtaken.sign_out(token) == START + EFFECTIVE
    assert await overtaken.revoke_by_token(token) == START + EFFECTIVE

    async def users(connection: object) -> list[str]:
        found = await connection.exec_driver_sql("SELECT user_id FROM users")  # type: ignore[attr-defined]
        return list(found.scalars())

    assert await engine.database.read(users) == []
