"""Transactions write the events that receivers want, and only those."""

import asyncio
import json
from datetime import timedelta
from uuid import UUID

import pytest
from sqlalchemy import update

from session_authority_server.domain.event import SessionEstablished
from session_authority_server.domain.policy import SupersededUse
from session_authority_server.domain.privacy import EraseAddresses, KeepAddresses
from session_authority_server.domain.receiver import EventType
from session_authority_server.domain.session import Session
from session_authority_server.domain.token import Token
from session_authority_server.ports.store import Transaction
from session_authority_server.store.tables import sessions
from session_authority_server.usecases.create_session import SignIn
from session_authority_server.usecases.reauthenticate_session import Reauthentication
from session_authority_server.usecases.validate_sessions import Validation
from tests.contract.reporting import Reporting, reporting_to
from tests.contract.test_statement_counts import statements
from tests.support.engines import MINUTE, SECOND, START, Engine, a_session

ESTABLISHED, ENDED, SWEPT = "session-established", "session-ended", "sessions-swept"
NEW_DEVICE = "new-device"
NOT_NEW = frozenset(EventType) - {EventType.NEW_DEVICE}


@pytest.fixture
def reporting(engine: Engine) -> Reporting:
    return reporting_to(engine)


async def signed_in(reporting: Reporting, user_id: str = "ann") -> tuple[Session, Token]:
    return await reporting.ask.create(SignIn(user_id=user_id, ip_address="192.0.2.7"))


async def expire(reporting: Reporting) -> None:
    now = reporting.clock.now()
    while (await reporting.upkeep.end_overdue(now, 100)).examined:
        pass


async def test_the_transaction_that_changes_a_session_writes_its_events(
    reporting: Reporting,
) -> None:
    await reporting.add(types=NOT_NEW)
    session, token = await signed_in(reporting)
    await reporting.ask.reauthenticate(Reauthentication(session_token=token.encode()))
    other, own = await signed_in(reporting)
    await reporting.ask.revoke(own.encode(), str(session.session_id))
    await reporting.ask.revoke_others(own.encode())
    await reporting.ask.sign_out(own.encode())
    assert await reporting.events() == [
        (ESTABLISHED, "ann"),
        ("reauthenticated", "ann"),
        (ESTABLISHED, "ann"),
        (ENDED, "ann"),
        (SWEPT, "ann"),
        (ENDED, "ann"),
    ]
    data = await reporting.data()
    assert [each.get("reason") for each in data if "reason" in each] == ["revoked", "signed_out"]
    assert data[0]["session_id"] == data[1]["session_id"] == data[3]["session_id"]
    assert data[4]["kept_session_id"] == data[5]["session_id"] == str(other.session_id)


async def test_a_new_device_has_an_event_of_its_own(reporting: Reporting) -> None:
    await reporting.add(types=frozenset({EventType.NEW_DEVICE}))
    for _ in range(2):
        await signed_in(reporting)
    assert await reporting.events() == [(NEW_DEVICE, "ann")]
    assert (await reporting.data())[0]["new_device"] is True


async def test_each_receiver_gets_the_types_that_it_wants(reporting: Reporting) -> None:
    first = await reporting.add("first", frozenset({EventType.SESSION_ENDED}))
    second = await reporting.add("second", NOT_NEW)
    _, token = await signed_in(reporting)
    await reporting.ask.sign_out(token.encode())
    rows = await reporting.rows()
    assert {(row.receiver_id, row.event_type) for row in rows} == {
        (first.receiver_id, ENDED),
        (second.receiver_id, ENDED),
        (second.receiver_id, ESTABLISHED),
    }
    ended = [row for row in rows if row.event_type == ENDED]
    assert ended[0].event_id == ended[1].event_id
    assert ended[0].payload == ended[1].payload


