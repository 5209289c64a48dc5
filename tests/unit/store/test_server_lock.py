from pathlib import Path

import pytest

from session_authority_server.store.server_lock import AlreadyServed, ServerLock


def test_one_server_holds_the_lock_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "authority.db"
    with ServerLock(path), pytest.raises(AlreadyServed, match=r"authority\.db"), ServerLock(path):
        pass


def test_the_next_server_gets_the_lock_when_the_first_has_ended(tmp_path: Path) -> None:
    path = tmp_path / "authority.db"
    for _ in range(3):
        with ServerLock(path):
            pass


def test_other_files_have_other_locks(tmp_path: Path) -> None:
    with ServerLock(tmp_path / "one.db"), ServerLock(tmp_path / "other.db"):
        pass


def test_a_lock_never_taken_is_let_go_of_harmlessly(tmp_path: Path) -> None:
    ServerLock(tmp_path / "authority.db").__exit__()
