"""Keeping processes alive; stand-ins for the servers are one line of shell each."""

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest

from session_authority_server.app.process import CannotStart
from session_authority_server.app.serving import ServeOptions
from session_authority_server.cli import supervisor
from session_authority_server.cli.server_process import Assignment
from session_authority_server.cli.supervisor import Supervisor, wait_seconds
from session_authority_server.config import load_settings

SERVES = "echo ready; exec sleep 60"
PATIENCE_SECONDS = 30  # half of what a stand-in sleeps


class Log:
    """What was logged."""

    def __init__(self) -> None:
        self.lines: list[dict[str, Any]] = []

    def warning(self, event: str, **told: Any) -> None:
        self.lines.append({"event": event, **told})

    error = warning


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> Log:
    made = Log()
    monkeypatch.setattr(supervisor, "_log", made)
    return made


def running(script: str, count: int = 2, stop_seconds: float = 10) -> Supervisor:
    """Return processes that each run a script, in which $0 is their number."""
    assignments = [Assignment(n, load_settings(), ServeOptions(worker=False)) for n in range(count)]
    return Supervisor(assignments, stop_seconds, ["/bin/sh", "-c", script])


async def _all_serve(kept: Supervisor) -> None:
    await asyncio.wait_for(
        kept.run_until(asyncio.create_task(kept.serving.wait())), PATIENCE_SECONDS
    )
    assert kept.serving.is_set()


async def test_they_serve_when_the_last_is_ready_and_end_when_told_to(log: Log) -> None:
    started = time.monotonic()
    async with running('sleep "0.$0"; echo ready; exec sleep 60', count=4) as kept:
        await _all_serve(kept)
        assert time.monotonic() - started > 0.3
    assert time.monotonic() - started < PATIENCE_SECONDS
    assert log.lines == []


async def test_each_is_told_its_task_and_the_parent_stays_in_touch(
    log: Log, tmp_path: Path
) -> None:
    script = f'read task; echo "$task" > {tmp_path}/$0; echo ready; exec cat > {tmp_path}/more'
    async with running(script) as kept:
        await _all_serve(kept)
        told = [Assignment.from_line(n, (tmp_path / str(n)).read_text()) for n in range(2)]
        await asyncio.sleep(0.1)
        assert log.lines == []  # it still waits for more
    assert [assignment.settings.listen for assignment in told] == [load_settings().listen] * 2
    assert (tmp_path / "more").read_text() == ""


@pytest.mark.parametrize(
    ("script", "why"),
    [
        ("echo the port is taken; exit 1", "^the port is taken$"),
        ("exit 3", "ended before it could serve: exit status 3"),
        ("kill -9 $$", "ended before it could serve: SIGKILL"),
    ],
)
async def test_one_that_cannot_start_is_the_end_of_all(log: Log, script: str, why: str) -> None:
    script = f'if [ "$0" = 1 ]; then {script}; else {SERVES}; fi'
    with pytest.raises(CannotStart, match=why):
        async with running(script) as kept:
            await _all_serve(kept)
    assert log.lines == []


async def test_all_failing_at_once_is_told_once(log: Log) -> None:
    with pytest.raises(CannotStart, match=r"^no$"):
        async with running("echo no; exit 1", count=4) as kept:
            await _all_serve(kept)
    assert log.lines == []


async def test_a_process_that_cannot_be_started_is_reported(log: Log) -> None:
    assignment = Assignment(0, load_settings(), ServeOptions(worker=False))
    with pytest.raises(CannotStart, match=r"a server process can't be started: .*absent"):
        async with Supervisor([assignment], 10, ["/absent"]) as kept:
            await _all_serve(kept)


async def test_one_that_ends_is_started_anew_after_growing_waits(
    log: Log, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "FIRST_WAIT_SECONDS", 0.02)
    script = f"echo >> {tmp_path}/lives; echo ready; if [ $(wc -l < {tmp_path}/lives) -lt 4 ]; then exit 5; fi; "
    async with running(script + "exec sleep 60", count=1) as kept:
        await _all_serve(kept)
        await _until(lambda: (tmp_path / "lives").read_text().count("\n") == 4)
    assert [line["wait_seconds"] for line in log.lines] == [0.02, 0.04, 0.08]
    assert {(line["process"], line["why"]) for line in log.lines} == {(0, "exit status 5")}


async def test_one_that_lived_long_before_it_ended_does_not_wait_long(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "FIRST_WAIT_SECONDS", 0.02)
    monkeypatch.setattr(supervisor, "STEADY_SECONDS", 0.0)
    async with running("echo ready", count=1) as kept:
        await _all_serve(kept)
        await _until(lambda: len(log.lines) >= 4)
    assert {line["wait_seconds"] for line in log.lines} == {0.02}


async def test_one_that_served_once_may_fail_to_start_later_and_is_tried_again(
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


async def test_stopping_does_not_wait_for_one_that_is_between_two_lives(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "FIRST_WAIT_SECONDS", 2 * PATIENCE_SECONDS)
    async with running("echo ready", count=1) as kept:
        await _all_serve(kept)
        await _until(lambda: log.lines)
        stopping = time.monotonic()
    assert time.monotonic() - stopping < PATIENCE_SECONDS


async def test_one_that_does_not_drain_in_time_is_killed(log: Log) -> None:
    script = f"""if [ "$0" = 1 ]; then trap "" TERM; fi; {SERVES}"""
    async with running(script, stop_seconds=0.3) as kept:
        await _all_serve(kept)
        stopping = time.monotonic()
    assert 0.3 <= time.monotonic() - stopping < PATIENCE_SECONDS
    assert log.lines == [
        {"event": "server processes did not end in time; killing them", "count": 1}
    ]


async def test_stopping_before_all_serve_ends_all_the_same() -> None:
    stopping = time.monotonic()
    async with running("exec sleep 60"):
        pass
    async with running("exec sleep 60"):
        await asyncio.sleep(0.05)
    assert time.monotonic() - stopping < PATIENCE_SECONDS


async def _until(true: Any) -> None:
    async with asyncio.timeout(10):
        while not true():
            await asyncio.sleep(0.01)


def test_waits_grow_and_are_bounded() -> None:
    waits = [wait_seconds(ends) for ends in range(1, 1_000)]
    assert waits[:4] == [0.2, 0.4, 0.8, 1.6]
    assert waits == sorted(waits)
    assert waits[-1] == 30
