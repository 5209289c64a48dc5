"""Fixtures of every test: the serving host, and stores with enough time on a busy machine."""

import gc
from collections.abc import Generator, Iterator

import pytest

from session_authority_server.store.engine import hot_read, limits, postgresql
from tests.support.hosts import HOSTS
from tests.support.statements import share_statements
from tests.support.tracing import Tracing

PATIENCE_SECONDS = 30.0
UNTRACED = ("soak", "untraced")

tracing = Tracing()


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_collection() -> Generator[None, object, object]:
    tracing.start()
    # Almost all objects of the collection live until the end. Looking for garbage among them takes seconds.
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    if any(map(item.get_closest_marker, UNTRACED)):
        return (yield)
    tracing.resume()
    try:
        return (yield)
    finally:
        tracing.pause()


@pytest.fixture(scope="session")
def host() -> str:
    """The host of the servers that a test starts."""
    return "native"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "host" in metafunc.fixturenames and metafunc.definition.get_closest_marker("both_hosts"):
        metafunc.parametrize("host", HOSTS, scope="session")


@pytest.fixture(scope="session", autouse=True)
def patient_store() -> Iterator[None]:
    """Give stores in this process time on a busy machine. Tests of a limit set their own."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (limits, hot_read):
            patch.setattr(module, "WAIT_SECONDS", PATIENCE_SECONDS)
        patch.setattr(limits, "WORK_SECONDS", PATIENCE_SECONDS)
        patch.setattr(postgresql, "_CONNECT_TIMEOUT_SECONDS", int(PATIENCE_SECONDS))
        for limit in ("_LOCK_TIMEOUT_MILLISECONDS", "_STATEMENT_TIMEOUT_MILLISECONDS"):
            patch.setattr(postgresql, limit, int(PATIENCE_SECONDS * 1_000))
        yield


@pytest.fixture(scope="session", autouse=True)
def shared_statements() -> Iterator[None]:
    """Compile each SQL statement once in a process, not once in each database."""
    with pytest.MonkeyPatch.context() as patch:
        share_statements(patch)
        yield
