"""A server whose SQLite file is moved, removed or replaced: it answers no write that would be lost, and ends."""

import asyncio
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from session_authority import AsyncSessionClient, NewSession, SessionAuthorityError
from tests.support.program import COMMAND, Refusal, environment, running, serving

CALLERS = 8
BEFORE = 50
REASON = "was moved, removed or replaced while it was open"
Damage = Callable[[Path], object]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return the folder of the database. A test can move the whole folder."""
    made = tmp_path / "data"
    made.mkdir()
    return made


def _file(folder: Path) -> Path:
    return folder / "session-authority.sqlite"


def _settings(folder: Path) -> dict[str, str]:
    return {"SESSION_AUTHORITY_DATABASE_URL": f"sqlite:///{_file(folder)}"}


def _back_up(file: Path, backup: Path) -> None:
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("VACUUM INTO ?", (str(backup),))


def _replace(file: Path) -> None:
    """Replace the file with a backup, as a restore does."""
    backup = file.with_name("backup")
    _back_up(file, backup)
    file.rename(file.with_name("before"))
    backup.rename(file)


@pytest.mark.parametrize(
    ("damage", "then"),
    [
        (_replace, "before"),
        (lambda file: file.with_name(file.name + "-wal").unlink(), "session-authority.sqlite"),
        (Path.unlink, None),
    ],
    ids=["replaced", "log removed", "removed"],
)
async def test_no_write_is_answered_after_the_file_was_replaced(
    tmp_path: Path, folder: Path, damage: Damage, then: str | None
) -> None:
    with serving(tmp_path, settings=_settings(folder)) as server:
        client = AsyncSessionClient(server.address, deadline_seconds=1)
        async with client, asyncio.TaskGroup() as callers:
            answered: list[tuple[float, NewSession]] = []
            until = asyncio.Event()
            for _ in range(CALLERS):
                callers.create_task(_sign_in_again_and_again(client, answered, until))
            async with asyncio.timeout(60):
                while len(answered) < BEFORE:
                    await asyncio.sleep(0.01)
            await asyncio.to_thread(damage, _file(folder))
            damaged = time.monotonic()
            assert await asyncio.to_thread(server.exit_code) == 1
            until.set()
    assert [new for asked, new in answered if asked > damaged] == []
    assert REASON in server.stderr
    assert "Traceback" not in server.stderr
    if then is not None:
        kept = _ids(folder / then)
        assert {new.session.session_id.replace("-", "") for _, new in answered} <= kept


async def _sign_in_again_and_again(
    client: AsyncSessionClient, answered: list[tuple[float, NewSession]], until: asyncio.Event
) -> None:
    while not until.is_set():
        asked = time.monotonic()
        try:
            new = await client.create("ann")
        except SessionAuthorityError:
            await asyncio.sleep(0.01)
        else:
            answered.append((asked, new))


def _ids(file: Path) -> set[str]:
    with closing(sqlite3.connect(file)) as connection:
        found = connection.execute("SELECT lower(hex(session_id)) FROM sessions")
        return {row[0] for row in found}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Return the folder of a database file that a running server uses."""
    folder = tmp_path_factory.mktemp("served")
    with serving(folder) as server:
        yield folder
        assert server.stop() == 0


def test_a_worker_ends_when_its_file_was_replaced(
    served: Path, tmp_path: Path, folder: Path
) -> None:
    _back_up(_file(served), _file(folder))
    with running("worker", cwd=tmp_path, settings=_settings(folder)) as worker:
        worker.wait_for("(worker on)")
        _file(folder).rename(folder / "before")
        assert worker.exit_code() == 1
    assert REASON in worker.stderr


COMMANDS = ("serve --listen 127.0.0.1:0", "worker --once", "migrate", "keys list")


@pytest.mark.parametrize("command", COMMANDS)
def test_a_served_file_is_not_opened_by_another_name(
    served: Path, tmp_path: Path, command: str, refusal: Refusal
) -> None:
    link = tmp_path / "link.sqlite"
    link.hardlink_to(_file(served))
    said = refusal(*command.split(), "--database-url", f"sqlite:///{link}")
    assert f"another process serves {link} by another name" in said
    assert "remove the other name" in said
    assert list(tmp_path.glob("link.sqlite-*")) == []
    link.unlink()


MAY_MOUNT = subprocess.run(["unshare", "-m", "true"], check=False, capture_output=True).returncode


def _mounted(what: Path, where: Path, *command: str) -> "subprocess.CompletedProcess[str]":
    """Run a command in a private mount namespace, where a path has another name."""
    mounting = 'mount --bind "$0" "$1" && shift && exec "$@"'
    return subprocess.run(
        ["unshare", "-m", "sh", "-c", mounting, what, where, COMMAND, *command],
        cwd=where.parent,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.skipif(MAY_MOUNT != 0, reason="only root may mount here")
def test_a_served_file_is_not_opened_through_a_mount_of_it(served: Path, tmp_path: Path) -> None:
    where = tmp_path / "mounted.sqlite"
    where.touch()
    for command in ("serve --listen 127.0.0.1:0", "keys list"):
        url = f"sqlite:///{where}"
        done = _mounted(_file(served), where, *command.split(), "--database-url", url)
        assert done.returncode == 1
        assert f"another process serves {where} by another name" in done.stderr
    assert list(tmp_path.glob("mounted.sqlite-*")) == []


@pytest.mark.skipif(MAY_MOUNT != 0, reason="only root may mount here")
def test_commands_work_through_a_mount_of_the_folder(served: Path, tmp_path: Path) -> None:
    where = tmp_path / "mounted"
    where.mkdir()
    url = f"sqlite:///{_file(where)}"
    done = _mounted(served, where, "keys", "list", "--database-url", url)
    assert done.returncode == 0, done.stderr


def test_a_server_of_a_file_with_several_names_warns(tmp_path: Path, folder: Path) -> None:
    _file(folder).touch()
    (folder / "link").hardlink_to(_file(folder))
    with serving(tmp_path, settings=_settings(folder)) as server:
        assert "the database file has several names" in server.stderr
