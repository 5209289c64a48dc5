import asyncio
import os
import signal
from collections.abc import AsyncIterator

import pytest

from session_authority_server.app.process import catch_signals, delay_reloads


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


async def test_a_sighup_during_the_start_reloads_after_it() -> None:
    delay_reloads()
    os.kill(os.getpid(), signal.SIGHUP)
    reloaded = asyncio.Event()
    catch_signals(reloaded.set)
    async with asyncio.timeout(10):
        await reloaded.wait()
