from collections.abc import Iterator

import pytest

from session_authority import SessionClient
from tests.support.program import Program, serving


@pytest.fixture(scope="package")
def server(tmp_path_factory: pytest.TempPathFactory, host: str) -> Iterator[Program]:
    """Run a separate server, so that attacks here do not affect other tests."""
    with serving(tmp_path_factory.mktemp("hostile"), host=host) as program:
        yield program
        assert "Traceback" not in program.stderr
        assert program.stop() == 0


@pytest.fixture(autouse=True)
def goes_on_answering(server: Program) -> Iterator[None]:
    yield
    with SessionClient(server.address) as client:
        new = client.create("ada")
        assert client.validate(new.token)
    assert server.process.poll() is None
    assert "Traceback" not in server.stderr
