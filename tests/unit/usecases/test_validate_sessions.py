import asyncio
from uuid import uuid4

import pytest

from session_authority_server.domain.errors import InvalidRequest, StoreUnavailable
from session_authority_server.domain.session import Session
from session_authority_server.domain.token import Token
from session_authority_server.domain.verdict import (
    NOT_FOUND,
    USER_MISMATCH,
    Rejection,
    RejectionReason,
)
from session_authority_server.usecases.validate_sessions import VALIDATIONS_LIMIT, Validation
from tests.support.engines import DAY, MINUTE, SECOND, START
from tests.unit.usecases.conftest import Authority

GARBAGE = ["", "garbage", "ses_" + "0" * 70, "sak_" + "0" * 70, "ses_\0", "é" * 74]


async def store_fails() -> None:
    raise StoreUnavailable("reading")


async def test_the_token_of_a_live_session_gives_the_session(authority: Authority) -> None:
    session, token = await authority.sign_in()
    answer = await authority.validate(Validation(token))
    assert isinstance(answer, Session)
    assert answer.session_id == session.session_id


@pytest.mark.parametrize("text", GARBAGE)
async def test_what_is_no_token_is_refused_without_a_look_at_the_store(
    authority: Authority, text: str
) -> None:
    assert await authority.validate(Validation(text)) == NOT_FOUND
    assert await authority.validate_all([Validation(text)]) == [NOT_FOUND]
    assert authority.store.asked == []


async def test_a_well_formed_token_of_no_session_is_not_found(authority: Authority) -> None:
    forged = Token(uuid4(), b"f" * 32).encode()
    assert await authority.validate(Validation(forged)) == NOT_FOUND


async def test_the_id_of_a_session_with_another_secret_is_not_found(authority: Authority) -> None:
    session, token = await authority.sign_in()
    forged = Token(session.session_id, b"f" * 32).encode()
    assert await authority.validate(Validation(forged)) == NOT_FOUND
    await authority.sign_out(token)
    assert await authority.validate(Validation(forged)) == NOT_FOUND


async def test_another_users_token_is_a_mismatch_and_no_activity(authority: Authority) -> None:
    session, token = await authority.sign_in()
    authority.clock.advance(MINUTE)
    assert await authority.validate(Validation(token, user_id="bob")) == USER_MISMATCH
    assert len(authority.activity) == 0
    assert isinstance(await authority.validate(Validation(token, user_id="ann")), Session)
    assert session.user_id == "ann"


async def test_a_session_over_its_lifetime_is_refused_although_no_worker_ran(
    authority: Authority,
) -> None:
    _, token = await authority.sign_in(lifetime=DAY)
    authority.clock.advance(DAY - SECOND)
    assert await authority.is_good(token)
    authority.clock.advance(SECOND)
    assert await authority.answer(token) == Rejection(RejectionReason.EXPIRED)


async def test_another_address_never_invalidates(authority: Authority) -> None:
    _, token = await authority.sign_in(ip_address="192.0.2.1")
    answer = await authority.validate(Validation(token, ip_address="2001:db8::9"))
    assert isinstance(answer, Session)


async def test_an_address_that_is_none_is_the_callers_mistake(authority: Authority) -> None:
    _, token = await authority.sign_in()
    with pytest.raises(InvalidRequest) as refusal:
        await authority.validate(Validation(token, ip_address="nowhere"))
    assert [each.field for each in refusal.value.violations] == ["ip_address"]
    with pytest.raises(InvalidRequest) as refusal:
        await authority.validate_all([Validation(token), Validation(token, ip_address="nowhere")])
    assert [each.field for each in refusal.value.violations] == ["requests[1].ip_address"]


async def test_the_time_is_taken_after_the_store_was_read(authority: Authority) -> None:
    """However long the read took, what expired meanwhile is not accepted."""
    _, token = await authority.sign_in(lifetime=MINUTE)

    async def it_takes_long() -> None:
        authority.clock.advance(MINUTE)

    authority.store.before["read_sessions"] = it_takes_long
    assert await authority.answer(token) == Rejection(RejectionReason.EXPIRED)


