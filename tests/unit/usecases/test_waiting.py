"""Facts that were read before a wait for the store are checked again afterwards."""

import asyncio
from collections.abc import Coroutine
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from session_authority_server.domain.errors import SessionNotLive, StoreUnavailable
from session_authority_server.domain.policy import Policy
from session_authority_server.domain.session import Session
from session_authority_server.domain.verdict import Rejection
from session_authority_server.ports.store import Transaction
from session_authority_server.usecases.list_sessions import Listing
from session_authority_server.usecases.reauthenticate_session import Reauthentication
from session_authority_server.usecases.validate_sessions import (
    NotYetRecorded,
    Validation,
    record_use,
    validate_sessions,
)
from tests.conftest import PATIENCE_SECONDS
from tests.support.engines import DAY, MINUTE, SECOND
from tests.unit.usecases.conftest import Authority, store_fails


async def held_up(
    authority: Authority, work: Coroutine[Any, Any, object], call: str, seconds: int
) -> object:
    """Hold SQLite's only writer until the work has called the store, and some time longer."""
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def hold(_transaction: Transaction) -> None:
        begun.set()
        await go_on.wait()

    holder = asyncio.create_task(authority.engine.sessions.transact(hold))
    await begun.wait()
    authority.store.asked.clear()
    waiting = asyncio.create_task(work)
    async with asyncio.timeout(PATIENCE_SECONDS):
        while call not in authority.store.asked:
            await asyncio.sleep(0)
    authority.clock.advance(seconds * SECOND)
    go_on.set()
    await holder
    return await waiting


async def test_a_session_that_expires_while_its_reauthentication_waits_stays_ended(
    authority: Authority,
) -> None:
    _, token = await authority.sign_in(lifetime=3 * SECOND)
    authority.clock.advance(2 * SECOND)
    renewing = authority.reauthenticate(Reauthentication(session_token=token))
    with pytest.raises(SessionNotLive):
        await held_up(authority, renewing, "transact", 2)
    assert not await authority.is_accepted(token)


async def test_an_activity_that_is_written_too_late_revives_no_session(
    authority: Authority,
) -> None:
    _, token = await authority.sign_in(idle_timeout=MINUTE)
    authority.clock.advance(58 * SECOND)
    await held_up(authority, authority.answer(token, passive=False), "touch", 3)
    assert isinstance(await authority.answer(token), Rejection)
    await authority.activity.flush()
    assert isinstance(await authority.answer(token), Rejection)


async def test_a_session_in_use_outlives_a_store_that_is_slow_to_write(
    authority: Authority,
) -> None:
    _, token = await authority.sign_in(idle_timeout=MINUTE)
    authority.clock.advance(50 * SECOND)
    assert isinstance(await authority.answer(token, passive=False), Session)
    authority.clock.advance(20 * SECOND)  # no activity was flushed
    assert await authority.is_accepted(token)


async def test_concurrent_activities_close_to_idling_are_written_together(
    authority: Authority,
) -> None:
    tokens = [(await authority.sign_in(f"user-{n}", idle_timeout=MINUTE))[1] for n in range(40)]
    authority.clock.advance(55 * SECOND)
    authority.store.asked.clear()
    outcomes = await validate_sessions(
        authority.context, [Validation(token) for token in tokens * 3]
    )
    await asyncio.gather(
        *(
            record_use(authority.context, [each])
            for each in outcomes
            if isinstance(each, NotYetRecorded)
        )
    )
    assert authority.store.asked == ["read_sessions", "touch"]
    authority.clock.advance(30 * SECOND)
    assert all([await authority.is_accepted(token) for token in tokens])


async def test_a_batch_close_to_idling_takes_one_write(authority: Authority) -> None:
    tokens = [(await authority.sign_in(f"user-{n}", idle_timeout=MINUTE))[1] for n in range(40)]
    authority.clock.advance(55 * SECOND)
    authority.store.asked.clear()
    answers = await authority.validate_all([Validation(token) for token in tokens * 2])
    assert all(isinstance(answer, Session) for answer in answers)
    assert authority.store.asked.count("touch") == 1
    authority.clock.advance(30 * SECOND)
    assert all([await authority.is_accepted(token) for token in tokens])


async def test_if_activity_close_to_idling_cannot_be_written_validation_fails_until_it_can(
    authority: Authority,
) -> None:
    _, token = await authority.sign_in(idle_timeout=MINUTE)
    authority.clock.advance(55 * SECOND)
    authority.store.before["touch"] = store_fails
    with pytest.raises(StoreUnavailable):
        await authority.answer(token, passive=False)
    assert isinstance(await authority.answer(token, passive=False), Session)


async def test_reauthentication_applies_the_current_policy(authority: Authority) -> None:
    _, token = await authority.sign_in(idle_timeout=60 * MINUTE)
    stricter = replace(Policy(), absolute_lifetime=DAY, idle_timeout=5 * MINUTE)
    session, new = await authority.under(stricter).reauthenticate(
        Reauthentication(session_token=token)
    )
    assert session.lifetime == DAY
    assert session.idle_timeout == 5 * MINUTE
    authority.clock.advance(timedelta(minutes=5))
    assert not await authority.is_accepted(new.encode())


async def test_a_session_reauthenticated_while_pages_are_read_is_not_missed(
    authority: Authority,
) -> None:
    old, old_token = await authority.sign_in()
    for _ in range(2):
        authority.clock.advance(SECOND)
        _, token = await authority.sign_in()
    page = await authority.list(Listing(session_token=token, page_size=1))
    seen = {session.session_id for session in page.sessions}
    authority.clock.advance(SECOND)
    await authority.reauthenticate(Reauthentication(session_token=old_token))
    while page.next_page_token:
        page = await authority.list(
            Listing(session_token=token, page_size=1, page_token=page.next_page_token)
        )
        seen |= {session.session_id for session in page.sessions}
    assert old.session_id in seen


async def test_a_sign_in_far_over_the_limit_ends_every_session_over_it(
    authority: Authority,
) -> None:
    without = authority.under(replace(Policy(), session_limit=None))
    tokens = []
    for _ in range(30):
        tokens.append((await without.sign_in())[1])
        authority.clock.advance(SECOND)
    under_limit = authority.under(replace(Policy(), session_limit=5))
    _, newest = await under_limit.sign_in()
    good = [await authority.is_accepted(token) for token in tokens]
    assert good == [False] * 26 + [True] * 4
    assert await authority.is_accepted(newest)
