import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from session_authority_server.store.engine.sqlite import AlreadyServed, FileReplaced, SqliteFile

Move = Callable[[Path], object]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """An empty database file in a separate folder."""
    (tmp_path / "data").mkdir()
    file = tmp_path / "data" / "authority.db"
    file.touch()
    return file


@pytest.fixture
def served(path: Path) -> Iterator[SqliteFile]:
    """The file of a server that has committed something."""
    with SqliteFile(path, serve=True) as file:
        _commit(path)
        yield file


def _commit(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE IF NOT EXISTS t (x)")
        connection.execute("INSERT INTO t VALUES (1)")


def _rows(path: Path) -> int:
    with closing(sqlite3.connect(path)) as connection:
        found: int = connection.execute("SELECT count(*) FROM t").fetchone()[0]
        return found


# Claiming the file


def test_a_file_can_have_only_one_server(path: Path, served: SqliteFile) -> None:
    with pytest.raises(AlreadyServed, match=r"another process serves .*authority\.db; SQLite"):
        SqliteFile(path, serve=True).__enter__()
    assert served.is_in_place()


def test_the_next_server_claims_the_file_when_the_first_has_ended(path: Path) -> None:
    for _ in range(3):
        with SqliteFile(path, serve=True) as file:
            assert file.is_in_place()


def test_different_files_can_have_different_servers(path: Path, served: SqliteFile) -> None:
    other = path.with_name("other.db")
    other.touch()
    with SqliteFile(other, serve=True):
        assert served.is_in_place()


@pytest.mark.parametrize("serve", [True, False])
def test_a_hard_link_to_a_served_file_is_refused(
    path: Path, served: SqliteFile, serve: bool
) -> None:
    link = path.parent.parent / "link.db"
    link.hardlink_to(path)
    assert served.links == 2
    with pytest.raises(AlreadyServed, match=r"by another name .*hard link or a bind mount"):
        SqliteFile(link, serve=serve).__enter__()
    assert not link.with_name("link.db-wal").exists()


def test_commands_work_beside_a_server_by_its_name_and_by_links_to_it(
    path: Path, served: SqliteFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    to_file, to_folder = path.parent.parent / "file.db", path.parent.parent / "folder"
    to_file.symlink_to(path)
    to_folder.symlink_to(path.parent)
    monkeypatch.chdir(path.parent)
    for name in (path, to_file, to_folder / path.name, Path(path.name)):
        with SqliteFile(name) as file:
            assert file.is_in_place()
        with pytest.raises(AlreadyServed):
            SqliteFile(name, serve=True).__enter__()
    assert served.is_in_place()


def test_commands_work_without_a_server(path: Path) -> None:
    with SqliteFile(path) as one, SqliteFile(path) as other:
        assert one.is_in_place()
        assert other.is_in_place()


def test_a_file_that_replaced_a_served_file_is_refused_until_the_server_has_ended(
    path: Path,
) -> None:
    with SqliteFile(path, serve=True):
        path.rename(path.with_name("moved.db"))
        path.touch()
        with pytest.raises(FileReplaced, match="stop the server"):
            SqliteFile(path).__enter__()
        with pytest.raises(AlreadyServed):
            SqliteFile(path, serve=True).__enter__()
    with SqliteFile(path, serve=True):
        pass


def test_a_path_that_is_not_a_database_is_refused(path: Path) -> None:
    path.write_bytes(b"something else " * 100)
    with pytest.raises(sqlite3.DatabaseError, match="not a database"):
        SqliteFile(path, serve=True).__enter__()
    path.write_bytes(b"")
    with SqliteFile(path, serve=True):
        pass


# Noticing that the file was moved or damaged


def _log(path: Path) -> Path:
    return path.with_name(path.name + "-wal")


def _index(path: Path) -> Path:
    return path.with_name(path.name + "-shm")


def _copy_over(path: Path) -> None:
    shutil.copy(path, path.with_name("copy"))
    path.with_name("copy").rename(path)


def _replace_folder(path: Path) -> None:
    shutil.copytree(path.parent, path.parent.with_name("copy"))
    path.parent.rename(path.parent.with_name("moved"))
    path.parent.with_name("copy").rename(path.parent)


@pytest.mark.parametrize(
    "move",
    [
        Path.unlink,
        lambda path: path.rename(path.with_name("moved.db")),
        _copy_over,
        lambda path: _log(path).unlink(),
        lambda path: _index(path).unlink(),
        lambda path: _copy_over(_log(path)),
        lambda path: _copy_over(_index(path)),
        lambda path: path.parent.rename(path.parent.with_name("moved")),
        _replace_folder,
        lambda path: shutil.rmtree(path.parent),
    ],
    ids=[
        "removed",
        "renamed",
        "replaced",
        "log removed",
        "index removed",
        "log replaced",
        "index replaced",
        "folder renamed",
        "folder replaced",
        "folder removed",
    ],
)
def test_a_damaged_file_is_not_in_place(path: Path, served: SqliteFile, move: Move) -> None:
    assert served.is_in_place()
    move(path)
    assert not served.is_in_place()


def test_a_link_that_points_to_another_file_is_noticed(tmp_path: Path, path: Path) -> None:
    link = tmp_path / "link.db"
    link.symlink_to(path)
    with SqliteFile(link, serve=True) as file:
        other = tmp_path / "other.db"
        shutil.copy(path, other)
        link.unlink()
        link.symlink_to(other)
        assert not file.is_in_place()


def test_a_file_that_moves_with_the_link_to_it_is_noticed(tmp_path: Path, path: Path) -> None:
    link, moved = tmp_path / "link.db", tmp_path / "moved.db"
    link.symlink_to(path)
    with SqliteFile(link, serve=True) as file:
        path.rename(moved)
        link.unlink()
        link.symlink_to(moved)
        assert not file.is_in_place()


def test_a_file_that_was_moved_back_is_in_place(path: Path, served: SqliteFile) -> None:
    moved = path.with_name("moved.db")
    path.rename(moved)
    moved.rename(path)
    assert served.is_in_place()


def test_ordinary_use_leaves_everything_in_place(path: Path, served: SqliteFile) -> None:
    for _ in range(3):
        _commit(path)  # and closes the connection, which may be the last one apart from ours
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            other.execute("VACUUM")
            with pytest.raises(sqlite3.OperationalError, match="locked"):
                other.execute("PRAGMA journal_mode = DELETE")
        os.utime(path)
        path.chmod(0o600)
    assert served.is_in_place()


# Closing a moved file


def test_a_moved_file_has_every_commit_and_the_file_that_replaced_it_has_none(path: Path) -> None:
    moved, backup = path.with_name("moved.db"), path.with_name("backup.db")
    _commit(backup)
    with SqliteFile(path, serve=True):
        for _ in range(3):
            _commit(path)
        path.rename(moved)
        backup.rename(path)
    assert _rows(moved) == 3
    assert _rows(path) == 1


def test_a_file_whose_log_was_removed_has_every_commit_after_closing(path: Path) -> None:
    with SqliteFile(path, serve=True):
        _commit(path)
        _log(path).unlink()
    assert _rows(path) == 1


def test_the_log_of_the_replacing_file_is_kept(path: Path) -> None:
    backup = path.parent.with_name("backup")
    with SqliteFile(path, serve=True):
        _commit(path)
        shutil.copytree(path.parent, backup)  # the log contains the only row
        path.parent.rename(path.parent.with_name("moved"))
        backup.rename(path.parent)
    assert _log(path).exists()
    assert _rows(path) == 1
    assert _rows(path.parent.with_name("moved") / path.name) == 1