async def test_a_store_that_cannot_be_read_accepts_nothing(authority: Authority) -> None:
    _, token = await authority.sign_in()
    authority.store.before["read_sessions"] = store_fails
    with pytest.raises(StoreUnavailable):
        await authority.answer(token)
    authority.store.before["read_sessions"] = store_fails
    with pytest.raises(StoreUnavailable):
        await authority.validate_all([Validation(token), Validation("garbage")])
    assert await authority.is_good(token)


async def test_a_session_is_refused_from_its_revocation_on(authority: Authority) -> None:
    session, token = await authority.sign_in()
    _, other = await authority.sign_in()
    asked_before = asyncio.create_task(authority.answer(token))
    await authority.revoke(other, str(session.session_id))
    assert await authority.answer(token) == Rejection(RejectionReason.REVOKED)
    await asked_before
    assert await authority.is_good(other)


# Activity


async def test_a_validation_counts_as_activity_unless_it_is_passive(authority: Authority) -> None:
    session, token = await authority.sign_in(ip_address="192.0.2.1")
    authority.clock.advance(MINUTE)
    await authority.validate(Validation(token, ip_address="192.0.2.2", passive=True))
    await authority.activity.flush()
    assert (await authority.engine.get(session.session_id)).last_active_time == START
    await authority.validate(Validation(token, ip_address="192.0.2.2"))
    await authority.activity.flush()
    found = await authority.engine.get(session.session_id)
    assert found.last_active_time == START + MINUTE
    assert found.last_ip_address == "192.0.2.2"


async def test_passive_validation_never_keeps_a_session_from_idling(authority: Authority) -> None:
    _, passive = await authority.sign_in(idle_timeout=MINUTE)
    _, active = await authority.sign_in(idle_timeout=MINUTE)
    for _ in range(8):
        authority.clock.advance(10 * SECOND)
        await authority.answer(passive)
        await authority.answer(active, passive=False)
        await authority.activity.flush()
    assert await authority.answer(passive) == Rejection(RejectionReason.IDLE_TIMEOUT)
    assert await authority.is_good(active)


# Many


async def test_many_are_answered_in_their_order(authority: Authority) -> None:
    session, good = await authority.sign_in()
    _, ended = await authority.sign_in()
    await authority.sign_out(ended)
    forged = Token(session.session_id, b"f" * 32).encode()
    answers = await authority.validate_all(
        [
            Validation(good),
            Validation("garbage"),
            Validation(ended),
            Validation(forged),
            Validation(good, user_id="bob"),
            Validation(good, passive=True),
        ]
    )
    assert [each.session_id if isinstance(each, Session) else each.reason for each in answers] == [
        session.session_id,
        RejectionReason.NOT_FOUND,
        RejectionReason.SIGNED_OUT,
        RejectionReason.NOT_FOUND,
        RejectionReason.USER_MISMATCH,
        session.session_id,
    ]


async def test_a_thousand_are_one_read_and_one_more_is_refused(authority: Authority) -> None:
    _, token = await authority.sign_in()
    authority.store.asked.clear()
    answers = await authority.validate_all([Validation(token)] * VALIDATIONS_LIMIT)
    assert all(isinstance(each, Session) for each in answers)
    assert authority.store.asked == ["read_sessions"]
    for count in (0, VALIDATIONS_LIMIT + 1):
        with pytest.raises(InvalidRequest) as refusal:
            await authority.validate_all([Validation(token)] * count)
        assert [each.field for each in refusal.value.violations] == ["requests"]


async def test_a_batch_of_sessions_about_to_idle_keeps_them_all(authority: Authority) -> None:
    tokens = [(await authority.sign_in(idle_timeout=MINUTE))[1] for _ in range(50)]
    authority.clock.advance(55 * SECOND)
    await authority.validate_all([Validation(token) for token in tokens])
    authority.clock.advance(30 * SECOND)
    assert all([await authority.is_good(token) for token in tokens])


def test_nobody_sees_a_token_by_printing_a_question() -> None:
    assert "ses_" not in repr(Validation("ses_secret"))
