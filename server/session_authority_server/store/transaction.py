from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from uuid import UUID

from sqlalchemy import Select, delete, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from session_authority_server.domain.retry import AnsweredAttempt
from session_authority_server.domain.session import Ending, Session, Sweep
from session_authority_server.store import rows
from session_authority_server.store.database import RunAgain
from session_authority_server.store.dialect import Dialect
from session_authority_server.store.liveness import (
    current_global_epoch,
    current_user_epoch,
    is_live,
)
from session_authority_server.store.protocol import UserStanding
from session_authority_server.store.tables import (
    attempts,
    authority,
    sessions,
    sweeps,
    users,
)


class SqlTransaction:
    """`protocol.Transaction` over one connection."""

    def __init__(self, connection: AsyncConnection, dialect: Dialect) -> None:
        self._connection = connection
        self._dialect = dialect
        self._global_epoch: int | None = None

    async def lock_user(self, user_id: str) -> UserStanding:
        standing = (
            select(
                select(authority.c.epoch).scalar_subquery(),
                users.c.swept_time,
                select(authority.c.swept_time).scalar_subquery(),
            )
            .where(users.c.user_id == user_id)
            .with_for_update(key_share=True, of=users)
        )
        row = (await self._connection.execute(standing)).one_or_none()
        if row is None:
            absent = self._dialect.insert_if_absent(users).values(user_id=user_id, epoch=0)
            await self._connection.execute(absent)
            row = (await self._connection.execute(standing)).one()
        self._global_epoch, *swept_times = row
        return UserStanding(max((time for time in swept_times if time is not None), default=None))

    async def read_session(self, session_id: UUID, of_user: str | None = None) -> Session | None:
        statement = rows.select_sessions().where(sessions.c.session_id == session_id)
        if of_user is not None:
            statement = statement.where(sessions.c.user_id == of_user)
        found = await rows.read(self._connection, statement)
        return found[0] if found else None

    async def live_sessions_beyond(self, user_id: str, now: datetime, keep: int) -> Sequence[UUID]:
        statement = _live_beyond(user_id, now, keep)
        return (await self._connection.execute(statement)).scalars().all()

    async def insert_session(self, session: Session) -> Session:
        columns = rows.as_row(session, check_time=_check_time(session))
        user_epoch = select(users.c.epoch).where(users.c.user_id == session.user_id)
        columns |= {
            "user_epoch": user_epoch.scalar_subquery(),
            "global_epoch": current_global_epoch,
        }
        statement = insert(sessions).values(columns)
        epochs = statement.returning(sessions.c.user_epoch, sessions.c.global_epoch)
        row = (await self._connection.execute(epochs)).one()
        if self._global_epoch not in (None, row.global_epoch):
            # The user's standing is no longer what the sign-in was judged by.
            raise RunAgain
        return replace(
            session,
            user_epoch=row.user_epoch,
            current_user_epoch=row.user_epoch,
            global_epoch=row.global_epoch,
            current_global_epoch=row.global_epoch,
        )

    async def end_live_beyond(
        self, user_id: str, now: datetime, keep: int, ending: Ending
    ) -> Sequence[UUID]:
        statement = (
            update(sessions)
            .where(
                sessions.c.session_id.in_(_live_beyond(user_id, now, keep)),
                is_live(now),  # still, if another's ending of it had to be waited for
            )
            .values(rows.ending_columns(ending))
            .returning(sessions.c.session_id)
        )
        ended: Sequence[UUID] = (await self._connection.execute(statement)).scalars().all()
        return ended

    async def end_session(self, session_id: UUID, ending: Ending) -> bool:
        statement = (
            update(sessions)
            .where(sessions.c.session_id == session_id, sessions.c.end_time.is_(None))
            .values(rows.ending_columns(ending))
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
        return (await self._connection.execute(statement)).rowcount == 1

    async def sweep_user(self, user_id: str, sweep: Sweep) -> None:
        statement = (
            update(users)
            .where(users.c.user_id == user_id)
            .values(epoch=users.c.epoch + 1, swept_time=sweep.time)
            .returning(users.c.epoch)
        )
        epoch = (await self._connection.execute(statement)).scalar_one()
        await self._connection.execute(
            insert(sweeps).values(
                user_id=user_id,
                epoch=epoch,
                sweep_time=sweep.time,
                initiating_entity=sweep.initiated_by,
                reason="",
                settled=False,
            )
        )

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


def _check_time(session: Session) -> datetime:
    idle = session.idle_expire_time
    return session.expire_time if idle is None else min(idle, session.expire_time)


def _live_beyond(user_id: str, now: datetime, keep: int) -> Select[UUID]:
    return (
        select(sessions.c.session_id)
        .where(sessions.c.user_id == user_id, is_live(now))
        .order_by(sessions.c.last_active_time.desc(), sessions.c.session_id.desc())
        .offset(keep)
    )
