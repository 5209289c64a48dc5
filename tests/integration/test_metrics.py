import asyncio
import re
import socket
import urllib.request
from contextlib import closing
from datetime import timedelta
from pathlib import Path

from session_authority import InvalidArgument, SessionClient
from session_authority_server.domain.clock import SystemClock
from session_authority_server.store.database import Database
from tests.support.engines import a_session, over
from tests.support.program import run, running, serving
from tests.support.waiting import wait_until


def _free_address() -> str:
    with closing(socket.create_server(("127.0.0.1", 0))) as found:
        return f"127.0.0.1:{found.getsockname()[1]}"


def test_the_metrics_page_counts_calls_and_errors_and_shows_nothing_of_a_user(
    tmp_path: Path,
) -> None:
    address = _free_address()
    settings = {"SESSION_AUTHORITY_METRICS_LISTEN": address}
    with serving(tmp_path, settings=settings) as server, SessionClient(server.address) as client:
        new = client.create("ada-lovelace", ip_address="203.0.113.7")
        for _ in range(3):
            assert client.validate(new.token)
        try:
            client.create("x" * 300)
        except InvalidArgument:
            pass
        else:
            raise AssertionError("the user id was too long")

        page = _page(address)
        while 'job="expire",outcome="done"' not in page:  # the worker's first run may take a while
            page = _page(address)
        assert server.stop() == 0

    def value(sample: str) -> float:
        found = re.search(rf"^{re.escape(sample)} (\S+)$", page, re.MULTILINE)
        assert found, sample
        return float(found[1])

    assert value('session_authority_rpc_seconds_count{method="ValidateSession"}') == 3
    assert value('session_authority_rpc_seconds_count{method="CreateSession"}') == 2
    errors = 'session_authority_rpc_errors_total{method="CreateSession",reason="INVALID_FIELD"}'
    assert value(errors) == 1
    assert value("session_authority_oldest_overdue_seconds") == 0
    assert value('session_authority_worker_runs_total{job="expire",outcome="done"}') >= 1
    for secret in ("ses_", "ada-lovelace", "203.0.113.7", new.session.session_id):
        assert secret not in page


def _page(address: str) -> str:
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=60) as answer:
        page: str = answer.read().decode()
    return page


def test_a_server_without_a_worker_reports_the_age_of_the_oldest_overdue_session(
    tmp_path: Path,
) -> None:
    address = _free_address()
    settings = {"SESSION_AUTHORITY_METRICS_LISTEN": address}
    assert run("migrate", cwd=tmp_path).returncode == 0
    _make_overdue(tmp_path, timedelta(days=5))
    with serving(tmp_path, "--no-worker", settings=settings) as server:
        assert server.address
        wait_until(lambda: _oldest_overdue(address) > timedelta(days=4).total_seconds())


def test_a_worker_serves_metrics_too(tmp_path: Path) -> None:
    address = _free_address()
    settings = {"SESSION_AUTHORITY_METRICS_LISTEN": address}
    assert run("migrate", cwd=tmp_path).returncode == 0
    with running("worker", cwd=tmp_path, settings=settings) as worker:
        worker.wait_for(r"(worker on)")
        assert "session_authority_worker_runs_total" in _page(address)
        assert worker.stop() == 0


def _oldest_overdue(address: str) -> float:
    found = re.search(
        r"^session_authority_oldest_overdue_seconds (\S+)", _page(address), re.MULTILINE
    )
    assert found is not None
    return float(found[1])


def _make_overdue(folder: Path, by: timedelta) -> None:
    async def write() -> None:
        database = Database.sqlite(folder / "session-authority.sqlite")
        try:
            made = SystemClock().now() - timedelta(days=90) - by
            await over(database).fill([a_session(at=made, lifetime=timedelta(days=90))])
        finally:
            await database.close()

    asyncio.run(write())
