"""A process whose client validates in a loop, from its cache if possible, and records the results."""

import asyncio
import contextlib
import multiprocessing
import threading
import time
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

from session_authority import (
    AsyncSessionClient,
    NearCache,
    SessionAuthorityError,
    SessionClient,
)
from tests.integration.near_cache_history import Validation

LOOPS = 2
PAUSE_SECONDS = 0.015
DEADLINE_SECONDS = 1.5
_PATIENCE_SECONDS = 120

_Seen = list[tuple[int, float, float, bool | None, bool]]
_hit: ContextVar[bool] = ContextVar("hit", default=False)


class Validator:
    """The process, as seen by its parent.

    Attributes:
        name: Name for messages.
        pid: Process id.
    """

    def __init__(self, name: str, pid: int, commands: "Connection") -> None:
        self.name = name
        self.pid = pid
        self._commands = commands

    def watch(self, tokens: Sequence[str]) -> None:
        """Start to validate these tokens, with an empty history."""
        self._commands.send(tokens)

    def hits(self) -> bool:
        """Return whether the client has a lease and answers from its cache."""
        return bool(self._ask("hits"))

    def history(self) -> list[Validation]:
        """Stop validating, and return the results since `watch`."""
        return [Validation(*each) for each in self._ask("history")]

    def _ask(self, question: str) -> Any:
        self._commands.send(question)
        assert self._commands.poll(_PATIENCE_SECONDS), f"{self.name} says nothing"
        return self._commands.recv()


@contextlib.contextmanager
def validator(
    name: str, address: str, api_key: str, *, aio: bool, max_sessions: int
) -> Iterator[Validator]:
    """Run a process that validates until the context ends."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    settings = _Settings(address, api_key, aio, max_sessions)
    process = context.Process(target=_run, args=(theirs, settings), daemon=True)
    process.start()
    try:
        assert process.pid is not None
        yield Validator(name, process.pid, ours)
    finally:
        process.kill()
        process.join()
        process.close()


class _Settings(NamedTuple):
    address: str
    api_key: str
    aio: bool
    max_sessions: int

    @property
    def arguments(self) -> dict[str, Any]:
        return {
            "address": self.address,
            "api_key": self.api_key,
            "deadline_seconds": DEADLINE_SECONDS,
            # Activity is reported every second, so that requests about cached sessions are in flight.
            "near_cache": NearCache(max_sessions=self.max_sessions, activity_seconds=1),
        }


class _Notebook:
    """The tokens to validate, and the results so far."""

    def __init__(self, client: SessionClient | AsyncSessionClient) -> None:
        self.tokens: Sequence[str] = ()
        self.seen: _Seen = []
        near: Any = client._near
        self._now, self._lookup = near.now, near.lookup
        near.lookup = self._noted

    def _noted(self, *arguments: Any) -> Any:
        found = self._lookup(*arguments)
        _hit.set(found is not None)
        return found

    def answer(self, command: Any) -> Any:
        """Execute a command of the parent, and return its result."""
        if command == "hits":
            now = self._now()
            return sum(self._lookup(now, token) is not None for token in self.tokens) > 1
        if command == "history":
            self.tokens = ()
            seen, self.seen = self.seen, []
            return seen
        self.seen = []
        self.tokens = command
        return None


class _Note:
    """The result of one validation, or None while it is unknown."""

    accepted: bool | None = None


@contextlib.contextmanager
def _serialized(seen: _Seen, number: int) -> Iterator[_Note]:
    note = _Note()
    began, monotonic = time.time(), time.monotonic()
    _hit.set(False)
    with contextlib.suppress(SessionAuthorityError):
        yield note
    seen.append((number, began, monotonic, note.accepted, _hit.get()))


def _run(commands: "Connection", settings: _Settings) -> None:
    with contextlib.suppress(EOFError, KeyboardInterrupt):
        if settings.aio:
            asyncio.run(_run_aio(commands, settings))
        else:
            _run_sync(commands, settings)


def _run_sync(commands: "Connection", settings: _Settings) -> None:
    client = SessionClient(**settings.arguments)
    notebook = _Notebook(client)

    def loop() -> None:
        while True:
            tokens, seen = notebook.tokens, notebook.seen
            for number, token in enumerate(tokens):
                with _serialized(seen, number) as note:
                    note.accepted = bool(client.validate(token))
            time.sleep(PAUSE_SECONDS)

    for _ in range(LOOPS):
        threading.Thread(target=loop, daemon=True).start()
    while True:
        answer = notebook.answer(commands.recv())
        if answer is not None:
            commands.send(answer)


async def _run_aio(commands: "Connection", settings: _Settings) -> None:
    client = AsyncSessionClient(**settings.arguments)
    notebook = _Notebook(client)

    async def loop() -> None:
        while True:
            tokens, seen = notebook.tokens, notebook.seen
            for number, token in enumerate(tokens):
                with _serialized(seen, number) as note:
                    note.accepted = bool(await client.validate(token))
            await asyncio.sleep(PAUSE_SECONDS)

    loops = [asyncio.create_task(loop()) for _ in range(LOOPS)]
    running = asyncio.get_running_loop()
    while True:
        answer = notebook.answer(await running.run_in_executor(None, commands.recv))
        if answer is not None:
            commands.send(answer)
        assert not any(each.done() for each in loops)
