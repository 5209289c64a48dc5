"""Configure Django before any other import of Django."""

from collections.abc import Iterator
from pathlib import Path

import pytest

import tests.integration.web.django_site  # noqa: F401

from django.contrib.sessions.models import Session as DjangoSession  # isort: skip
from django.test import override_settings  # isort: skip
from session_authority import SessionClient
from tests.integration.web.threaded_authority import ThreadedAuthority, threaded_authority
from tests.support.authority import PATIENCE_SECONDS


@pytest.fixture
def authority(tmp_path: Path) -> Iterator[ThreadedAuthority]:
    with threaded_authority(tmp_path) as running:
        yield running


@pytest.fixture
def client(authority: ThreadedAuthority) -> Iterator[SessionClient]:
    with SessionClient(
        authority.address, api_key=authority.key, deadline_seconds=PATIENCE_SECONDS
    ) as client:
        yield client


@pytest.fixture(autouse=True)
def site(client: SessionClient) -> Iterator[None]:
    with override_settings(SESSION_AUTHORITY={"CLIENT": client}):
        yield
    DjangoSession.objects.all().delete()
