from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from session_authority import AsyncSessionClient, testing
from session_authority.web.fastapi import (
    Sessions,
)
from session_authority.web.site import Site
from session_authority_server.domain.policy import Policy
from tests.integration.web.fastapi_shop import Shop, shop_app
from tests.support.authority import PATIENCE_SECONDS, running_authority


@pytest.fixture(scope="session")
def django_database() -> Iterator[None]:
    """Create the tables of the Django site, and the users ada and grace.

    Asynchronous views run in a separate thread, which keeps its database connection open. So the file stays until the
    process ends.
    """
    from tests.integration.web.django_site import FOLDER  # configures Django

    from django.contrib.auth.models import User  # isort: skip
    from django.core.management import call_command  # isort: skip
    from django.db import connections  # isort: skip

    call_command("migrate", verbosity=0)
    User.objects.create_user("ada", password="pass")
    User.objects.create_user("grace", password="pass")
    yield
    connections.close_all()
    for file in FOLDER.iterdir():
        file.unlink()


@pytest.fixture
def django_authority(django_database: None) -> Iterator[testing.Authority]:
    """Run an authority that the Django site calls."""
    from session_authority.testing.django import connected

    with testing.authority() as running, connected(running):
        yield running


@pytest.fixture
async def shop(tmp_path: Path) -> AsyncIterator[Shop]:
    async with running_authority(tmp_path, Policy()) as authority:
        client = AsyncSessionClient(
            authority.address, api_key=authority.key, deadline_seconds=PATIENCE_SECONDS
        )
        sessions = Sessions(client, Site(clock=authority.clock.now))
        yield Shop(shop_app(sessions, page="/account/sessions"), sessions, authority)
        await client.close()
