from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest

from session_authority_server.domain.errors import (
    StoreUnavailable,
)
from session_authority_server.domain.session import Ending, EndReason, InitiatingEntity
from session_authority_server.domain.token import Token
from session_authority_server.domain.verdict import NOT_FOUND, Rejection, RejectionReason
from session_authority_server.store.transaction import SqlTransaction
from tests.support.engines import MINUTE, SECOND, START
from tests.unit.usecases.conftest import Authority

EFFECTIVE = timedelta(seconds=3.1)
USER = InitiatingEntity.USER


async def store_fails() -> None:
    raise StoreUnavailable("writing")


async def test_signing_out_ends_exactly_that_session(authority: Authority) -> None:
    _, token = await authority.sign_in()
    _, other = await authority.sign_in()
    assert await authority.sign_out(token) == START + EFFECTIVE
    assert await authority.answer(token) == Rejection(RejectionReason.SIGNED_OUT)
    assert await authority.is_good(other)


async def test_signing_out_again_is_a_success_that_changes_nothing(authority: Authority) -> None:
    session, token = await authority.sign_in()
    await authority.sign_out(token)
    authority.clock.advance(SECOND)
    assert await authority.sign_out(token) == START + SECOND + EFFECTIVE
    ending = (await authority.engine.get(session.session_id)).ending
    assert ending == Ending(START, EndReason.SIGNED_OUT, USER)


async def test_what_is_no_token_is_signed_out_without_a_look_at_the_store(
    authority: Authority,
) -> None:
    assert await authority.sign_out("garbage") == START + EFFECTIVE
    assert authority.store.asked == []


async def test_an_expired_session_is_not_recorded_as_signed_out(authority: Authority) -> None:
    _, token = await authority.sign_in(lifetime=MINUTE)
    authority.clock.advance(MINUTE)
    await authority.sign_out(token)
    assert await authority.answer(token) == Rejection(RejectionReason.EXPIRED)


async def test_a_forged_token_signs_nobody_out(authority: Authority) -> None:
    session, token = await authority.sign_in()
    forged = Token(session.session_id, b"f" * 32).encode()
    await authority.sign_out(forged)
    assert await authority.is_good(token)
    assert await authority.answer(forged) == NOT_FOUND


async def test_a_forged_token_is_looked_at_no_longer_than_an_unknown_one(
    authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    session, token = await authority.sign_in()
    asked: list[str] = []
    for name in ("read_session", "lock_user", "end_session"):
        original = getattr(SqlTransaction, name)

        async def noted(*given: Any, name: str = name, original: Any = original) -> Any:
            asked.append(name)
            return await original(*given)

        monkeypatch.setattr(SqlTransaction, name, noted)
    for presented in (Token(session.session_id, b"f" * 32), Token(uuid4(), b"f" * 32)):
        await authority.sign_out(presented.encode())
        assert asked == ["read_session"]
        asked.clear()
    await authority.sign_out(token)
    assert asked == ["read_session", "lock_user", "read_session", "end_session"]
