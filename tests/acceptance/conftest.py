from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from session_authority import AsyncSessionClient
from session_authority_server.domain.policy import Policy
from tests.acceptance.authority import Authority, running_authority


@pytest.fixture
def policy() -> Policy:
    """The defaults; a module that needs another policy overrides this."""
    return Policy()


@pytest.fixture
async def authority(tmp_path: Path, policy: Policy) -> AsyncIterator[Authority]:
    async with running_authority(tmp_path, policy) as running:
        yield running


@pytest.fixture
def client(authority: Authority) -> AsyncSessionClient:
    return authority.client