async def test_without_a_receiver_no_call_has_a_statement_more(engine: Engine) -> None:
    reporting, silent = reporting_to(engine), reporting_to(engine)
    silent.stay_silent()
    reporting.wanted = await reporting.receivers.wanted()
    assert reporting.wanted == frozenset()
    await _every_call(silent, "eve")
    with statements() as usual:
        await _every_call(silent, "ann")
    with statements() as found:
        await _every_call(reporting, "ben")
    assert found == usual


async def _every_call(reporting: Reporting, user_id: str) -> None:
    ask = reporting.ask
    session, token = await signed_in(reporting, user_id)
    await ask.reauthenticate(Reauthentication(session_token=token.encode()))
    _, own = await signed_in(reporting, user_id)
    await ask.revoke(own.encode(), str(session.session_id))
    await ask.revoke_others(own.encode())
    await ask.sign_out(own.encode())
    await ask.revoke_user(user_id)
    await ask.revoke_all()
    await ask.revoke_key("caller")
    await ask.erase_user(user_id)
    await reporting.upkeep.end_overdue(reporting.clock.now(), 100)


async def test_an_event_of_an_unwanted_type_costs_no_statement(
    reporting: Reporting,
) -> None:
    await reporting.add(types=frozenset({EventType.SESSION_ENDED}))
    with statements() as found:
        await signed_in(reporting)
    assert not any("outbox" in each for each in found)


async def test_a_transaction_that_is_rolled_back_leaves_no_event(reporting: Reporting) -> None:
    await reporting.add()

    async def work(transaction: Transaction) -> None:
        await transaction.lock_user("ann")
        added = await transaction.insert_session(a_session())
        transaction.record(SessionEstablished(added))
        await transaction.write_reports()  # type: ignore[attr-defined]
        raise RuntimeError

    with pytest.raises(RuntimeError):
        await reporting.sessions.transact(work)
    assert await reporting.rows() == []


async def test_a_receiver_gets_the_events_from_its_start_time_on(reporting: Reporting) -> None:
    await reporting.add(types=NOT_NEW, after=10 * SECOND)
    await signed_in(reporting, "early")
    reporting.clock.advance(10 * SECOND)
    await signed_in(reporting, "late")
    assert await reporting.events() == [(ESTABLISHED, "late")]


async def test_the_worker_reports_sessions_that_expire_or_idle_out(reporting: Reporting) -> None:
    await reporting.add(types=frozenset({EventType.SESSION_ENDED}))
    expiring = a_session("ann", lifetime=MINUTE)
    idle = a_session("ben", idle_timeout=MINUTE)
    await reporting.engine.add(expiring, idle, a_session("eve"))
    reporting.clock.advance(2 * MINUTE)
    await expire(reporting)
    ended = {(each["user_id"], each["reason"], each["end_time"]) for each in await reporting.data()}
    after_a_minute = "2026-03-01T12:01:00.000000Z"
    assert ended == {
        ("ann", "expired", after_a_minute),
        ("ben", "idle_timeout", after_a_minute),
    }
    await expire(reporting)
    assert len(await reporting.rows()) == 2


async def test_many_overdue_sessions_are_reported_once_each(reporting: Reporting) -> None:
    await reporting.add(types=frozenset({EventType.SESSION_ENDED}))
    await reporting.engine.fill([a_session(f"user{n}", lifetime=MINUTE) for n in range(250)])
    reporting.clock.advance(2 * MINUTE)
    await expire(reporting)
    users = [each["user_id"] for each in await reporting.data()]
    assert len(users) == len(set(users)) == 250


