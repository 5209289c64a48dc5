"""The files outside the database that hold the numbers of acknowledged endings."""

import os
import shutil
from pathlib import Path
from uuid import uuid4

import pytest

from session_authority_server.store.state_directory import (
    NUMBERS_LIMIT,
    StateDirectory,
    StateUnusable,
)


def opened(path: Path) -> StateDirectory:
    directory = StateDirectory(path)
    directory.open()
    return directory


def test_the_latest_numbers_are_read_back(tmp_path: Path) -> None:
    one, two = opened(tmp_path / "state"), opened(tmp_path / "state")
    one.write(range(1, 101))
    two.write([1 << 60])
    for each in (one, two):
        assert each.read() == {
            one.process_id: set(range(101 - NUMBERS_LIMIT, 101)),
            two.process_id: {1 << 60},
        }
        each.close()
    [file, _] = sorted(
        (tmp_path / "state").iterdir(), key=lambda path: path.stem != str(one.process_id)
    )
    assert file.stat().st_size == 512, "one disk sector"


def test_a_process_has_ended_when_its_lock_is_free(tmp_path: Path) -> None:
    one, two = opened(tmp_path), opened(tmp_path)
    one.write([1])
    assert two.ended() == []
    one.close()
    assert two.ended() == [one.process_id]
    two.remove(one.process_id)
    assert two.ended() == []
    two.close()
    assert list(tmp_path.iterdir()) == [], "a file without a number is removed"


@pytest.mark.parametrize("content", [b"", b"x" * 511, b"x" * 513, b"\xff" * 512])
def test_a_damaged_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / f"{uuid4()}.marks").write_bytes(content)
    (tmp_path / "other.marks").write_bytes(b"not ours")
    with pytest.raises(StateUnusable, match="it is damaged"):
        opened(tmp_path)


def test_a_directory_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StateUnusable, match="set SESSION_AUTHORITY_STATE_DIRECTORY to another"):
        opened(tmp_path / "file" / "state")


def test_a_pipe_in_the_place_of_a_file_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / f"{uuid4()}.marks")
    with pytest.raises(StateUnusable, match="it is damaged"):
        opened(tmp_path)


def test_a_removed_directory_is_made_again_with_all_numbers(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    one = opened(tmp_path / "state")
    one.write([1])
    shutil.rmtree(tmp_path / "state")
    one.write([1, 2])
    assert one.read() == {one.process_id: {1, 2}}
    other = opened(tmp_path / "state")
    assert other.ended() == [], "the new file is locked"
    assert "was moved or removed" in caplog.text
    other.close()
    one.close()


def test_a_moved_directory_is_made_again_with_all_numbers(tmp_path: Path) -> None:
    one = opened(tmp_path / "state")
    one.write([1])
    (tmp_path / "state").rename(tmp_path / "moved")
    one.write([1, 2])
    assert one.read() == {one.process_id: {1, 2}}
    one.close()


def test_a_directory_that_cannot_be_made_again_harms_no_other_file(tmp_path: Path) -> None:
    one = opened(tmp_path / "state")
    one.write([1])
    shutil.rmtree(tmp_path / "state")
    (tmp_path / "state").touch()
    other = tmp_path / "audit.jsonl"
    other.write_bytes(b"x" * 1_000)
    with other.open("r+b") as writing:
        for _ in range(2):
            with pytest.raises(OSError, match="exists"):
                one.write([1, 2])
            (tmp_path / "more").open("wb").close()
        (tmp_path / "state").unlink()
        one.write([1, 2])
        assert one.read() == {one.process_id: {1, 2}}
        one.close()
        assert writing.write(b"y") == 1
    assert other.read_bytes() == b"y" + b"x" * 999


def test_a_full_disk_leaves_no_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", fail)
    for _ in range(2):
        with pytest.raises(StateUnusable, match="No space left"):
            opened(tmp_path / "state")
    assert list((tmp_path / "state").iterdir()) == []


def test_other_users_of_the_directory_can_read_a_file_whatever_the_umask_is(tmp_path: Path) -> None:
    earlier = os.umask(0o077)
    try:
        directory = opened(tmp_path)
    finally:
        os.umask(earlier)
    [file] = tmp_path.iterdir()
    assert file.stat().st_mode & 0o777 == 0o644
    directory.close()
