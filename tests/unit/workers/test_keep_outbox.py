import logging
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from unittest.mock import AsyncMock

import pytest

from session_authority_server.domain.clock import ManualClock
from session_authority_server.domain.receiver import ReceiverState
from session_authority_server.observability.metrics import (
    OUTBOX_DROPPED,
    OUTBOX_OLDEST,
    OUTBOX_PENDING,
    RECEIVERS_PARKED,
)
from session_authority_server.ports.outbox import Backlog
from session_authority_workers.keep_outbox import KeepOutbox

NOON = datetime(2026, 1, 15, 12, tzinfo=UTC)
ACTIVE, PARKED = ReceiverState.ACTIVE, ReceiverState.PARKED


def outbox(
    *,
    deleted: tuple[int, ...] = (0, 0, 0, 0),
    dropped: Mapping[str, int] = {},
    backlogs: Mapping[str, Backlog] = {},
) -> AsyncMock:
    fake = AsyncMock()
    fake.purge_delivered.side_effect = deleted
    fake.purge_removed.return_value = 0
    fake.drop_excess.return_value = dropped
    fake.backlogs.return_value = backlogs
    return fake


async def test_deletes_what_was_delivered_three_days_ago_until_nothing_is_left() -> None:
    fake = outbox(deleted=(5_000, 3, 0))
    assert await KeepOutbox(fake, ManualClock(NOON), 10)() == 5_003
    before, _ = fake.purge_delivered.call_args.args
    assert before == NOON - timedelta(days=3)
    removed_before, _ = fake.purge_removed.call_args.args
    assert removed_before == NOON - timedelta(minutes=1)


async def test_counts_dropped_events_and_logs_them_once(caplog: pytest.LogCaptureFixture) -> None:
    fake = outbox(dropped={"slow": 7})
    job = KeepOutbox(fake, ManualClock(NOON), 10)
    before = OUTBOX_DROPPED.value("slow")
    assert await job() == 7
    await job()
    assert OUTBOX_DROPPED.value("slow") == before + 14
    [line] = caplog.records
    assert line.levelno == logging.ERROR
    assert line.getMessage() == (
        "more than 10 events waited for the receiver slow; the oldest are dropped"
    )
    fake.drop_excess.return_value = {}
    await job()
    fake.drop_excess.return_value = {"slow": 1}
    await job()
    assert len(caplog.records) == 2, "a new incident is logged again"
    fake.drop_excess.assert_called_with(10)


async def test_measures_the_backlogs_and_forgets_those_of_removed_receivers() -> None:
    waiting = Backlog(PARKED, 4, NOON - timedelta(minutes=2))
    fake = outbox(backlogs={"crm": waiting, "idle": Backlog(ACTIVE, 0, None)})
    job = KeepOutbox(fake, ManualClock(NOON), 10)
    await job()
    assert (OUTBOX_PENDING.value("crm"), OUTBOX_OLDEST.value("crm")) == (4, 120)
    assert (OUTBOX_PENDING.value("idle"), OUTBOX_OLDEST.value("idle")) == (0, 0)
    assert RECEIVERS_PARKED.value() == 1
    fake.backlogs.return_value = {}
    await job()
    assert (OUTBOX_PENDING.value("crm"), OUTBOX_OLDEST.value("crm")) == (0, 0)
    assert RECEIVERS_PARKED.value() == 0
