"""Gathering the facts of an installation, which changes nothing."""

import sqlite3
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from session_authority_server.app.development_key import key_file, make
from session_authority_server.check.database_condition import SqliteCondition
from session_authority_server.check.facts import Facts
from session_authority_server.check.gather import filesystem_of, gather
from session_authority_server.config import Settings
from session_authority_server.domain.api_key import Permission
from session_authority_server.domain.clock import ManualClock
from session_authority_server.domain.errors import StoreUnavailable
from session_authority_server.domain.session import InitiatingEntity
from session_authority_server.store.database import Database
from session_authority_server.store.receivers import SqlReceiverStore
from session_authority_server.store.schema import migrate
from tests.contract.reporting import a_receiver
from tests.support.engines import DAY, MINUTE, START, Engine, a_session, over


class Place:
    """A complete SQLite file, and its facts."""

    def __init__(self, path: Path, engine: Engine) -> None:
        self.path = path
        self.engine = engine
        self.clock = ManualClock(START)

    async def facts(self, **settings: Any) -> Facts:
        database = Database.sqlite(self.path, read_only=True)
        given = {"database_url": f"sqlite:///{self.path}", **settings}
        try:
            return await gather(Settings(**given), database, self.clock)
        finally:
            await database.close()


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    path = tmp_path / "authority #1?%20.sqlite"
    path.touch(mode=0o600)
    database = Database.sqlite(path)
    await migrate(database)
    yield Place(path, over(database))
    await database.close()


async def test_the_links_to_a_file_are_counted(place: Place) -> None:
    assert (await place.facts()).hard_links == 1
    (place.path.parent / "link").hardlink_to(place.path)
    assert (await place.facts()).hard_links == 2


async def test_a_new_file_is_recognised(place: Place) -> None:
    facts = await place.facts()
    assert facts.now == START
    assert facts.condition == SqliteCondition(journal_mode="wal")
    assert facts.schema.is_current
    assert facts.clock_skew == timedelta(0)
    assert facts.token_secret_bits == 256
    assert facts.exposure.is_loopback
    assert facts.contents is not None
    assert facts.contents.keys == []
    assert facts.contents.overdue_since is None
    assert facts.contents.backlog.sweep_time is None
    assert facts.contents.sign_ins_until is None


async def test_the_settings_are_gathered(place: Place) -> None:
    facts = await place.facts(
        listen="0.0.0.0:1",
        metrics_listen="[::]:2",
        tls_certificate="cert.pem",
        tls_key="key.pem",
        idle_timeout_seconds=600,
        worker_interval_seconds=7,
        audit_log="audit.jsonl",
    )
    assert not facts.exposure.is_loopback
    assert not facts.exposure.metrics_is_loopback
    assert facts.exposure.tls
    assert facts.policy.idle_timeout == 10 * MINUTE
    assert facts.worker_interval == timedelta(seconds=7)
    assert facts.audit_log == "audit.jsonl"


@pytest.mark.parametrize(
    ("address", "verified"),
    [
        ("postgresql://db.example.com/authority?sslmode=require&sslrootcert=/none", False),
        ("postgresql://db.example.com/authority?sslmode=verify-full", True),
        ("postgresql://localhost/authority", True),
        (
            "postgresql://db.example.com/authority?unknown=1",
            True,
        ),  # no server starts with this setting
        ("", True),
    ],
)
async def test_verification_of_the_listen_address_is_gathered(
    place: Place, address: str, verified: bool
) -> None:
    facts = await place.facts(database_url="postgresql://localhost/x", watch_database_url=address)
    assert facts.watch_is_verified is verified


async def test_keys_their_uses_and_the_development_key_are_gathered(place: Place) -> None:
    await make(place.path, place.engine.keys, START)
    [key] = await place.engine.keys.read_keys()
    await place.engine.keys.note_key_uses({(key.key_id, Permission.CREATE)}, START)
    facts = await place.facts()
    assert facts.development_key_id == key.key_id
    assert facts.contents is not None
    assert facts.contents.keys == [key]
    assert set(facts.contents.uses[key.key_id]) == {Permission.CREATE}


@pytest.mark.parametrize("found", [b"", b"sak_x\n", b"\xff\xfe"])
async def test_a_file_without_a_key_is_not_a_development_key(place: Place, found: bytes) -> None:
    key_file(place.path).write_bytes(found)
    assert (await place.facts()).development_key_id is None


