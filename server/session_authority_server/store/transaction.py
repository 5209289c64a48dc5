from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from uuid import UUID

from sqlalchemy import (
    ColumnElement,
    Select,
    Update,
    bindparam,
    case,
    delete,
    insert,
    literal,
    select,
    update,
)
from sqlalchemy.ext.asyncio import AsyncConnection

from session_authority_server.domain.clock import TOLERATED_SKEW
from session_authority_server.domain.event import Event, SessionEnded
from session_authority_server.domain.identity import IdentityKey
from session_authority_server.domain.payload import Reportable, UserErased
from session_authority_server.domain.receiver import EventType
from session_authority_server.domain.retry import AnsweredAttempt
from session_authority_server.domain.session import Changes, Ending, Session, Sweep
from session_authority_server.ports.store import IdentityBatch, KeyBatch, LockedUser, PendingErasure
from session_authority_server.store import rows
from session_authority_server.store.database import RetryTransaction
from session_authority_server.store.engine.dialect import Dialect
from session_authority_server.store.fence import Fence
from session_authority_server.store.identities import (
    correct_revoked_time,
    revoke_identity,
)
from session_authority_server.store.inserting import insert_row
from session_authority_server.store.liveness import (
    current_user_epoch,
    is_live,
)
from session_authority_server.store.locking import hashed_user, lock_user
from session_authority_server.store.reporting import Reporter, delete_events_of, lock_users
from session_authority_server.store.tables import (
    EVERYBODY,
    attempts,
    authority,
    erasures,
    sessions,
    sweeps,
    users,
)

# Built once, because building one of these statements takes half as long as running it.
_BY_ID = rows.select_sessions().where(sessions.c.session_id == bindparam("session_id"))