async def test_a_sweep_is_one_event_however_many_sessions_it_ends(reporting: Reporting) -> None:
    await reporting.add(types=NOT_NEW)
    await reporting.engine.fill(
        [a_session(f"user{n}", idle_timeout=MINUTE) for n in range(50)]
        + [a_session("user1") for _ in range(50)]
    )
    await reporting.ask.revoke_user("user1")
    await reporting.ask.revoke_all()
    assert await reporting.events() == [(SWEPT, "user1"), (SWEPT, "")]
    user, everybody = await reporting.data()
    assert (user["user_id"], everybody["everybody"]) == ("user1", True)

    # Not even those that idled out before, and whose end the worker records only now.
    reporting.clock.advance(2 * MINUTE)
    await expire(reporting)
    for sweep in await reporting.upkeep.pending_sweeps(10):
        await reporting.upkeep.end_swept(sweep, reporting.clock.now(), None, 1_000)
    assert len(await reporting.rows()) == 2


async def test_the_sessions_of_a_key_are_reported_one_by_one(reporting: Reporting) -> None:
    await reporting.add(types=NOT_NEW)
    for user_id in ("ben", "ann"):
        await reporting.ask.create(SignIn(user_id=user_id, caller="leaked"))
    await reporting.ask.revoke_key("leaked")
    found = await reporting.events()
    assert sorted(found[2:]) == [(ENDED, "ann"), (ENDED, "ben")]


@pytest.mark.parametrize("ends", ["key", "worker"])
async def test_events_of_a_user_follow_the_commits_even_if_an_ending_is_not_the_users_own(
    engine: Engine, ends: str
) -> None:
    if engine.database.dialect.time_query is None:
        pytest.skip("SQLite runs one writer at a time")
    reporting = reporting_to(engine)
    await reporting.add(types=NOT_NEW)
    await reporting.engine.add(a_session("ann", lifetime=MINUTE))
    await engine.execute(update(sessions).values(created_by="leaked"))
    locked, finish = asyncio.Event(), asyncio.Event()

    async def sign_in(transaction: Transaction) -> None:
        await transaction.lock_user("ann")
        session = await transaction.insert_session(a_session("ann"))
        transaction.record(SessionEstablished(session))
        await transaction.write_reports()  # type: ignore[attr-defined]
        transaction._reported.clear()  # type: ignore[attr-defined]
        locked.set()
        await finish.wait()

    async def end() -> None:
        if ends == "key":
            await reporting.ask.revoke_key("leaked")
        else:
            await reporting.upkeep.end_overdue(START + 2 * MINUTE, 100)

    signing_in = asyncio.create_task(reporting.sessions.transact(sign_in))
    await locked.wait()
    ending = asyncio.create_task(end())
    while not (await _waiting(engine)) and not ending.done():
        await asyncio.sleep(0.01)
    assert not ending.done()
    finish.set()
    await asyncio.gather(signing_in, ending)
    assert await reporting.events() == [(ESTABLISHED, "ann"), (ENDED, "ann")]


async def _waiting(engine: Engine) -> bool:
    async def work(connection: object) -> bool:
        found: int = (
            await connection.exec_driver_sql(  # type: ignore[attr-defined]
                "SELECT count(*) FROM pg_locks WHERE NOT granted"
            )
        ).scalar_one()
        return found > 0

    return await engine.database.read(work)


async def test_an_erasure_deletes_the_events_of_the_user_and_reports_itself(
    reporting: Reporting,
) -> None:
    receiver = await reporting.add(types=NOT_NEW)
    await signed_in(reporting, "ann")
    await signed_in(reporting, "ben")
    first = (await reporting.rows())[0]
    [leased] = await reporting.outbox.lease(UUID(int=1), START, 60)
    await reporting.outbox.settle(leased.receiver_id, UUID(int=1), [first.sequence], START)
    await signed_in(reporting, "ann")
    await reporting.ask.erase_user("ann")
    assert await reporting.events() == [
        (ESTABLISHED, "ben"),
        (SWEPT, "ann"),
        ("user-erased", "ann"),
    ]
    assert (await reporting.rows())[0].receiver_id == receiver.receiver_id


