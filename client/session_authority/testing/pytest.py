"""A pytest plugin with the fixture `authority`: `pytest_plugins = ["session_authority.testing.pytest"]`.

The fixture sets the environment, so that `from_env()` of either client calls the authority. A Django site calls it too.
A FastAPI or Starlette app calls it once the test creates a `testing.fastapi.SessionTestClient` for the app.
"""

import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext

import pytest

from session_authority.testing._authority import Authority
from session_authority.testing._authority import authority as run_authority


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker that sets the policy of a test's authority."""
    config.addinivalue_line(
        "markers",
        "session_authority(**policy): the arguments of session_authority.testing.authority",
    )


@pytest.fixture
def authority(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Authority]:
    """Run a new authority for one test."""
    marker = request.node.get_closest_marker("session_authority")
    with run_authority(**(marker.kwargs if marker else {})) as running:
        for name, value in running.environment.items():
            monkeypatch.setenv(name, value)
        with _django_connected(running):
            yield running


def _django_connected(running: Authority) -> AbstractContextManager[object]:
    if "django" not in sys.modules:
        return nullcontext()
    from django.apps import apps

    if not (apps.ready and apps.is_installed("session_authority.web.django")):
        return nullcontext()
    from session_authority.testing.django import connected

    return connected(running)
