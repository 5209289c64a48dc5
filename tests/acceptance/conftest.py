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
    """Return the default policy. Modules with another policy override this fixture."""
    return Policy()


@pytest.fixture(autouse=True)
def capture(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Iterator[Capture]:
    """Check after each test that no output, file or log line contains a secret."""
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
