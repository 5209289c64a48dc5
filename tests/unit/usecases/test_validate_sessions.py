from uuid import uuid4

import pytest

from session_authority_server.domain.errors import InvalidRequest
from session_authority_server.domain.session import Session
from session_authority_server.domain.token import Token
from session_authority_server.domain.verdict import (
    Rejection,
    RejectionReason,
)
from session_authority_server.usecases.validate_sessions import VALIDATIONS_LIMIT, Validation
from tests.support.engines import MINUTE, SECOND
from tests.unit.usecases.conftest import Authority


async def test_the_time_is_taken_after_the_store_was_read(authority: Authority) -> None:
    """A session that expires during the read is not accepted."""
    _, token = await authority.sign_in(lifetime=MINUTE)

    async def it_takes_long() -> None:
        authority.clock.advance(MINUTE)

    authority.store.before["read_sessions"] = it_takes_long
    assert await authority.answer(token) == Rejection(RejectionReason.EXPIRED)


# Activity


async def test_passive_validation_never_keeps_a_session_from_idling(authority: Authority) -> None:
    _, passive = await authority.sign_in(idle_timeout=MINUTE)
    _, active = await authority.sign_in(idle_timeout=MINUTE)
    for _ in range(8):
        authority.clock.advance(10 * SECOND)
        await authority.answer(passive)
        await authority.answer(active, passive=False)
        await authority.activity.flush()
    assert await authority.answer(passive) == Rejection(RejectionReason.IDLE_TIMEOUT)
    assert await authority.is_accepted(active)


# Many


async def test_many_questions_are_answered_in_order(authority: Authority) -> None:
    session, good = await authority.sign_in()
    _, ended = await authority.sign_in()
    await authority.sign_out(ended)
    forged = Token(session.session_id, b"f" * 32).encode()
    unknown = Token(uuid4(), b"f" * 32).encode()
    answers = await authority.validate_all(
        [
            Validation(good),
            Validation("garbage"),
            Validation(ended),
            Validation(forged),
            Validation(unknown),
            Validation(good, user_id="bob"),
            Validation(good, passive=True),
        ]
    )
    assert [each.session_id if isinstance(each, Session) else each.reason for each in answers] == [
        session.session_id,
        RejectionReason.NOT_FOUND,
        RejectionReason.SIGNED_OUT,
        RejectionReason.NOT_FOUND,
        RejectionReason.NOT_FOUND,
        RejectionReason.USER_MISMATCH,
        session.session_id,
    ]


async def test_a_thousand_questions_take_one_read_and_one_more_is_refused(
    authority: Authority,
) -> None:
    _, token = await authority.sign_in()
    authority.store.asked.clear()
    answers = await authority.validate_all([Validation(token)] * VALIDATIONS_LIMIT)
    assert all(isinstance(each, Session) for each in answers)
    assert authority.store.asked == ["read_sessions"]
    for count in (0, VALIDATIONS_LIMIT + 1):
        with pytest.raises(InvalidRequest) as refusal:
            await authority.validate_all([Validation(token)] * count)
        assert [each.field for each in refusal.value.violations] == ["requests"]
