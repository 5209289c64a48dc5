"""Restarting processes that end. A shell script takes the place of each server."""

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest
import uvloop

from session_authority_server.app.process import CannotStart
from session_authority_server.app.serving import ServeOptions
from session_authority_server.cli import supervisor
from session_authority_server.cli.server_process import Assignment
from session_authority_server.cli.supervisor import Supervisor, wait_seconds
from session_authority_server.config import load_settings

SERVES = "echo ready; exec sleep 60"
PATIENCE_SECONDS = 30  # half of the time that a script sleeps


class Log:
    """The logged lines."""

    def __init__(self) -> None:
        self.lines: list[dict[str, Any]] = []

    def warning(self, event: str, **fields: Any) -> None:
        self.lines.append({"event": event, **fields})

    error = warning


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> Log:
    made = Log()
    monkeypatch.setattr(supervisor, "_log", made)
    return made


def running(script: str, count: int = 2, stop_seconds: float = 10) -> Supervisor:
    """Return processes that each run a script. $0 is the number of the process."""
    assignments = [Assignment(n, load_settings(), ServeOptions(worker=False)) for n in range(count)]
    return Supervisor(assignments, stop_seconds, ["/bin/sh", "-c", script])


async def _all_serve(kept: Supervisor) -> None:
    await asyncio.wait_for(
        kept.run_until(asyncio.create_task(kept.serving.wait())), PATIENCE_SECONDS
    )
    assert kept.serving.is_set()


async def test_processes_serve_when_the_last_one_is_ready_and_end_on_request(log: Log) -> None:
    started = time.monotonic()
    async with running('sleep "0.$0"; echo ready; exec sleep 60', count=4) as kept:
        await _all_serve(kept)
        assert time.monotonic() - started > 0.3
    assert time.monotonic() - started < PATIENCE_SECONDS
    assert log.lines == []


async def test_each_process_gets_its_assignment_and_keeps_a_pipe_to_the_parent(
    log: Log, tmp_path: Path
) -> None:
    script = f'read task; echo "$task" > {tmp_path}/$0; echo ready; exec cat > {tmp_path}/more'
    async with running(script) as kept:
        await _all_serve(kept)
        fields = [Assignment.from_line(n, (tmp_path / str(n)).read_text()) for n in range(2)]
        await asyncio.sleep(0.1)
        assert log.lines == []  # the supervisor still waits for the others
    assert [assignment.settings.listen for assignment in fields] == [load_settings().listen] * 2
    assert (tmp_path / "more").read_text() == ""


async def test_a_reload_reaches_every_process_and_the_next_ones_start_with_its_level(
    log: Log, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "FIRST_WAIT_SECONDS", 0.02)
    script = f'read task; echo "$task" > {tmp_path}/$0; echo ready; read more; echo "$more" > {tmp_path}/more$0'
    async with running(script) as kept:
        await _all_serve(kept)
        kept.reload("error")
        await _until(lambda: len(log.lines) >= 2)
        for number in range(2):
            file = tmp_path / str(number)
            await _until(lambda file=file: '"log_level": "error"' in file.read_text())
            assert (tmp_path / f"more{number}").read_text() == "error\n"
        kept.reload(None)
        await _until(lambda: (tmp_path / "more0").read_text() == "\n")


async def test_a_process_that_hangs_does_not_block_its_parent(log: Log, tmp_path: Path) -> None:
    got = tmp_path / "got"
    got.touch()
    script = f"if [ $0 = 0 ]; then {SERVES}; fi; read task; echo ready; exec cat >> {got}"
    level = "x" * 3_999
    async with running(script) as kept:
        await _all_serve(kept)
        for count in range(1, 21):  # A pipe holds 64 KiB.
            kept.reload(level)
            await _until(lambda count=count: got.stat().st_size == 4_000 * count)
    assert {(each["event"], each["process"]) for each in log.lines} == {
        ("a server process takes no more reloads; does it hang?", 0)
    }


@pytest.mark.parametrize(
    ("script", "why"),
    [
        ("echo the port is taken; exit 1", "^the port is taken$"),
        ("exit 3", "ended before it could serve: exit status 3"),
        ("kill -9 $$", "ended before it could serve: SIGKILL"),
    ],
)
async def test_a_process_that_cannot_start_ends_all_processes(
    log: Log, script: str, why: str
) -> None:
    script = f'if [ "$0" = 1 ]; then {script}; else {SERVES}; fi'
    with pytest.raises(CannotStart, match=why):
        async with running(script) as kept:
            await _all_serve(kept)
    assert log.lines == []


