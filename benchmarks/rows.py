"""Fills a store with many sessions quickly, past the API."""

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any
from uuid import UUID

from sqlalchemy import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from session_authority_server.app import opened
from session_authority_server.domain import token as tokens
from session_authority_server.domain.device import Device, DeviceType
from session_authority_server.domain.session import Session
from session_authority_server.domain.token import Token
from session_authority_server.store import rows
from session_authority_server.store.tables import sessions, users

SESSIONS_A_USER = 5
_CHUNK = 10_000
_AGENT = (
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) "
    "Chrome/141.0.0.0 Safari/537.36"
)


def fill(
    database: Path, count: int, *, overdue: int = 0, sample: int = 20_000
) -> list[tuple[str, str]]:
    """Add sessions, the first of them overdue, and return a sample of tokens and ids of live ones."""
    return asyncio.run(_fill(database, count, overdue, sample))


async def _fill(database: Path, count: int, overdue: int, sample: int) -> list[tuple[str, str]]:
    random = Random(count)
    now = datetime.now(UTC)
    live = range(overdue, count)
    wanted = set(random.sample(live, min(sample, len(live))))
    kept: list[tuple[str, str]] = []
    async with opened(database, make_schema=True) as store:
        for start in range(0, count, _CHUNK):
            numbers = range(start, min(start + _CHUNK, count))
            chunk = list(_sessions(numbers, count, overdue, now, random))
            kept += [
                (token.encode(), str(token.id))
                for number, (token, _) in zip(numbers, chunk, strict=True)
                if number in wanted
            ]
            values = [row for _, row in chunk]
            names = [{"user_id": name, "epoch": 0} for name in {row["user_id"] for row in values}]

            async def work(
                connection: AsyncConnection,
                names: list[dict[str, Any]] = names,
                values: list[dict[str, Any]] = values,
            ) -> None:
                await connection.execute(insert(users).prefix_with("OR IGNORE"), names)
                await connection.execute(insert(sessions), values)

            await store.write(work)
    random.shuffle(kept)
    return kept


def _sessions(
    numbers: range, count: int, overdue: int, now: datetime, random: Random
) -> Iterator[tuple[Token, dict[str, Any]]]:
    for number in numbers:
        # Signed in evenly over the last 89 days; the overdue ones before that.
        age = timedelta(days=91 if number < overdue else 89 * (1 - number / count))
        made = now - age
        secret = random.randbytes(tokens.SECRET_BYTES)
        token = Token(UUID(int=tokens.new_id(made).int), secret)
        session = Session(
            session_id=token.id,
            user_id=f"user-{number % max(1, count // SESSIONS_A_USER)}",
            secret_hash=tokens.hash_secret(secret),
            device=Device("Chrome", "141", "Windows", "", DeviceType.DESKTOP),
            user_agent=_AGENT,
            ip_address="203.0.113.7",
            last_ip_address="203.0.113.7",
            create_time=made,
            authenticate_time=made,
            authentication_methods=("pwd",),
            # In steady use: each is due to be touched at some moment of the next minute.
            last_active_time=now - timedelta(seconds=60 * random.random()),
            lifetime=timedelta(days=90),
            expire_time=made + timedelta(days=90),
            idle_timeout=None,
            attributes={},
        )
        row = rows.as_row(session, check_time=session.expire_time)
        yield token, row | {"user_epoch": 0, "global_epoch": 0}
