"""Operators end sessions: of a user, of everybody, a single one, of an API key, or of an identity."""

import asyncio
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from uuid import UUID

from session_authority_server.domain import sign_in as checks
from session_authority_server.domain import token as tokens
from session_authority_server.domain.errors import InvalidRequest, SessionNotFound, Violation
from session_authority_server.domain.event import SessionEnded, SessionsSwept
from session_authority_server.domain.identity import Part, key_of
from session_authority_server.domain.liveness import is_live
from session_authority_server.domain.session import Ending, EndReason, InitiatingEntity, Sweep
from session_authority_server.domain.token import Proof
from session_authority_server.domain.verdict import NOT_FOUND, judge
from session_authority_server.ports.store import BATCH_LIMIT, Transaction
from session_authority_server.usecases.context import Context
from session_authority_server.usecases.revoke_session import parse_id

# How long one call reads a key's sessions. Well below the default deadline of callers.
BUDGET_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class KeyRevocation:
    """The progress of a revocation of an API key's sessions.

    Attributes:
        effective_time: No validator accepts the ended sessions after this moment.
        resume_time: Continue with sessions created at or after this time; None if the revocation is complete.
    """

    effective_time: datetime
    resume_time: datetime | None


async def revoke_user_sessions(context: Context, user_id: str, reason: str = "") -> datetime:
    """End all sessions of a user. Return the moment after which no validator accepts any of them.

    An unknown user may be signing in for the first time. The call also blocks that sign-in.

    Raises:
        InvalidRequest: If a field breaks a limit.
        StoreUnavailable: If the store failed; a repetition is safe.
    """
    violations = checks.Violations()
    checks.check_user_id(user_id, violations)
    checks.check_reason(reason, violations)
    violations.raise_if_any()

    async def work(transaction: Transaction) -> None:
        await transaction.lock_user(user_id)
        sweep = Sweep(context.clock.now(), InitiatingEntity.ADMIN, reason)
        await transaction.sweep_user(user_id, sweep)
        transaction.record(SessionsSwept(user_id, sweep, why=reason))

    await context.store.transact(work)
    return context.effective_time()


async def revoke_all_sessions(context: Context, reason: str = "") -> datetime:
    """End all sessions of everybody. Return the moment after which no validator accepts any of them.

    Raises:
        InvalidRequest: If the reason breaks a limit.
        StoreUnavailable: If the store failed; a repetition is safe.
    """
    _check_reason(reason)

    async def work(transaction: Transaction) -> None:
        sweep = Sweep(context.clock.now(), InitiatingEntity.ADMIN, reason)
        await transaction.sweep_everybody(sweep)
        transaction.record(SessionsSwept("", sweep, why=reason))

    await context.store.transact(work)
    return context.effective_time()


async def revoke_session_by_id(context: Context, session_id: str, reason: str = "") -> datetime:
    """End the session with an id. Return the moment after which no validator accepts it.

    The answer does not reveal whether there was such a session.

    Raises:
        InvalidRequest: If the id is malformed or the reason breaks a limit.
        StoreUnavailable: If the store failed; a repetition is safe.
    """
    _check_reason(reason)
    return await _end_one(context, parse_id(session_id), None, reason)


async def revoke_session_by_token(
    context: Context, session_token: str, reason: str = ""
) -> datetime:
    """End the session of a leaked token. Return the moment after which no validator accepts it.

    A superseded token ends its session too. A forged token ends nothing.

    Raises:
        InvalidRequest: If the token is malformed or the reason breaks a limit.
        StoreUnavailable: If the store failed; a repetition is safe.
    """
    _check_reason(reason)
    proof = tokens.parse_proof(session_token)
    if proof is None:
        # An operator who copied only a part must not believe that the session has ended.
        problem = "is not a whole token; copy all of it, from ses_ to the end"
        raise InvalidRequest([Violation("session_token", problem)])
    return await _end_one(context, proof.id, proof, reason)