class SqlTransaction:
    """`ports.store.Transaction` on one connection.

    Attributes:
        changes: The sessions and users whose cached answers become invalid at the commit.
        events: The events to record in the audit log after the commit.
    """

    def __init__(
        self,
        connection: AsyncConnection,
        dialect: Dialect,
        *,
        erases_at_end: bool = False,
        fence: Fence | None = None,
        reporter: Reporter | None = None,
    ) -> None:
        self._connection = connection
        self._dialect = dialect
        self._reporter = reporter
        self._wanted = reporter.wanted() if reporter is not None else frozenset()
        self._reported: list[Reportable] = []
        self._erased = rows.ERASED if erases_at_end else {}
        self._global_epoch: int | None = None
        self._identity_revoked_time: datetime | None = None
        self.changes = Changes()
        self.events: list[Event] = []
        self._fence = fence
        self._confirms_end = False
        self._mark: int | None = None

    def record(self, *events: Event) -> None:
        self.events += events
        self._reported += events

    def report(self, *events: Reportable) -> None:
        self._reported += events

    async def write_reports(self) -> None:
        """Write the events for the receivers. All locks are held by now, so the order of events is final."""
        if self._reporter is not None and self._reported and self._wanted:
            await self._reporter.write(self._connection, self._reported, self._wanted)

    def confirm_end(self) -> None:
        self._confirms_end = True

    async def mark_ending(self) -> None:
        """Insert a mark of the fence, if the transaction changes sessions or its answer confirms an earlier ending."""
        if self._fence is not None and (self.changes or self._confirms_end):
            self._mark = await self._fence.mark(self._connection)

    def note_mark(self) -> None:
        """Record that the mark's transaction is committed. Call this after the commit."""
        if self._fence is not None and self._mark is not None:
            self._fence.note(self._mark)

    async def save_mark(self) -> None:
        """Wait until the mark is on the disk outside the database.

        Raises:
            StoreUnavailable: If the state directory can't be written.
        """
        if self._fence is not None and self._mark is not None:
            await self._fence.save()

    async def lock_user(self, user_id: str, identity: Sequence[IdentityKey] = ()) -> LockedUser:
        keys = [key.digest for key in identity]
        row = await lock_user(self._connection, self._dialect, user_id, keys)
        self._global_epoch, *swept_times, self._identity_revoked_time = row
        swept_times.append(self._identity_revoked_time)
        return LockedUser(max((time for time in swept_times if time is not None), default=None))

    async def read_session(self, session_id: UUID, of_user: str | None = None) -> Session | None:
        statement = _BY_ID
        if of_user is not None:
            statement = statement.where(sessions.c.user_id == of_user)
        found = await rows.read(self._connection, statement, {"session_id": session_id})
        return found[0] if found else None

    async def live_over_limit(self, user_id: str, now: datetime, keep: int) -> Sequence[UUID]:
        statement = _live_over_limit(user_id, now, keep)
        return (await self._connection.execute(statement)).scalars().all()

    async def insert_session(self, session: Session) -> Session:
        row = await insert_row(self._connection, session, check_time=_check_time(session))
        if self._global_epoch not in (None, row.global_epoch):
            # A sweep of everybody came after `lock_user`, so the sign-in must be checked against it.
            raise RetryTransaction
        if session.subject_hash and row.identity_revoked_time != self._identity_revoked_time:
            # `lock_user` waited for a revocation of the identity, whose commit its statement could not see.
            raise RetryTransaction
        return replace(
            session,
            user_epoch=row.user_epoch,
            current_user_epoch=row.user_epoch,
            global_epoch=row.global_epoch,
            current_global_epoch=row.global_epoch,
            new_device=row.new_device,
        )

    async def end_live_over_limit(
        self, user_id: str, now: datetime, keep: int, ending: Ending
    ) -> Sequence[UUID]:
        statement = (
            update(sessions)
            .where(
                sessions.c.session_id.in_(_live_over_limit(user_id, now, keep)),
                # Another transaction may have ended the session while this one waited.
                is_live(now),
            )
            .values(rows.ending_columns(ending) | self._erased)
            .returning(sessions.c.session_id)
        )
        ended: Sequence[UUID] = (await self._connection.execute(statement)).scalars().all()
        self.changes.session_ids.update(ended)
        return ended

    async def end_created_by(
        self, key_id: str, now: datetime, after: UUID, limit: int, ending: Ending
    ) -> KeyBatch:
        # No index finds the sessions of a key, so the limit applies to the sessions read, not to those ended.
        seen = (
            select(sessions.c.session_id, (sessions.c.created_by == key_id).label("made"))
            .where(sessions.c.session_id > after)
            .order_by(sessions.c.session_id)
            .limit(limit)
        )
        found = (await self._connection.execute(seen)).all()
        last = found[-1].session_id if len(found) == limit else None
        made = [row.session_id for row in found if row.made]
        return KeyBatch(await self._end_live(made, now, ending), last)

    async def revoke_identity(self, key: IdentityKey, time: datetime) -> None:
        await revoke_identity(self._connection, self._dialect, key, time)

    async def end_with_identity(
        self, key: IdentityKey, now: datetime, limit: int, ending: Ending
    ) -> IdentityBatch:
        of_key = sessions.c[f"{key.part.value}_hash"] == key.digest
        seen = select(sessions.c.session_id).where(of_key, is_live(now)).limit(limit)
        found = (await self._connection.execute(seen)).scalars().all()
        return IdentityBatch(await self._end_live(found, now, ending), len(found) == limit)

    async def _end_live(
        self, session_ids: Sequence[UUID], now: datetime, ending: Ending
    ) -> Sequence[SessionEnded]:
        """End those of the sessions that are live, in the order of their ids."""
        if not session_ids:
            return ()
        named = sessions.c.session_id.in_(session_ids)
        if EventType.SESSION_ENDED in self._wanted:
            owners = select(sessions.c.user_id).where(named)
            await lock_users(self._connection, self._dialect, owners)
        due = (
            select(sessions.c.session_id)
            .where(named, is_live(now))
            .order_by(sessions.c.session_id)
            .with_for_update(key_share=True)
        )
        statement = (
            update(sessions)
            .where(sessions.c.session_id.in_(due))
            .values(rows.ending_columns(ending) | self._erased)
            .returning(sessions.c.session_id, sessions.c.user_id)
        )
        ended = (await self._connection.execute(statement)).all()
        self.changes.session_ids.update(row.session_id for row in ended)
        return [SessionEnded(row.session_id, row.user_id, ending) for row in ended]

    async def end_session(self, session_id: UUID, ending: Ending) -> bool:
        statement = (
            update(sessions)
            .where(sessions.c.session_id == session_id, sessions.c.end_time.is_(None))
            .values(rows.ending_columns(ending) | self._erased)
        )
        return await self._changes(session_id, statement)

    async def name_session(self, session_id: UUID, label: str | None, now: datetime) -> bool:
        statement = (
            update(sessions)
            .where(sessions.c.session_id == session_id, is_live(now))
            .values(label=label)
        )
        return (await self._connection.execute(statement)).rowcount == 1

    async def renew_session(self, session: Session, *, replaces: bytes) -> bool:
        statement = (
            update(sessions)
            .where(
                sessions.c.session_id == session.session_id,
                sessions.c.secret_hash == replaces,
                sessions.c.end_time.is_(None),
            )
            .values(
                secret_hash=session.secret_hash,
                superseded_hashes=session.superseded_hashes,
                authenticate_time=session.authenticate_time,
                authentication_methods=session.authentication_methods,
                last_active_time=session.last_active_time,
                lifetime=session.lifetime,
                expire_time=session.expire_time,
                idle_timeout=session.idle_timeout,
                check_time=_check_time(session),
            )
        )
        return await self._changes(session.session_id, statement)

    async def _changes(self, session_id: UUID, statement: Update) -> bool:
        changed = (await self._connection.execute(statement)).rowcount == 1
        if changed:
            self.changes.session_ids.add(session_id)
        return changed

    async def sweep_user(self, user_id: str, sweep: Sweep) -> None:
        statement = (
            update(users)
            .where(users.c.user_id == user_id)
            .values(epoch=users.c.epoch + 1, swept_time=_later_of(users.c.swept_time, sweep.time))
            .returning(users.c.epoch)
        )
        epoch = (await self._connection.execute(statement)).scalar_one()
        await self._record(user_id, epoch, sweep)
        self.changes.user_ids.add(user_id)

    async def sweep_everybody(self, sweep: Sweep) -> None:
        swept_time = _later_of(authority.c.swept_time, sweep.time)
        statement = (
            update(authority)
            .values(epoch=authority.c.epoch + 1, swept_time=swept_time)
            .returning(authority.c.epoch)
        )
        epoch = (await self._connection.execute(statement)).scalar_one()
        await self._record(EVERYBODY, epoch, sweep)
        self.changes.everybody = True

    async def _record(self, user_id: str, epoch: int, sweep: Sweep) -> None:
        await self._connection.execute(
            insert(sweeps).values(
                user_id=user_id,
                epoch=epoch,
                sweep_time=sweep.time,
                initiating_entity=sweep.initiated_by,
                reason=sweep.reason,
                settled=False,
            )
        )

    async def read_swept_time(self) -> datetime | None:
        found = await self._connection.execute(select(authority.c.swept_time))
        swept_time: datetime | None = found.scalar_one()
        return swept_time

    async def correct_swept_time(
        self, user_id: str, now: datetime, identity: Sequence[IdentityKey] = ()
    ) -> None:
        future = now + TOLERATED_SKEW
        for statement in (
            update(users).where(users.c.user_id == user_id, users.c.swept_time > future),
            update(authority).where(authority.c.swept_time > future),
        ):
            await self._connection.execute(statement.values(swept_time=now))
        await correct_revoked_time(self._connection, identity, now)

    async def begin_erasure(self, user_id: str, time: datetime) -> PendingErasure:
        if self._wanted:
            await delete_events_of(self._connection, user_id)
            self.report(UserErased(user_id, time))
        epoch = (
            await self._connection.execute(select(users.c.epoch).where(users.c.user_id == user_id))
        ).scalar_one()
        columns = {"epoch": epoch, "erase_time": time, "user_id": user_id}
        user_hash = await hashed_user(self._connection, user_id)
        updating = update(erasures).where(erasures.c.user_hash == user_hash).values(columns)
        if (await self._connection.execute(updating)).rowcount == 0:
            inserting = insert(erasures).values(user_hash=user_hash, **columns)
            await self._connection.execute(inserting)
        return PendingErasure(user_id, epoch)

    async def exempt_from_sweep(self, session_id: UUID) -> None:
        await self._connection.execute(
            update(sessions)
            .where(sessions.c.session_id == session_id)
            .values(user_epoch=current_user_epoch)
        )

    async def read_attempt(self, retry_hash: bytes) -> AnsweredAttempt | None:
        statement = select(attempts).where(attempts.c.retry_hash == retry_hash)
        row = (await self._connection.execute(statement)).one_or_none()
        return None if row is None else AnsweredAttempt(**row._mapping)

    async def write_attempt(self, attempt: AnsweredAttempt) -> None:
        await self._connection.execute(
            delete(attempts).where(attempts.c.retry_hash == attempt.retry_hash)
        )
        await self._connection.execute(
            insert(attempts).values(
                retry_hash=attempt.retry_hash,
                parameters_hash=attempt.parameters_hash,
                session_id=attempt.session_id,
                salt=attempt.salt,
                expire_time=attempt.expire_time,
            )
        )


def _later_of(column: ColumnElement[datetime], time: datetime) -> ColumnElement[datetime]:
    # The clocks of servers differ. If a sweep moved the time back, older sign-ins would be accepted.
    return case((column > time, column), else_=literal(time, column.type))


def _check_time(session: Session) -> datetime:
    idle = session.idle_expire_time
    return session.expire_time if idle is None else min(idle, session.expire_time)


def _live_over_limit(user_id: str, now: datetime, keep: int) -> Select[UUID]:
    return (
        select(sessions.c.session_id)
        .where(sessions.c.user_id == user_id, is_live(now))
        .order_by(sessions.c.last_active_time.desc(), sessions.c.session_id.desc())
        .offset(keep)
    )
