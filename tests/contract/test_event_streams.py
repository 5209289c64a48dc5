"""The store keeps streams of security events."""

from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import select

from session_authority_server.domain.api_key import Permission, issue
from session_authority_server.domain.errors import ReceiverLimitReached, VerificationTooSoon
from session_authority_server.domain.event_stream import (
    SESSION_ESTABLISHED,
    SESSION_REVOKED,
    EventStream,
    StreamStatus,
)
from session_authority_server.domain.receiver import ReceiverKind, ReceiverState
from session_authority_server.domain.session import Session
from session_authority_server.domain.token import Token, new_id
from session_authority_server.store.event_streams import SqlEventStreamStore
from session_authority_server.store.tables import receivers
from session_authority_server.usecases.create_session import SignIn
from tests.contract.reporting import WORKER, Reporting, reporting_to
from tests.support.engines import DAY, MINUTE, SECOND, START, Engine

URL = "https://crm.example.com/events"
LIMIT = 10


@pytest.fixture
def reporting(engine: Engine) -> Reporting:
    return reporting_to(engine)


@pytest.fixture
def streams(engine: Engine) -> SqlEventStreamStore:
    return SqlEventStreamStore(engine.database)


def a_stream(owner: str = "crm", **fields: Any) -> EventStream:
    return EventStream(new_id(START), owner, START, **fields)


async def added(
    reporting: Reporting, streams: SqlEventStreamStore, owner: str = "crm", **fields: Any
) -> EventStream:
    """Add a stream, and let the stores know it."""
    stream = a_stream(owner, **fields)
    assert await streams.add_stream(stream, START, LIMIT)
    reporting.wanted = await reporting.receivers.wanted()
    return stream


async def changed(streams: SqlEventStreamStore, stream: EventStream, **fields: Any) -> EventStream:
    found = await streams.change_stream(
        stream.stream_id, stream.owner, lambda before: replace(before, **fields), START
    )
    assert found is not None
    return found


async def sign_in(reporting: Reporting, user_id: str) -> tuple[Session, Token]:
    return await reporting.ask.create(SignIn(user_id=user_id))


async def waiting(reporting: Reporting, stream: EventStream, now: Any = START) -> list[Any]:
    return list(await reporting.outbox.due(stream.stream_id, now, 100))


async def leased(reporting: Reporting, now: Any = START) -> list[str]:
    return [each.name for each in await reporting.outbox.lease(WORKER, now, 60)]


async def test_a_stream_is_read_as_it_was_added(streams: SqlEventStreamStore) -> None:
    full = a_stream(
        url=URL,
        sealed_authorization=b"\x00sealed",
        events_requested=(SESSION_REVOKED, "https://example.com/unknown"),
        description="Sign-outs",
        verify_time=START,
        status=StreamStatus.PAUSED,
        reason="maintenance",
    )
    bare = a_stream("billing")
    for stream in (full, bare):
        assert await streams.add_stream(stream, START, LIMIT)
        assert await streams.read_stream(stream.owner) == stream
    assert await streams.read_stream("unknown") is None


async def test_an_owner_has_one_stream(streams: SqlEventStreamStore) -> None:
    assert await streams.add_stream(a_stream(), START, LIMIT)
    assert not await streams.add_stream(a_stream(), START, LIMIT)


async def test_an_owner_can_have_a_stream_again_after_its_removal(
    streams: SqlEventStreamStore,
) -> None:
    first, second = a_stream(), a_stream()
    await streams.add_stream(first, START, LIMIT)
    assert await streams.remove_stream(first.stream_id, "crm", START)
    assert await streams.read_stream("crm") is None
    assert not await streams.remove_stream(first.stream_id, "crm", START)
    assert await streams.add_stream(second, START, LIMIT)
    assert await streams.read_stream("crm") == second


async def test_receivers_are_limited(reporting: Reporting, streams: SqlEventStreamStore) -> None:
    await reporting.add()
    with pytest.raises(ReceiverLimitReached):
        await streams.add_stream(a_stream(), START, 1)
    assert await streams.read_stream("crm") is None