async def _end_one(
    context: Context, session_id: UUID, proof: Proof | None, reason: str
) -> datetime:
    async def work(transaction: Transaction) -> None:
        session = await transaction.read_session(session_id)
        if session is None:
            raise SessionNotFound
        # Lock even if the session has ended. The lock is a write, and only a write waits for a standby. A repeated call
        # must wait too, until the standby has the ending.
        await transaction.lock_user(session.user_id)
        transaction.confirm_end()
        session = await transaction.read_session(session_id)
        if session is None:
            # The user was erased meanwhile. The rollback removes the row that `lock_user` may have added.
            raise SessionNotFound
        now = context.clock.now()
        if proof is not None and judge(session, proof, now) is NOT_FOUND:
            return
        if is_live(session, now):
            ending = Ending(now, EndReason.REVOKED, InitiatingEntity.ADMIN)
            if await transaction.end_session(session_id, ending):
                transaction.record(SessionEnded(session_id, session.user_id, ending, reason))

    with suppress(SessionNotFound):
        await context.store.transact(work)
    return context.effective_time()


async def revoke_key_sessions(
    context: Context,
    key_id: str,
    since: datetime | None = None,
    reason: str = "",
    *,
    budget_seconds: float = BUDGET_SECONDS,
) -> KeyRevocation:
    """End the sessions that an API key created since a moment, until the time budget is used up.

    Session ids contain their creation time, so earlier sessions are not read.

    Raises:
        InvalidRequest: If a field breaks a limit.
        StoreUnavailable: If the store failed; a repetition is safe.
    """
    violations = checks.Violations()
    checks.check_user_id(key_id, violations, "created_by_key")
    checks.check_reason(reason, violations)
    violations.raise_if_any()

    loop = asyncio.get_running_loop()
    deadline = loop.time() + budget_seconds
    after: UUID | None = tokens.first_id(since) if since is not None else UUID(int=0)
    while after is not None:
        now = context.clock.now()
        after = await context.store.transact(partial(_end_some, key_id, after, now, reason))
        if loop.time() >= deadline:
            break
    # The caller needs a place to continue. Return the creation time of the last session that was read, not its id. The
    # id would tell the caller which session that was.
    resume_time = None if after is None else tokens.time_of(after)
    return KeyRevocation(context.effective_time(), resume_time)


async def _end_some(
    key_id: str, after: UUID, now: datetime, reason: str, transaction: Transaction
) -> UUID | None:
    """End some sessions of a key. Return the id to continue after; None if there are no more."""
    ending = Ending(now, EndReason.REVOKED, InitiatingEntity.ADMIN)
    batch = await transaction.end_created_by(key_id, now, after, BATCH_LIMIT, ending)
    transaction.record(*(replace(each, why=reason) for each in batch.ended))
    transaction.confirm_end()
    return batch.last


async def revoke_identity_sessions(
    context: Context, issuer: str, subject: str, sid: str, reason: str = ""
) -> datetime:
    """End the sessions of a provider's session or user. Return the moment after which no validator accepts any.

    The answer does not reveal whether there were any. The call also blocks sign-ins that have begun.

    Raises:
        InvalidRequest: If a field breaks a limit.
        StoreUnavailable: If the store failed; a repetition is safe.
    """
    violations = checks.Violations()
    checks.check_identity_text("issuer", issuer, violations)
    part, value = (Part.SID, sid) if sid else (Part.SUBJECT, subject)
    checks.check_identity_text(part.value, value, violations)
    checks.check_reason(reason, violations)
    violations.raise_if_any()
    key = key_of(part, issuer, value)

    # A transaction of its own, so that no sign-in waits while sessions end. Each sign-in that read the table before is
    # committed now, so the next transactions find its session.
    await context.store.transact(
        lambda transaction: transaction.revoke_identity(key, context.clock.now())
    )

    async def end_some(transaction: Transaction) -> bool:
        now = context.clock.now()
        ending = Ending(now, EndReason.REVOKED, InitiatingEntity.ADMIN)
        batch = await transaction.end_with_identity(key, now, BATCH_LIMIT, ending)
        transaction.record(*(replace(each, why=reason) for each in batch.ended))
        transaction.confirm_end()
        return batch.more

    while await context.store.transact(end_some):
        pass
    return context.effective_time()


def _check_reason(reason: str) -> None:
    violations = checks.Violations()
    checks.check_reason(reason, violations)
    violations.raise_if_any()
