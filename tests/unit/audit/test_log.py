import errno
import json
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast
from uuid import UUID

import pytest
from prometheus_client import REGISTRY

from session_authority_server.audit import log
from session_authority_server.audit.log import QUEUE_LIMIT_EVENTS, AuditLog
from session_authority_server.audit.output import Descriptor, File
from session_authority_server.domain.clock import ManualClock
from session_authority_server.domain.event import CredentialFault, CredentialRejected, SessionEnded
from session_authority_server.domain.session import Ending, EndReason, InitiatingEntity
from session_authority_server.observability.flood_limit import PER_SECOND
from session_authority_server.ports.store import EVENTS_AT_ONCE
from tests.support.waiting import wait_until

NOON = datetime(2026, 1, 15, 12, tzinfo=UTC)
PATIENCE_SECONDS = 60


def ended(number: int) -> SessionEnded:
    ending = Ending(NOON, EndReason.SIGNED_OUT, InitiatingEntity.USER)
    return SessionEnded(UUID(int=number), "ada", ending)


def rejected(fault: CredentialFault) -> CredentialRejected:
    return CredentialRejected(UUID(int=1), "ada", fault, NOON)


class Disk:
    """An output that hangs or is full until the test releases it."""

    def __init__(self) -> None:
        self.lines: list[dict[str, Any]] = []
        self.free = threading.Event()
        self.free.set()
        self.asked = threading.Event()
        self.full = False
        self.closed = False

    def write(self, lines: deque[bytes]) -> None:
        self.asked.set()
        self.free.wait()
        while lines:
            if self.full:
                raise OSError(errno.ENOSPC, "no space left on device")
            self.lines.append(json.loads(lines.popleft()))

    def close(self) -> None:
        self.closed = True

    @property
    def sessions(self) -> list[int]:
        return [UUID(each["session_id"]).int for each in self.lines if "session_id" in each]

    def of(self, event: str) -> list[dict[str, Any]]:
        return [each for each in self.lines if each["event"] == event]


class Stopwatch:
    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def dropped() -> float:
    return REGISTRY.get_sample_value("session_authority_audit_events_dropped_total") or 0


@pytest.fixture
def disk() -> Disk:
    return Disk()


@pytest.fixture
def audit(disk: Disk) -> Iterator[AuditLog]:
    audit = AuditLog(cast("File", disk), ManualClock(NOON))
    yield audit
    disk.full = False
    disk.free.set()
    audit.close()


def test_events_are_written_in_the_order_of_recording(audit: AuditLog, disk: Disk) -> None:
    for number in range(0, 1_000, 2):
        audit.record(ended(number), ended(number + 1))
    audit.close()
    assert disk.sessions == list(range(1_000))
    assert disk.closed


def test_a_stop_waits_until_queued_events_are_written(audit: AuditLog, disk: Disk) -> None:
    disk.free.clear()
    audit.record(*map(ended, range(100)))
    threading.Timer(0.1, disk.free.set).start()
    audit.close()
    assert disk.sessions == list(range(100))


def test_a_disk_that_hangs_delays_no_caller_and_dropped_events_are_counted_and_logged(
    audit: AuditLog, disk: Disk
) -> None:
    before = dropped()
    disk.free.clear()
    audit.record(ended(0))
    assert disk.asked.wait(PATIENCE_SECONDS)
    audit.record(*map(ended, range(1, QUEUE_LIMIT_EVENTS + 43)))  # returns while the disk hangs
    assert dropped() - before == 42
    disk.free.set()
    wait_until(lambda: disk.of("events-dropped"))
    assert disk.sessions == list(range(QUEUE_LIMIT_EVENTS + 1))
    [summary] = disk.of("events-dropped")
    assert disk.lines[-1] is summary
    assert summary["count"] == 42
    assert summary["since"] == NOON.timestamp()
    audit.record(ended(7))
    audit.close()
    assert disk.sessions[-1] == 7, "it goes on"