async def test_pending_work_of_the_worker_is_gathered(place: Place) -> None:
    await place.engine.add(a_session("ann", at=START, lifetime=DAY))
    await place.engine.sweep("bob", START + MINUTE, InitiatingEntity.USER)
    place.clock.advance(2 * DAY)
    contents = (await place.facts()).contents
    assert contents is not None
    assert contents.overdue_since == START + DAY
    assert contents.backlog.sweep_time == START + MINUTE
    assert contents.live_until is None


async def test_receivers_and_the_key_of_events_are_gathered(place: Place) -> None:
    receiver = a_receiver()
    await SqlReceiverStore(place.engine.database).add_receiver(receiver, START)
    facts = await place.facts()
    assert facts.contents is not None
    assert facts.contents.receivers == [receiver]
    assert not facts.has_event_key
    assert (await place.facts(event_key="k" * 32)).has_event_key
    (place.path.parent / (place.path.name + ".state") / "event.key").mkdir(parents=True)
    assert not (await place.facts()).has_event_key


async def test_the_latest_end_of_live_sessions_is_gathered(place: Place) -> None:
    await place.engine.add(a_session(lifetime=90 * DAY))
    contents = (await place.facts(absolute_lifetime_seconds=43_200)).contents
    assert contents is not None
    assert contents.live_until == START + 90 * DAY


async def test_files_are_gathered_with_their_readers(place: Place, tmp_path: Path) -> None:
    audit, tls_key = tmp_path / "audit.jsonl", tmp_path / "tls.key"
    for file, mode in ((audit, 0o644), (tls_key, 0o640), (key_file(place.path), 0o600)):
        file.touch()
        file.chmod(mode)
    facts = await place.facts(
        audit_log=str(audit), tls_certificate="there is none", tls_key=str(tls_key)
    )
    modes = {file.path: file.mode for file in facts.files}
    assert modes[audit] == 0o644
    assert modes[tls_key] == 0o640
    assert modes[key_file(place.path)] == 0o600
    assert modes[place.path] == 0o600
    assert len({file.holds for file in facts.files}) == 4


async def test_missing_files_and_other_urls_are_left_out(place: Place) -> None:
    facts = await place.facts(tls_certificate="x", tls_key="y", audit_log="-")
    assert {file.path.name.removeprefix(place.path.name) for file in facts.files} <= {
        "",
        "-wal",
        "-shm",
    }


async def test_gathering_waits_for_no_writer_and_changes_nothing(place: Place) -> None:
    """Another program holds the write lock meanwhile, so a second writer would have to wait."""
    writer = sqlite3.connect(place.path, isolation_level=None)
    writer.execute("BEGIN IMMEDIATE")
    try:
        before = place.path.read_bytes()
        facts = await place.facts()
        assert facts.contents is not None
        assert place.path.read_bytes() == before
    finally:
        writer.rollback()
        writer.close()


async def test_a_database_opened_for_reading_cannot_be_written(place: Place) -> None:
    database = Database.sqlite(place.path, read_only=True)
    with pytest.raises(StoreUnavailable) as caught:
        await over(database).keys.note_key_uses(
            {(a_session().session_id, Permission.CREATE)}, START
        )
    assert "readonly" in str(caught.value.__cause__)
    await database.close()


async def test_a_file_keeps_its_journal_mode(tmp_path: Path) -> None:
    path = tmp_path / "other.sqlite"
    with sqlite3.connect(path) as other:
        other.execute("CREATE TABLE things (id)")
    other.close()
    place = Place(path, over(Database.sqlite(path)))
    facts = await place.facts()
    assert facts.condition == SqliteCondition(journal_mode="delete")
    assert facts.schema.current is None
    assert facts.contents is None
    assert list(tmp_path.iterdir()) == [path]


def test_the_file_system_of_a_path_is_that_of_its_nearest_mount_point(tmp_path: Path) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text(
        "overlay / overlay rw 0 0\n"
        "disk /srv ext4 rw 0 0\n"
        "server:/x /srv/shared\\040files nfs4 rw 0 0\n"
        "tmpfs /srv/fast tmpfs rw 0 0\n"
        "disk2 /srv/fast xfs rw 0 0\n"
    )
    for path, kind in (
        ("/srv/authority.sqlite", "ext4"),
        ("/srvx/authority.sqlite", "overlay"),
        ("/srv/shared files/a.sqlite", "nfs4"),
        ("/srv/fast/a.sqlite", "xfs"),
    ):
        assert filesystem_of(Path(path), mounts) == kind
    assert filesystem_of(Path("/srv/a.sqlite"), tmp_path / "none") == ""
