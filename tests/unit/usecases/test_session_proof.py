"""The proof of a request's session in a transaction."""

from dataclasses import replace
from uuid import UUID

import pytest

from session_authority_server.domain.clock import ManualClock
from session_authority_server.domain.errors import SessionNotLive
from session_authority_server.domain.session import (
    Ending,
    EndReason,
    InitiatingEntity,
    Session,
)
from session_authority_server.domain.token import Token
from session_authority_server.ports.store import LockedUser
from session_authority_server.usecases.session_proof import prove_and_lock, require_proof
from tests.support.engines import SECRET, START, a_session

SESSION = a_session()
ENDED = replace(SESSION, ending=Ending(START, EndReason.REVOKED, InitiatingEntity.USER))
GOOD = Token(SESSION.session_id, SECRET)


class Transaction:
    """A transaction in which other transactions may commit until the user is locked."""

    def __init__(self, before: Session | None, after: Session | None) -> None:
        self._before = before
        self._after = after
        self.locked: list[str] = []

    async def read_session(self, _session_id: UUID) -> Session | None:
        return self._after if self.locked else self._before

    async def lock_user(self, user_id: str) -> LockedUser:
        self.locked.append(user_id)
        return LockedUser(None)


async def prove(transaction: Transaction) -> Session:
    return await prove_and_lock(transaction, GOOD.proof, ManualClock(START))  # type: ignore[arg-type]


async def test_the_proven_session_is_the_one_read_under_its_users_lock() -> None:
    locked = replace(SESSION, user_agent="as it is under the lock")
    transaction = Transaction(SESSION, locked)
    assert await prove(transaction) is locked
    assert transaction.locked == ["ann"]


@pytest.mark.parametrize("after", [ENDED, None])
async def test_a_session_that_ends_before_the_lock_is_acquired_is_rejected(
    after: Session | None,
) -> None:
    with pytest.raises(SessionNotLive):
        await prove(Transaction(SESSION, after))


async def test_an_invalid_token_locks_no_user() -> None:
    for found in (ENDED, None):
        transaction = Transaction(found, found)
        with pytest.raises(SessionNotLive):
            await prove(transaction)
        assert transaction.locked == []


def test_a_malformed_token_is_rejected() -> None:
    assert require_proof(GOOD.encode()) == GOOD.proof
    with pytest.raises(SessionNotLive):
        require_proof("garbage")