async def test_a_failure_of_all_processes_is_logged_once(log: Log) -> None:
    with pytest.raises(CannotStart, match=r"^no$"):
        async with running("echo no; exit 1", count=4) as kept:
            await _all_serve(kept)
    assert log.lines == []


async def test_a_process_that_cannot_be_started_is_reported(log: Log) -> None:
    assignment = Assignment(0, load_settings(), ServeOptions(worker=False))
    with pytest.raises(CannotStart, match=r"a server process can't be started: .*absent"):
        async with Supervisor([assignment], 10, ["/absent"]) as kept:
            await _all_serve(kept)


async def test_a_process_that_ends_is_restarted_after_growing_waits(
    log: Log, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "FIRST_WAIT_SECONDS", 0.02)
    script = f"echo >> {tmp_path}/lives; echo ready; if [ $(wc -l < {tmp_path}/lives) -lt 4 ]; then exit 5; fi; "
    async with running(script + "exec sleep 60", count=1) as kept:
        await _all_serve(kept)
        await _until(lambda: (tmp_path / "lives").read_text().count("\n") == 4)
    assert [line["wait_seconds"] for line in log.lines] == [0.02, 0.04, 0.08]
    assert {(line["process"], line["why"]) for line in log.lines} == {(0, "exit status 5")}


def test_restarts_use_up_no_file_descriptors(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "FIRST_WAIT_SECONDS", 0.01)
    monkeypatch.setattr(supervisor, "STEADY_SECONDS", 0.0)

    async def restart() -> int:
        async with running("echo ready", count=1) as kept:
            await _all_serve(kept)
            await _until(lambda: log.lines)
            before = _open_files()
            await _until(lambda: len(log.lines) >= 10)
            return _open_files() - before

    # The event loop of `serve`, which closes no pipe by itself.
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert runner.run(restart()) < 5


async def test_a_process_that_ran_for_a_long_time_is_restarted_soon(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "FIRST_WAIT_SECONDS", 0.02)
    monkeypatch.setattr(supervisor, "STEADY_SECONDS", 0.0)
    async with running("echo ready", count=1) as kept:
        await _all_serve(kept)
        await _until(lambda: len(log.lines) >= 4)
    assert {line["wait_seconds"] for line in log.lines} == {0.02}


async def test_a_process_that_has_served_is_retried_if_its_restart_fails(
    log: Log, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "FIRST_WAIT_SECONDS", 0.02)
    script = (
        f"echo >> {tmp_path}/lives; case $(wc -l < {tmp_path}/lives) in "
        "1) echo ready;; 2) echo no database; exit 1;; *) echo ready; exec sleep 60;; esac"
    )
    async with running(script, count=1) as kept:
        await _all_serve(kept)
        await _until(lambda: (tmp_path / "lives").read_text().count("\n") == 3)
    assert [line["why"] for line in log.lines] == ["exit status 0", "no database"]


async def test_stopping_does_not_wait_for_a_pending_restart(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "FIRST_WAIT_SECONDS", 2 * PATIENCE_SECONDS)
    async with running("echo ready", count=1) as kept:
        await _all_serve(kept)
        await _until(lambda: log.lines)
        stopping = time.monotonic()
    assert time.monotonic() - stopping < PATIENCE_SECONDS


async def test_a_process_that_does_not_drain_in_time_is_killed(log: Log) -> None:
    script = f"""if [ "$0" = 1 ]; then trap "" TERM; fi; {SERVES}"""
    async with running(script, stop_seconds=0.3) as kept:
        await _all_serve(kept)
        stopping = time.monotonic()
    assert 0.3 <= time.monotonic() - stopping < PATIENCE_SECONDS
    assert log.lines == [
        {"event": "server processes did not end in time; killing them", "count": 1}
    ]


async def test_stopping_before_all_processes_serve_ends_them() -> None:
    stopping = time.monotonic()
    async with running("exec sleep 60"):
        pass
    async with running("exec sleep 60"):
        await asyncio.sleep(0.05)
    assert time.monotonic() - stopping < PATIENCE_SECONDS


def _open_files() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


async def _until(true: Any) -> None:
    async with asyncio.timeout(10):
        while not true():
            await asyncio.sleep(0.01)


def test_waits_grow_and_are_bounded() -> None:
    waits = [wait_seconds(ends) for ends in range(1, 1_000)]
    assert waits[:4] == [0.2, 0.4, 0.8, 1.6]
    assert waits == sorted(waits)
    assert waits[-1] == 30