async def test_a_stream_is_changed(streams: SqlEventStreamStore) -> None:
    stream = a_stream(events_requested=())
    await streams.add_stream(stream, START, LIMIT)
    after = await changed(
        streams,
        stream,
        url=URL,
        events_requested=(SESSION_ESTABLISHED,),
        status=StreamStatus.DISABLED,
        reason="too many",
        verify_time=START,
    )
    assert await streams.read_stream("crm") == after
    assert (after.url, after.status) == (URL, StreamStatus.DISABLED)


async def test_a_change_that_raises_changes_nothing(streams: SqlEventStreamStore) -> None:
    stream = a_stream()
    await streams.add_stream(stream, START, LIMIT)

    def refuse(_: EventStream) -> EventStream:
        raise VerificationTooSoon(SECOND)

    with pytest.raises(VerificationTooSoon):
        await streams.change_stream(stream.stream_id, "crm", refuse, START, "{}")
    assert await streams.read_stream("crm") == stream


async def test_another_owner_can_neither_change_nor_remove_a_stream(
    streams: SqlEventStreamStore,
) -> None:
    stream = a_stream()
    await streams.add_stream(stream, START, LIMIT)
    for stream_id, owner in ((stream.stream_id, "thief"), (UUID(int=1), "crm")):
        change = await streams.change_stream(stream_id, owner, lambda each: each, START, "{}")
        assert change is None
        assert not await streams.remove_stream(stream_id, owner, START)
    assert await streams.read_stream("crm") == stream


async def test_an_event_of_the_stream_comes_with_its_change(
    reporting: Reporting, streams: SqlEventStreamStore
) -> None:
    stream = await added(reporting, streams)
    await streams.change_stream(stream.stream_id, "crm", lambda each: each, START, '{"a":1}')
    [event] = await waiting(reporting, stream)
    assert (event.payload, event.user_id) == ('{"a":1}', None)


async def test_a_stream_gets_the_events_of_its_types(
    reporting: Reporting, streams: SqlEventStreamStore
) -> None:
    stream = await added(reporting, streams, events_requested=(SESSION_REVOKED,))
    _, token = await sign_in(reporting, "ada")
    await reporting.ask.sign_out(token.encode())
    assert [each.event_type.value for each in await waiting(reporting, stream)] == ["session-ended"]


async def test_no_events_are_written_for_a_disabled_stream(
    reporting: Reporting, streams: SqlEventStreamStore
) -> None:
    stream = await added(reporting, streams, status=StreamStatus.DISABLED)
    await sign_in(reporting, "ada")
    assert await reporting.rows() == []
    await changed(streams, stream, status=StreamStatus.PAUSED)
    await sign_in(reporting, "ada")
    assert len(await reporting.rows()) == 1


async def test_waiting_events_are_discarded_in_batches(
    reporting: Reporting, streams: SqlEventStreamStore
) -> None:
    stream, other = await added(reporting, streams), await added(reporting, streams, "billing")
    for user_id in ("ada", "bob", "cy"):
        await sign_in(reporting, user_id)
    assert [await streams.discard(stream.stream_id, 2) for _ in range(3)] == [2, 1, 0]
    assert len(await waiting(reporting, other)) == 3


async def test_acknowledged_events_do_not_come_again(
    reporting: Reporting, streams: SqlEventStreamStore
) -> None:
    stream = await added(reporting, streams)
    for user_id in ("ada", "bob", "cy"):
        await sign_in(reporting, user_id)
    first, second, third = await waiting(reporting, stream)
    taken, rejected = ([(each.event_id, each.sequence)] for each in (first, second))
    await streams.acknowledge(stream.stream_id, taken, START + SECOND)
    await streams.acknowledge(stream.stream_id, rejected, START + MINUTE, "rejected: invalid_key")
    assert await waiting(reporting, stream) == [third]
    [receiver] = await reporting.receivers.read_receivers()
    assert receiver.last_success_time == START + SECOND
    assert receiver.last_failure_time == START + MINUTE
    assert receiver.problem == "rejected: invalid_key"


async def test_only_the_events_of_the_stream_are_acknowledged(
    reporting: Reporting, streams: SqlEventStreamStore
) -> None:
    stream, other = await added(reporting, streams), await added(reporting, streams, "billing")
    await sign_in(reporting, "ada")
    [mine], [theirs] = await waiting(reporting, stream), await waiting(reporting, other)
    await streams.acknowledge(
        stream.stream_id,
        [(theirs.event_id, theirs.sequence), (UUID(int=1), mine.sequence), (mine.event_id, 99)],
        START,
    )
    assert await waiting(reporting, stream) == [mine]
    assert await waiting(reporting, other) == [theirs]
    [receiver, _] = await reporting.receivers.read_receivers()
    assert receiver.last_success_time is None


