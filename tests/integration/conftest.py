import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
from click.testing import CliRunner

from session_authority_server.cli import commands
from tests.integration.program import Program, Refusal, environment, serving


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    """A server that many tests ask at the same time, none of which may end or upset it."""
    with serving(tmp_path_factory.mktemp("server")) as program:
        yield program
        assert program.process.poll() is None
        assert program.stop() == 0
        assert "Traceback" not in program.stderr


@pytest.fixture
def refusal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Refusal]:
    """Run the command in this process, for most refusals need no process of their own."""
    monkeypatch.chdir(tmp_path)
    for name in environment().keys() ^ os.environ.keys():
        monkeypatch.delenv(name, raising=False)
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level

    def refuse(*arguments: str, **settings: str) -> str:
        done = CliRunner().invoke(commands, arguments, env=settings)
        assert isinstance(done.exception, SystemExit), done.exception
        assert done.exit_code > 0
        assert done.stdout == ""
        assert "Traceback" not in done.stderr
        return done.stderr

    try:
        yield refuse
    finally:
        root.handlers[:], root.level = handlers, level
        structlog.reset_defaults()
