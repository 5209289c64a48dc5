import asyncio
from datetime import timedelta

import pytest

from session_authority_server.domain.errors import (
    RetryMismatch,
    RetryStale,
    SessionNotLive,
)
from session_authority_server.domain.session import Session
from session_authority_server.domain.verdict import SUPERSEDED
from session_authority_server.ports.store import Transaction
from session_authority_server.usecases.reauthenticate_session import Reauthentication
from tests.support.engines import DAY, MINUTE, SECOND, START, stored_fields
from tests.unit.usecases.conftest import Authority

RETRY = b"r" * 32


async def renew(
    authority: Authority, token: str, retry_secret: bytes = b"", **said: object
) -> tuple[Session, str]:
    request = Reauthentication(session_token=token, retry_secret=retry_secret, **said)  # type: ignore[arg-type]
    session, new = await authority.reauthenticate(request)
    return session, new.encode()


async def test_a_session_gets_a_new_token_and_the_old_token_is_rejected(
    authority: Authority,
) -> None:
    session, old = await authority.sign_in()
    renewed, new = await renew(authority, old, authentication_methods=("hwk",))
    assert renewed.session_id == session.session_id
    assert renewed.authentication_methods == ("hwk",)
    assert await authority.answer(old) == SUPERSEDED
    assert await authority.is_accepted(new)
    with pytest.raises(SessionNotLive):
        await renew(authority, old)


async def test_lifetime_and_idle_timeout_restart(authority: Authority) -> None:
    _, token = await authority.sign_in(lifetime=DAY, idle_timeout=60 * MINUTE)
    authority.clock.advance(59 * MINUTE)
    renewed, new = await renew(authority, token, authenticate_time=START + 58 * MINUTE)
    now = START + 59 * MINUTE
    assert renewed.expire_time == now + DAY
    assert renewed.idle_expire_time == now + 60 * MINUTE
    assert renewed.authenticate_time == START + 58 * MINUTE
    assert renewed.create_time == START
    assert stored_fields(await authority.engine.get(renewed.session_id)) == stored_fields(renewed)
    authority.clock.advance(59 * MINUTE)
    assert await authority.is_accepted(new)


async def test_one_of_two_concurrent_re_authentications_succeeds(authority: Authority) -> None:
    _, token = await authority.sign_in()
    outcomes = await asyncio.gather(
        *(renew(authority, token) for _ in range(5)), return_exceptions=True
    )
    won = [each for each in outcomes if not isinstance(each, BaseException)]
    assert len(won) == 1
    assert await authority.is_accepted(won[0][1])


async def test_an_ended_session_is_not_renewed(authority: Authority) -> None:
    _, token = await authority.sign_in()
    await authority.sign_out(token)
    for proof in (token, "", "garbage"):
        with pytest.raises(SessionNotLive):
            await renew(authority, proof)


async def test_a_session_that_ends_while_it_is_renewed_stays_ended(
    authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sign-out commits between the proof of the session and its renewal."""
    _, token = await authority.sign_in()

    async def transact(work: object) -> object:
        class Late:
            def __init__(self, transaction: Transaction) -> None:
                self._transaction = transaction

            def __getattr__(self, name: str) -> object:
                return getattr(self._transaction, name)

            async def renew_session(self, _session: Session, *, replaces: bytes) -> bool:
                return not replaces

        return await authority.engine.sessions.transact(lambda it: work(Late(it)))  # type: ignore[operator]

    monkeypatch.setattr(authority.store, "transact", transact, raising=False)
    with pytest.raises(SessionNotLive):
        await renew(authority, token)


async def test_a_renewed_session_is_swept_like_any_other(authority: Authority) -> None:
    _, token = await authority.sign_in()
    _, other = await authority.sign_in()
    _, new = await renew(authority, token)
    await authority.revoke_others(other)
    assert not await authority.is_accepted(new)


# Repetitions


async def test_a_repetition_gets_the_same_token(authority: Authority) -> None:
    _, old = await authority.sign_in()
    first, token = await renew(authority, old, RETRY)
    authority.clock.advance(10 * MINUTE - SECOND)
    again, same = await renew(authority, old, RETRY)
    assert (stored_fields(again), same) == (stored_fields(first), token)


async def test_concurrent_repetitions_renew_once(authority: Authority) -> None:
    _, old = await authority.sign_in()
    made = await asyncio.gather(*(renew(authority, old, RETRY) for _ in range(10)))
    assert len({token for _, token in made}) == 1
    assert await authority.is_accepted(made[0][1])


async def test_after_the_retry_window_the_old_token_is_rejected(authority: Authority) -> None:
    _, old = await authority.sign_in()
    _, new = await renew(authority, old, RETRY)
    authority.clock.advance(10 * MINUTE)
    with pytest.raises(SessionNotLive):
        await renew(authority, old, RETRY)
    assert await authority.is_accepted(new)


async def test_a_repetition_with_other_methods_is_refused(authority: Authority) -> None:
    _, old = await authority.sign_in()
    await renew(authority, old, RETRY)
    for other in (
        {"authentication_methods": ("otp",)},
        {"authenticate_time": START - timedelta(seconds=1)},
    ):
        with pytest.raises(RetryMismatch):
            await renew(authority, old, RETRY, **other)


async def test_a_retry_never_revives_an_ended_or_renewed_session(
    authority: Authority,
) -> None:
    _, old = await authority.sign_in()
    _, new = await renew(authority, old, RETRY)
    _, newer = await renew(authority, new)
    with pytest.raises(RetryStale):
        await renew(authority, old, RETRY)
    await authority.sign_out(newer)
    with pytest.raises(RetryStale):
        await renew(authority, old, RETRY)