async def usable_key(engine: Engine, name: str = "crm", **changes: Any) -> Any:
    key, _ = issue(name, frozenset({Permission.RECEIVE}), START, DAY)
    await engine.keys.add_key(replace(key, **changes))
    return key


async def test_a_worker_pushes_while_the_owner_has_a_key(
    engine: Engine, reporting: Reporting, streams: SqlEventStreamStore
) -> None:
    await added(reporting, streams, url=URL)
    assert await leased(reporting) == []
    await usable_key(engine, "other")
    assert await leased(reporting) == []
    key = await usable_key(engine)
    [receiver] = await reporting.outbox.lease(WORKER, START, 60)
    assert (receiver.owner, receiver.kind) == ("crm", ReceiverKind.SSF_PUSH)
    assert await leased(reporting, START + DAY) == []
    await engine.keys.revoke_key(key.key_id, START)
    assert await leased(reporting) == []


async def test_a_worker_pushes_a_stream_without_an_owner(
    reporting: Reporting, streams: SqlEventStreamStore
) -> None:
    await added(reporting, streams, "", url=URL)
    assert await leased(reporting) == ["ssf:"]


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"url": URL, "status": StreamStatus.PAUSED},
        {"url": URL, "status": StreamStatus.DISABLED},
    ],
)
async def test_a_worker_leaves_other_streams_alone(
    engine: Engine, reporting: Reporting, streams: SqlEventStreamStore, fields: Any
) -> None:
    await usable_key(engine)
    await added(reporting, streams, **fields)
    assert await leased(reporting) == []


async def test_a_parked_stream_is_paused_until_its_receiver_enables_it(
    engine: Engine, reporting: Reporting, streams: SqlEventStreamStore
) -> None:
    await usable_key(engine)
    stream = await added(reporting, streams, url=URL)
    await sign_in(reporting, "ada")
    assert await leased(reporting) == ["ssf:crm"]
    [event] = await waiting(reporting, stream)
    receiver_id, outbox = stream.stream_id, reporting.outbox
    await outbox.postpone(receiver_id, WORKER, event.sequence, START + DAY, "answered 500", START)
    assert await outbox.park(receiver_id, WORKER, "answered 500", START)
    parked = await streams.read_stream("crm")
    assert parked is not None
    assert (parked.status, parked.reason) == (StreamStatus.PAUSED, "answered 500")

    await changed(streams, stream, description="still parked")
    assert await leased(reporting) == []
    await changed(streams, stream, status=StreamStatus.ENABLED, reason="")
    assert await leased(reporting) == ["ssf:crm"]
    [again] = await waiting(reporting, stream)
    assert (again.first_failure_time, again.attempts) == (None, 0)
    [receiver] = await reporting.receivers.read_receivers()
    assert receiver.failing_since is None


async def test_failed_pushes_are_tried_at_once_after_a_change_of_the_delivery(
    engine: Engine, reporting: Reporting, streams: SqlEventStreamStore
) -> None:
    await usable_key(engine)
    stream = await added(reporting, streams, url=URL)
    await sign_in(reporting, "ada")
    await leased(reporting)
    [event] = await waiting(reporting, stream)
    later = START + timedelta(hours=1)
    await reporting.outbox.postpone(
        stream.stream_id, WORKER, event.sequence, later, "answered 401", START
    )
    await changed(streams, stream, description="no change of the delivery")
    assert await waiting(reporting, stream) == []
    await changed(streams, stream, sealed_authorization=b"sealed")
    assert len(await waiting(reporting, stream)) == 1


async def test_the_secret_of_a_removed_stream_is_deleted(
    engine: Engine, reporting: Reporting, streams: SqlEventStreamStore
) -> None:
    stream = await added(reporting, streams, url=URL, sealed_authorization=b"sealed")
    await streams.remove_stream(stream.stream_id, "crm", START)

    async def work(connection: Any) -> Any:
        return (await connection.execute(select(receivers))).one()

    row = await engine.database.read(work)
    assert (row.state, row.sealed_authorization) == (ReceiverState.REMOVED, None)
