"""Measure validations and sign-ins while a worker expires many sessions.

.venv/bin/python -m benchmarks.run_expire [--engine sqlite|postgresql] [--sessions N] [--overdue N]
"""

import argparse
import asyncio
import time
from typing import Any

import uvloop

from benchmarks.support import rows
from benchmarks.support.engines import add_engine, fresh
from session_authority_server.app.database import opened
from session_authority_server.app.process import tune_memory
from session_authority_server.app.wiring import usecase_context
from session_authority_server.config import load_settings
from session_authority_server.domain.clock import SystemClock
from session_authority_server.domain.policy import Policy
from session_authority_server.store.sessions import SqlSessionStore
from session_authority_server.store.upkeep import SqlUpkeepStore
from session_authority_server.usecases.create_session import SignIn, create_session
from session_authority_server.usecases.validate_sessions import Validation, validate_sessions
from session_authority_workers.expire import Expire


def _percentile(values: list[float], percent: float) -> str:
    ordered = sorted(values)
    return f"{ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))] * 1e3:.2f} ms"


async def _measure(database: str, sample: list[tuple[str, str]]) -> None:
    tune_memory()
    clock, policy = SystemClock(), Policy()
    async with opened(load_settings(database_url=database)) as opened_database:
        store = SqlSessionStore(opened_database)
        context = usecase_context(store, clock, policy)
        done = asyncio.Event()

        async def validate(seconds: list[float]) -> None:
            at = 0
            while not done.is_set():
                started = time.perf_counter()
                token = sample[at % len(sample)][0]
                await validate_sessions(context, [Validation(token, passive=True)])
                seconds.append(time.perf_counter() - started)
                at += 1
                await asyncio.sleep(0.002)

        async def create(seconds: list[float]) -> None:
            while not done.is_set():
                started = time.perf_counter()
                await create_session(context, SignIn(user_id=f"new-{len(seconds)}"))
                seconds.append(time.perf_counter() - started)
                await asyncio.sleep(0.005)

        async def both(during: Any) -> tuple[list[float], list[float]]:
            done.clear()
            reads: list[float] = []
            writes: list[float] = []
            tasks = [asyncio.create_task(validate(reads)), asyncio.create_task(create(writes))]
            await during
            done.set()
            await asyncio.gather(*tasks)
            return reads, writes

        reads, writes = await both(asyncio.sleep(3))
        print(
            f"alone:    validate p99 {_percentile(reads, 99)}, create p99 {_percentile(writes, 99)}"
        )
        expire = Expire(SqlUpkeepStore(opened_database), clock)
        started = time.perf_counter()
        ended = 0

        async def work() -> None:
            nonlocal ended
            ended = await expire()

        reads, writes = await both(work())
        took = time.perf_counter() - started
        print(
            f"expiring: validate p99 {_percentile(reads, 99)}, create p99 {_percentile(writes, 99)}"
        )
        print(f"{ended} sessions in {took:.1f} s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sessions", type=int, default=2_000_000)
    parser.add_argument("--overdue", type=int, default=1_000_000)
    add_engine(parser)
    arguments = parser.parse_args()
    # The database gets all cores. On one core, callers and worker would compete before they reach the database.
    with fresh(arguments.engine, "sessions", leave_a_core=False) as (database,):
        sample = rows.fill(database, arguments.sessions, overdue=arguments.overdue, sample=1_000)
        uvloop.run(_measure(database, sample))


if __name__ == "__main__":
    main()
