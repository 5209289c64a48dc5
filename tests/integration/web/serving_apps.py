"""Web apps in separate processes, on free ports, as people serve them. Each process is ended by its own id."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.support.program import environment

ROOT = Path(__file__).parents[3]
EXAMPLES = ROOT / "examples"
_QUICK_PASSWORDS = Path(__file__).with_name("quick_passwords")
_PATH = f"{ROOT}:{EXAMPLES}:{_QUICK_PASSWORDS}"
UVICORN = r"Uvicorn running on (http://127\.0\.0\.1:\d+)"
RUNSERVER = r"development server at (http://127\.0\.0\.1:\d+)"
START_SECONDS = 60


class App:
    """The server process of a web app."""

    def __init__(self, process: "subprocess.Popen[bytes]", output: Path) -> None:
        self.process = process
        self._output = output

    @property
    def output(self) -> str:
        return self._output.read_text()

    def addresses(self, pattern: str, count: int = 1) -> list[str]:
        """Wait until it has printed a number of addresses on which it listens."""
        give_up = time.monotonic() + START_SECONDS
        while time.monotonic() < give_up:
            found = re.findall(pattern, self.output)
            if len(found) >= count:
                return found
            assert self.process.poll() is None, self.output
            time.sleep(0.05)
        raise AssertionError(f"no {pattern!r} in: {self.output}")


@contextmanager
def serving_app(*command: str, cwd: Path, **settings: str) -> Iterator[App]:
    """Run a command with the repository and the examples on its path. End it and its child processes afterwards."""
    output = cwd / f"{Path(command[0]).name}.{len(list(cwd.iterdir()))}.log"
    with output.open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", *command]
            if "/" not in command[0]
            else [sys.executable, *command],
            cwd=cwd,
            env=environment(PYTHONPATH=_PATH, PYTHONUNBUFFERED="1", **settings),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield App(process, output)
    finally:
        # The command has its own process group, with its workers and reloaders.
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