def test_a_full_disk_is_retried_until_it_has_room(
    audit: AuditLog, disk: Disk, caplog: pytest.LogCaptureFixture
) -> None:
    disk.full = True
    audit.record(ended(1))
    wait_until(lambda: caplog.records)
    audit.record(ended(2))
    time.sleep(2.5 * log.RETRY_SECONDS)
    disk.full = False
    wait_until(lambda: len(disk.lines) == 2)
    assert disk.sessions == [1, 2]
    assert [each.levelname for each in caplog.records] == ["ERROR", "WARNING"], (
        "one error, then one line about recovery"
    )


@pytest.mark.parametrize("trouble", ["hangs", "is full"])
def test_a_stop_does_not_wait_forever_for_a_disk_that(
    trouble: str, audit: AuditLog, disk: Disk, caplog: pytest.LogCaptureFixture
) -> None:
    before = dropped()
    if trouble == "hangs":
        disk.free.clear()
    else:
        disk.full = True
    audit.record(*map(ended, range(3)))
    started = time.monotonic()
    audit.close(0.1)
    assert time.monotonic() - started < PATIENCE_SECONDS
    assert dropped() - before == 3
    assert "3 lines" in caplog.text


def test_an_event_that_fails_to_serialize_stops_no_other_event(
    audit: AuditLog, disk: Disk, caplog: pytest.LogCaptureFixture
) -> None:
    audit.record(cast("SessionEnded", "no event"))
    wait_until(lambda: caplog.records)
    audit.record(ended(1))
    audit.close()
    assert disk.sessions == [1]
    caplog.clear()


async def test_upkeep_waits_for_room_but_not_forever(
    audit: AuditLog, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log, "ROOM_SECONDS", 0.05)
    disk.free.clear()
    audit.record(ended(0))
    assert disk.asked.wait(PATIENCE_SECONDS)
    audit.record(*map(ended, range(QUEUE_LIMIT_EVENTS - EVENTS_AT_ONCE)))
    with pytest.raises(StopIteration):
        audit.wait_for_room().send(None)  # there is room, so it does not wait
    audit.record(ended(1))
    started = time.monotonic()
    await audit.wait_for_room()
    assert time.monotonic() - started >= 0.05


@pytest.mark.parametrize("fault", [CredentialFault.FORGED, CredentialFault.SUPERSEDED])
def test_a_flood_of_rejected_credentials_leaves_some_lines_and_a_count(
    fault: CredentialFault, disk: Disk
) -> None:
    elapsed = Stopwatch()
    audit = AuditLog(cast("File", disk), ManualClock(NOON), elapsed=elapsed)
    for _ in range(1_000):
        audit.record(rejected(fault))
    audit.record(ended(5))
    wait_until(lambda: disk.of("session-ended"))
    assert len(disk.of("credential-rejected")) == PER_SECOND
    assert disk.of("credentials-rejected") == [], "not before the second is over"
    elapsed.seconds = 1.0
    wait_until(lambda: disk.of("credentials-rejected"))
    audit.record(rejected(fault))
    audit.close()
    assert len(disk.of("credential-rejected")) == PER_SECOND + 1, "a new second"
    [summary] = disk.of("credentials-rejected")
    assert (summary["count"], summary["reason"]) == (1_000 - PER_SECOND, fault.value)


def test_a_flood_of_one_kind_hides_no_event_of_another_kind(audit: AuditLog, disk: Disk) -> None:
    for _ in range(1_000):
        audit.record(rejected(CredentialFault.FORGED))
    audit.record(rejected(CredentialFault.SUPERSEDED))
    audit.close()
    reasons = [each["reason"] for each in disk.of("credential-rejected")]
    assert reasons.count("superseded") == 1
    assert disk.of("credentials-rejected")[0]["count"] == 1_000 - PER_SECOND


def test_tokens_of_unknown_sessions_are_not_logged(audit: AuditLog, disk: Disk) -> None:
    for _ in range(100):
        audit.record(rejected(CredentialFault.UNKNOWN))
    audit.close()
    assert disk.lines == []


