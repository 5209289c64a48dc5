"""Reading an audit log gives the events that end something, also from damaged files."""

import gzip
from datetime import timedelta
from pathlib import Path

import pytest

from session_authority_server.audit.lines import DROPPED, as_line, summary_line
from session_authority_server.audit.reading import AuditLogFiles
from session_authority_server.domain.event import (
    Event,
    KeyExpirySet,
    KeyRevoked,
    SessionEnded,
    SessionReauthenticated,
    SessionsSwept,
)
from session_authority_server.domain.session import InitiatingEntity, Sweep
from session_authority_server.usecases.erase_user import ERASURE_REASON
from session_authority_server.usecases.replay import TokenReplaced
from tests.unit.audit.test_lines import ENDED, EVENTS, ID, NOON, SESSION

AT = NOON + timedelta(microseconds=123_457)
KEPT = SessionsSwept("ada", Sweep(AT, InitiatingEntity.USER), ID)
KEY_ENDED = [
    KeyRevoked(str(ID), AT),
    KeyExpirySet(str(ID), AT + timedelta(hours=1), AT),
]
EVERYBODY = SessionsSwept("", Sweep(AT, InitiatingEntity.ADMIN, "leak"), why="leak")
ERASED = SessionsSwept("bob", Sweep(AT, InitiatingEntity.ADMIN, ERASURE_REASON), why=ERASURE_REASON)


def line(event: Event) -> str:
    return as_line(event, addresses=False).decode()


WHOLE = line(ENDED)
# The keys of these examples have ids that no real key has.
READABLE = [each for each in EVENTS if not isinstance(each, KeyRevoked | KeyExpirySet)]


def read(tmp_path: Path, *texts: str) -> tuple[list[object], AuditLogFiles]:
    paths = [tmp_path / f"audit.{number}" for number in range(len(texts))]
    for path, text in zip(paths, texts, strict=True):
        path.write_text(text)
    files = AuditLogFiles(paths)
    return list(files.events()), files


@pytest.mark.parametrize("event", [ENDED, KEPT, EVERYBODY, ERASED, *KEY_ENDED, *READABLE])
def test_an_event_that_ends_something_is_read_as_it_was_written(
    tmp_path: Path, event: Event
) -> None:
    found, files = read(tmp_path, line(event))
    match event:
        case SessionReauthenticated():
            assert found == [TokenReplaced(SESSION.session_id, event.time)]
        case SessionEnded() | SessionsSwept() | KeyRevoked() | KeyExpirySet():
            assert found == [event]
        case _:
            assert found == []
    assert files.is_complete


@pytest.mark.parametrize(
    ("text", "count", "is_complete"),
    [
        (WHOLE + WHOLE[:40], 1, False),  # a crash
        (WHOLE[:40] + "\n" + WHOLE, 1, True),  # a disk that was full
        (WHOLE[:40] + "\n" + line(KEPT) + WHOLE, 2, True),
        (summary_line(DROPPED, 7, NOON, NOON).decode() + WHOLE, 1, False),
        ("session-authority: serving\n" + '{"event":"started"}\n' + WHOLE, 1, True),
        ('{"event_timestamp":1,"event":"session-ended","session_id":"?"}\n', 0, False),
        (WHOLE[20:] + WHOLE, 1, False),  # the beginning was cut off
        ("Dec 01 12:00:00 host session-authority[1]: " + WHOLE, 0, False),
        (WHOLE.replace('"ada"', '"a\\u0000"'), 0, False),
        (WHOLE.replace('"ada"', "[1]"), 0, False),
        (line(KEPT).replace('"user_id":"ada",', ""), 0, False),  # not a sweep of everybody
        (line(KEPT).replace('"event_timestamp":', '"event_timestamp":1e99'), 0, False),
        (line(ERASED).replace('{"en":', '["en",').replace('."}', '."]'), 0, False),
        (line(KeyRevoked("key-1", AT)), 0, False),
        ('{"event":"events-dropped"}\n' + WHOLE, 1, True),  # of another program
        ('{"event_timestamp":1,"event":"events-dropped"}\n', 0, False),
        ('{"a":' * 100_000 + "\n", 0, False),
    ],
)
def test_a_log_that_lacks_events_is_not_complete(
    tmp_path: Path, text: str, count: int, is_complete: bool
) -> None:
    found, files = read(tmp_path, text)
    assert (len(found), files.is_complete) == (count, is_complete)


def test_rotated_files_are_read_in_the_given_order(tmp_path: Path) -> None:
    packed, newest = tmp_path / "audit.jsonl.1.gz", tmp_path / "audit.jsonl"
    packed.write_bytes(gzip.compress(WHOLE.encode()))
    newest.write_text(line(KEPT))
    assert list(AuditLogFiles([packed, newest]).events()) == [ENDED, KEPT]


def test_a_damaged_compressed_file_is_named(tmp_path: Path) -> None:
    whole = gzip.compress(WHOLE.encode() * 100)
    damaged = whole[:10] + bytes([whole[10] ^ 0xFF]) + whole[11:]
    for content in (whole[:-9], damaged, b"{}"):
        path = tmp_path / "audit.gz"
        path.write_bytes(content)
        with pytest.raises(OSError, match="compressed data is damaged") as caught:
            list(AuditLogFiles([path]).events())
        assert caught.value.filename == str(path)
