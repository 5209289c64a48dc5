from dataclasses import replace

import pytest

from session_authority_server.domain.session import Ending, EndReason, InitiatingEntity
from session_authority_server.domain.token import Token, hash_secret
from session_authority_server.domain.verdict import (
    NOT_FOUND,
    SUPERSEDED,
    USER_MISMATCH,
    Rejection,
    RejectionReason,
    judge,
)
from tests.support.engines import DAY, MINUTE, SECRET, START, a_session

SESSION = a_session("ann", idle_timeout=MINUTE)
GOOD = Token(SESSION.session_id, SECRET).proof
WRONG = Token(SESSION.session_id, b"x" * 32).proof


def test_the_token_of_a_live_session_is_accepted() -> None:
    assert judge(SESSION, GOOD, START) is SESSION
    assert judge(SESSION, GOOD, START, "ann") is SESSION


def test_a_token_without_session_is_not_found() -> None:
    assert judge(None, GOOD, START) == NOT_FOUND


def test_a_wrong_secret_and_an_unknown_session_get_the_same_answer() -> None:
    ended = replace(SESSION, ending=Ending(START, EndReason.REVOKED, InitiatingEntity.USER))
    for session in (SESSION, ended):
        assert judge(session, WRONG, START) == NOT_FOUND
        assert judge(session, WRONG, START, "bob") == NOT_FOUND
    assert judge(SESSION, WRONG, START + DAY) == NOT_FOUND


def test_an_earlier_secret_is_superseded() -> None:
    session = replace(SESSION, superseded_hashes=hash_secret(b"o" * 32) + hash_secret(b"p" * 32))
    for secret in (b"o" * 32, b"p" * 32):
        assert judge(session, Token(session.session_id, secret).proof, START) == SUPERSEDED
    assert judge(session, WRONG, START) == NOT_FOUND


@pytest.mark.parametrize("reason", EndReason)
def test_a_caller_with_the_secret_learns_how_the_session_ended(reason: EndReason) -> None:
    ended = replace(SESSION, ending=Ending(START, reason, InitiatingEntity.POLICY))
    assert judge(ended, GOOD, START) == Rejection(RejectionReason[reason.name])


def test_an_implied_ending_counts_like_a_recorded_one() -> None:
    rejected = judge(SESSION, GOOD, START + MINUTE)
    assert rejected == Rejection(RejectionReason.IDLE_TIMEOUT)


def test_a_live_session_of_another_user_is_a_mismatch() -> None:
    assert judge(SESSION, GOOD, START, "bob") == USER_MISMATCH
    assert judge(SESSION, GOOD, START, "Ann") == USER_MISMATCH
    ended = judge(SESSION, GOOD, START + MINUTE, "bob")
    assert ended == Rejection(RejectionReason.IDLE_TIMEOUT)