# Files


def lines_of(path: Path) -> list[int]:
    return [UUID(json.loads(line)["session_id"]).int for line in path.read_text().splitlines()]


def test_only_the_owner_can_read_the_file_and_lines_are_appended(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    for number in range(2):
        audit = AuditLog(File(path), ManualClock(NOON))
        audit.record(ended(number))
        audit.close()
    assert path.stat().st_mode & 0o777 == 0o600
    assert lines_of(path) == [0, 1]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_file_that_root_makes_belongs_to_the_owner_of_its_folder(tmp_path: Path) -> None:
    os.chown(tmp_path, 65_534, 65_533)
    path = tmp_path / "audit.jsonl"
    File(path).close()
    assert (path.stat().st_uid, path.stat().st_gid) == (65_534, 65_533)
    os.chown(path, 0, 0)
    File(path).close()  # an old file keeps its owner
    assert path.stat().st_uid == 0


@pytest.mark.parametrize("how", ["renamed", "removed", "renamed and created again", "truncated"])
def test_after_a_rotation_lines_go_to_the_new_file(how: str, tmp_path: Path) -> None:
    path, old = tmp_path / "audit.jsonl", tmp_path / "audit.jsonl.1"
    audit = AuditLog(File(path), ManualClock(NOON))
    audit.record(ended(1))
    wait_until(lambda: path.read_bytes().endswith(b"\n"))
    if how == "truncated":
        old.write_bytes(path.read_bytes())
        path.write_bytes(b"")
    elif how == "removed":
        path.unlink()
    else:
        path.rename(old)
        if how == "renamed and created again":
            path.touch(0o640)
    audit.record(ended(2))
    audit.close()
    assert lines_of(path) == [2]
    if how != "removed":
        assert lines_of(old) == [1]


def test_processes_that_share_a_file_write_whole_lines(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    audits = [AuditLog(File(path), ManualClock(NOON)) for _ in range(4)]
    for number in range(500):
        for place, audit in enumerate(audits):
            audit.record(ended(1_000 * place + number))
    for audit in audits:
        audit.close()
    found = lines_of(path)
    for place in range(4):
        own = [number for number in found if number // 1_000 == place]
        assert own == [1_000 * place + number for number in range(500)]


def test_a_line_that_was_cut_short_is_written_again_in_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "audit.jsonl"
    file = File(path)
    room = [70]  # bytes that the disk accepts before it is full
    write = os.write

    def filling(descriptor: int, data: bytes) -> int:
        if not room[0]:
            raise OSError(errno.ENOSPC, "no space left on device")
        count = write(descriptor, data[: room[0]])
        room[0] -= count
        return count

    monkeypatch.setattr(os, "write", filling)
    lines = deque(
        json.dumps({"number": number, "pad": "x" * 30}).encode() + b"\n" for number in range(3)
    )
    with pytest.raises(OSError, match="no space left"):
        file.write(lines)
    assert len(lines) == 2, "the first was written"
    room[0] = 10_000
    file.write(lines)
    file.close()
    whole, torn = [], []
    for line in path.read_text().splitlines():
        try:
            whole.append(json.loads(line)["number"])
        except ValueError:
            torn.append(line)
    assert whole == [0, 1, 2]
    assert len(torn) == 1


def test_a_path_that_is_not_a_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe", tmp_path / "missing" / "audit.jsonl"):
        with pytest.raises(OSError):
            File(path)


def test_standard_output_is_written_in_pieces_that_a_pipe_does_not_split() -> None:
    reading, writing = os.pipe()
    audit = AuditLog(Descriptor(writing), ManualClock(NOON))
    audit.record(*map(ended, range(100)))
    audit.close()
    os.close(writing)
    with os.fdopen(reading) as pipe:
        found = [UUID(json.loads(line)["session_id"]).int for line in pipe]
    assert found == list(range(100))


@pytest.fixture(autouse=True)
def log_level_info(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
