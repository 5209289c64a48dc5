from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.program import HOST, Program, Refusal, of_each_server, run, serving


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory, host: str) -> Iterator[Program]:
    """Run a server that many tests share. No test may stop it or change its settings."""
    with serving(tmp_path_factory.mktemp("server"), host=host) as program:
        yield program
        assert program.process.poll() is None
        assert program.stop() == 0
        assert "Traceback" not in program.stderr


@pytest.fixture(autouse=True)
def host_of_each_server(
    request: pytest.FixtureRequest, host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Select the host of every server in a test that runs on both hosts."""
    if request.node.get_closest_marker("both_hosts"):
        monkeypatch.setitem(of_each_server, HOST, host)


@pytest.fixture
def refusal(tmp_path: Path) -> Refusal:
    """Run a command that must fail, and return its error output."""

    def refuse(*arguments: str, **settings: str) -> str:
        done = run(*arguments, cwd=tmp_path, settings=settings)
        assert done.returncode > 0
        assert done.stdout == ""
        assert "Traceback" not in done.stderr
        return done.stderr

    return refuse
