from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.program import HOST, Program, Refusal, of_each_server, run, serving


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory, host: str) -> Iterator[Program]:
    """A server that many tests ask at the same time, none of which may end or upset it."""
    with serving(tmp_path_factory.mktemp("server"), host=host) as program:
        yield program
        assert program.process.poll() is None
        assert program.stop() == 0
        assert "Traceback" not in program.stderr


@pytest.fixture(autouse=True)
def host_of_each_server(
    request: pytest.FixtureRequest, host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Have every server of a test that runs on both hosts use the one whose turn it is."""
    if request.node.get_closest_marker("both_hosts"):
        monkeypatch.setitem(of_each_server, HOST, host)


@pytest.fixture
def refusal(tmp_path: Path) -> Refusal:
    """Run a command that must refuse, and return what it says."""

    def refuse(*arguments: str, **settings: str) -> str:
        done = run(*arguments, cwd=tmp_path, settings=settings)
        assert done.returncode > 0
        assert done.stdout == ""
        assert "Traceback" not in done.stderr
        return done.stderr

    return refuse
