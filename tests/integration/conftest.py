from collections.abc import Iterator

import pytest

from tests.integration.program import Program, serving


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    """A server that many tests ask at the same time, none of which may end or upset it."""
    with serving(tmp_path_factory.mktemp("server")) as program:
        yield program
        assert program.process.poll() is None
        assert program.stop() == 0
        assert "Traceback" not in program.stderr