async def test_an_erasure_deletes_events_even_if_their_receiver_is_removed(
    reporting: Reporting,
) -> None:
    receiver = await reporting.add(types=NOT_NEW)
    await signed_in(reporting)
    await reporting.receivers.remove_receiver(receiver.receiver_id, START)
    reporting.wanted = await reporting.receivers.wanted()
    await reporting.ask.erase_user("ann")
    assert await reporting.rows() == []


@pytest.mark.parametrize(
    ("policy", "address"),
    [
        ({}, "192.0.2.7"),
        ({"keep_ip_addresses": KeepAddresses.TRUNCATED}, "192.0.2.0"),
        ({"keep_ip_addresses": KeepAddresses.NONE}, None),
        ({"erase_addresses": EraseAddresses.AT_END}, None),
    ],
)
async def test_an_event_contains_the_kept_address_alone(
    engine: Engine, policy: dict[str, object], address: str | None
) -> None:
    reporting = reporting_to(engine, **policy)
    await reporting.add(types=NOT_NEW)
    await signed_in(reporting)
    [data] = await reporting.data()
    assert data.get("ip_address") == address


async def test_an_event_contains_no_token_and_no_hash(reporting: Reporting) -> None:
    await reporting.add()
    session, token = await signed_in(reporting, Token(UUID(int=7), b"x" * 32).encode())
    _, newer = await reporting.ask.reauthenticate(Reauthentication(session_token=token.encode()))
    await reporting.ask.sign_out(newer.encode())
    written = "".join(row.payload for row in await reporting.rows())
    stored = await reporting.engine.get(session.session_id)
    for secret in (token.secret, newer.secret, stored.secret_hash, stored.superseded_hashes):
        assert secret.hex() not in written
    assert "ses_…" in written
    assert token.encode() not in written
    assert Token(UUID(int=7), b"x" * 32).encode() not in written


async def test_the_use_of_a_superseded_token_is_reported_once(engine: Engine) -> None:
    reporting = reporting_to(engine)
    await reporting.add(types=frozenset({EventType.SUPERSEDED_TOKEN_USED}))
    _, token = await signed_in(reporting)
    await reporting.ask.reauthenticate(Reauthentication(session_token=token.encode()))
    for _ in range(2):
        await reporting.ask.validate(Validation(token.encode()))
        await reporting.ask.superseded.settle()
    assert await reporting.rows() == [], "within the grace period"
    reporting.clock.advance(MINUTE)
    for _ in range(2):
        await reporting.ask.validate(Validation(token.encode()))
        await reporting.ask.superseded.settle()
    assert await reporting.events() == [("superseded-token-used", "ann")]


async def test_a_policy_that_ends_the_session_reports_the_use_and_the_end(engine: Engine) -> None:
    reporting = reporting_to(engine, superseded_use=SupersededUse.END_SESSION)
    await reporting.add(
        types=frozenset(EventType)
        - {EventType.SESSION_ESTABLISHED, EventType.NEW_DEVICE, EventType.REAUTHENTICATED}
    )
    _, token = await signed_in(reporting)
    await reporting.ask.reauthenticate(Reauthentication(session_token=token.encode()))
    reporting.clock.advance(MINUTE)
    await reporting.ask.validate(Validation(token.encode()))
    await reporting.ask.superseded.settle()
    assert await reporting.events() == [("superseded-token-used", "ann"), (ENDED, "ann")]


async def test_the_effective_time_leaves_time_for_the_commit(reporting: Reporting) -> None:
    await reporting.add(types=frozenset({EventType.SESSION_ENDED}))
    _, token = await signed_in(reporting)
    answered = await reporting.ask.sign_out(token.encode())
    [row] = await reporting.rows()
    body = json.loads(row.payload)
    assert body["type"] == ENDED
    assert body["timestamp"] == "2026-03-01T12:00:00.000000Z"
    assert body["data"]["effective_time"] == "2026-03-01T12:00:08.100000Z"
    assert (answered - START) < timedelta(seconds=8.1)
