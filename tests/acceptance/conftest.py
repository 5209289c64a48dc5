import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from session_authority import AsyncSessionClient
from session_authority_server.domain.policy import Policy
from tests.support.authority import Authority, running_authority
from tests.support.leaks import Capture, capturing


@pytest.fixture
def policy() -> Policy:
    """The defaults; a module that needs another policy overrides this."""
    return Policy()


@pytest.fixture(autouse=True)
def capture(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Iterator[Capture]:
    """Whatever a test here is about: nothing that it makes anybody say, show or write holds a secret."""
    with capturing() as captured:
        yield captured
    captured.read_files(tmp_path, "at the end")
    out, err = capfd.readouterr()
    captured.say("output", out, err)
    sys.stdout.write(out)
    sys.stderr.write(err)
    assert captured.leaks() == []


@pytest.fixture
async def authority(tmp_path: Path, policy: Policy, host: str) -> AsyncIterator[Authority]:
    async with running_authority(tmp_path, policy, host=host) as running:
        yield running


@pytest.fixture
def client(authority: Authority) -> AsyncSessionClient:
    return authority.client
