import asyncio
import os
import resource
import signal
import threading
from collections.abc import AsyncIterator

import click
import pytest

from session_authority_server.app import process
from session_authority_server.app.process import allow_many_connections, catch_signals
from session_authority_server.cli import commands


@pytest.fixture(autouse=True)
async def no_handlers_left() -> AsyncIterator[None]:
    yield
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        asyncio.get_running_loop().remove_signal_handler(number)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_signals_are_caught_once_handlers_are_installed(number: signal.Signals) -> None:
    signalled = catch_signals()
    os.kill(os.getpid(), number)
    async with asyncio.timeout(10):
        await signalled.wait()


async def test_a_second_sigterm_has_no_effect_and_a_second_ctrl_c_interrupts() -> None:
    signalled = catch_signals()
    for _ in range(2):
        os.kill(os.getpid(), signal.SIGTERM)
        async with asyncio.timeout(10):
            await signalled.wait()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.parametrize(
    ("terminal", "reloads"),
    [([False, False], True), ([True, True], True), ([True, False], False)],
    ids=["no-terminal", "open-terminal", "closed-terminal"],
)
async def test_sighup_reloads_unless_it_reports_that_the_terminal_was_closed(
    monkeypatch: pytest.MonkeyPatch, terminal: list[bool], reloads: bool
) -> None:
    answers = iter(terminal)
    monkeypatch.setattr(os, "isatty", lambda _descriptor: next(answers))
    reloaded = asyncio.Event()
    signalled = catch_signals(reloaded.set)
    os.kill(os.getpid(), signal.SIGHUP)
    async with asyncio.timeout(10):
        await (reloaded if reloads else signalled).wait()
    assert reloaded.is_set() is not signalled.is_set()


@pytest.mark.parametrize("command", ["serve", "worker", "gateway"])
async def test_a_sighup_during_the_start_reloads_after_it(command: str) -> None:
    assert commands.get_command(click.Context(commands), command) is not None
    # Not to the process: the threads that run the tests do not block the signal, and it would end them all.
    signal.pthread_kill(threading.get_ident(), signal.SIGHUP)
    reloaded = asyncio.Event()
    catch_signals(reloaded.set)
    async with asyncio.timeout(10):
        await reloaded.wait()


async def test_many_sighups_reload_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "RELOAD_SECONDS", 1.0)
    reloads = 0
    reloaded = asyncio.Event()

    def reload() -> None:
        nonlocal reloads
        reloads += 1
        reloaded.set()

    catch_signals(reload)
    for _ in range(100):
        os.kill(os.getpid(), signal.SIGHUP)
        await asyncio.sleep(0)
    async with asyncio.timeout(10):
        await reloaded.wait()
    assert reloads == 1


class Limits:
    """The system's limits of open files, and the highest limit that it accepts."""

    def __init__(self, soft: int, hard: int, takes: int) -> None:
        self.now = soft, hard
        self._takes = takes

    def get(self, _what: int) -> tuple[int, int]:
        return self.now

    def set(self, _what: int, wanted: tuple[int, int]) -> None:
        if wanted[0] > self._takes:
            raise ValueError("current limit exceeds maximum limit")
        self.now = wanted


@pytest.mark.parametrize(
    ("soft", "hard", "takes", "then"),
    [
        (1_024, 524_288, 524_288, 65_536),
        (1_024, 20_000, 20_000, 20_000),
        (256, resource.RLIM_INFINITY, 24_576, 10_240),  # as macOS
        (256, resource.RLIM_INFINITY, 300, 256),
        (1_000_000, 1_000_000, 1_000_000, 1_000_000),
        (resource.RLIM_INFINITY, resource.RLIM_INFINITY, 24_576, resource.RLIM_INFINITY),
    ],
)
def test_the_limit_of_open_files_is_raised_as_far_as_the_system_accepts(
    monkeypatch: pytest.MonkeyPatch, soft: int, hard: int, takes: int, then: int
) -> None:
    limits = Limits(soft, hard, takes)
    monkeypatch.setattr(resource, "getrlimit", limits.get)
    monkeypatch.setattr(resource, "setrlimit", limits.set)
    allow_many_connections()
    assert limits.now == (then, hard)
