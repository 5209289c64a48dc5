"""Repeat the endings in an audit log, after the database went back in time and lost some of them."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from uuid import UUID

from session_authority_server.domain.event import (
    KeyExpirySet,
    KeyRevoked,
    SessionEnded,
    SessionsSwept,
)
from session_authority_server.domain.liveness import is_live
from session_authority_server.domain.session import Ending, EndReason, InitiatingEntity
from session_authority_server.ports.store import BATCH_LIMIT, KeyStore, Transaction
from session_authority_server.usecases.context import Context
from session_authority_server.usecases.erase_user import ERASURE_REASON

_NEWER_TOKEN_LOST = "The database lost the token of a re-authentication."  # noqa: S105 - a reason


@dataclass(frozen=True, slots=True)
class TokenReplaced:
    """A re-authentication replaced the token of a session."""

    session_id: UUID
    time: datetime


LoggedEvent = SessionEnded | TokenReplaced | SessionsSwept | KeyRevoked | KeyExpirySet


@dataclass(slots=True)
class Replayed:
    """The changes of a replay.

    Attributes:
        sessions: How many sessions it ended, without those that its sweeps ended.
        sweeps: How many sweeps it repeated, including erasures.
        keys: How many API keys it revoked.
    """

    sessions: int = 0
    sweeps: int = 0
    keys: int = 0


class _NotLost(Exception):
    """The database still has the sweep. The rollback removes the row that `lock_user` adds for an erased user."""


@dataclass(slots=True)
class _Batch:
    """Events about sessions, which are read together."""

    ended: dict[UUID, SessionEnded] = field(default_factory=dict)
    replaced: dict[UUID, datetime] = field(default_factory=dict)

    @property
    def is_full(self) -> bool:
        return len(self.ended) + len(self.replaced) >= BATCH_LIMIT


async def replay(context: Context, keys: KeyStore, events: Iterable[LoggedEvent]) -> Replayed:
    """Repeat the endings that the database lacks. An event that the database has changes nothing.

    If the database lacks a re-authentication, it would accept the replaced token. So its session is ended.

    Raises:
        StoreUnavailable: If the store failed; a repetition is safe.
    """
    done, batch = Replayed(), _Batch()
    for event in events:
        match event:
            case SessionEnded():
                batch.ended[event.session_id] = event
            case TokenReplaced():
                latest = batch.replaced.get(event.session_id, event.time)
                batch.replaced[event.session_id] = max(latest, event.time)
            case SessionsSwept():
                done.sweeps += await _sweep(context, event)
            case KeyRevoked():
                done.keys += await keys.revoke_key(UUID(event.key_id), event.time)
            case KeyExpirySet():
                await keys.expire_key(UUID(event.key_id), event.expire_time, event.time)
        if batch.is_full:
            done.sessions += await _end_batch(context, batch)
            batch = _Batch()
    done.sessions += await _end_batch(context, batch)
    return done


async def _end_batch(context: Context, batch: _Batch) -> int:
    session_ids = list(batch.ended.keys() | batch.replaced.keys())
    if not session_ids:
        return 0
    now, count = context.clock.now(), 0
    for session_id, session in (await context.store.read_sessions(session_ids)).items():
        if not is_live(session, now):
            continue
        ended, replaced_time = batch.ended.get(session_id), batch.replaced.get(session_id)
        if ended is not None:
            count += await context.store.transact(partial(_end, context, ended))
        elif replaced_time is not None and session.renewed_time < replaced_time:
            ending = Ending(now, EndReason.REVOKED, InitiatingEntity.ADMIN)
            event = SessionEnded(session_id, session.user_id, ending, _NEWER_TOKEN_LOST)
            count += await context.store.transact(partial(_end, context, event, is_new=True))
    return count


async def _end(
    context: Context, event: SessionEnded, transaction: Transaction, *, is_new: bool = False
) -> bool:
    await transaction.lock_user(event.user_id)
    session = await transaction.read_session(event.session_id)
    if session is None or not is_live(session, context.clock.now()):
        return False
    # Do not record a replayed event again, because it came from the audit log. But the receivers may have missed it.
    tell = transaction.record if is_new else transaction.report
    tell(event)
    return await transaction.end_session(event.session_id, event.ending)


async def _sweep(context: Context, event: SessionsSwept) -> bool:
    """Repeat a sweep, unless the database has this sweep or a later one. Return whether it was repeated."""
    repeating = _sweep_user if event.user_id else _sweep_everybody
    try:
        await context.store.transact(partial(repeating, event))
    except _NotLost:
        return False
    return True


async def _sweep_everybody(event: SessionsSwept, transaction: Transaction) -> None:
    _require_loss(event, await transaction.read_swept_time())
    await transaction.sweep_everybody(event.sweep)
    transaction.report(event)


async def _sweep_user(event: SessionsSwept, transaction: Transaction) -> None:
    user_id = event.user_id
    _require_loss(event, (await transaction.lock_user(user_id)).swept_time)
    kept = None if event.kept is None else await transaction.read_session(event.kept, user_id)
    await transaction.sweep_user(user_id, event.sweep)
    transaction.report(event)
    if kept is not None:
        await transaction.exempt_from_sweep(kept.session_id)
    if event.why == ERASURE_REASON:
        await transaction.begin_erasure(user_id, event.time)


def _require_loss(event: SessionsSwept, swept_time: datetime | None) -> None:
    if swept_time is not None and swept_time >= event.time:
        raise _NotLost
