import asyncio
import re
import urllib.request
from datetime import timedelta
from pathlib import Path

import pytest

from session_authority import InvalidArgument, SessionClient, ValidationRequest
from session_authority_server.domain.clock import SystemClock
from session_authority_server.store.database import Database
from tests.support.engines import a_session, over
from tests.support.postgresql import free_port
from tests.support.program import development_key_in, run, running, serving
from tests.support.waiting import wait_until


def _free_address() -> str:
    return f"127.0.0.1:{free_port()}"


def test_the_metrics_page_counts_calls_and_errors_and_shows_nothing_of_a_user(
    tmp_path: Path,
) -> None:
    address = _free_address()
    settings = {"SESSION_AUTHORITY_METRICS_LISTEN": address}
    with (
        serving(tmp_path, settings=settings, asking_for_keys=True) as server,
        SessionClient(server.address, api_key=development_key_in(tmp_path)) as client,
    ):
        new = client.create("ada-lovelace", ip_address="203.0.113.7")
        for token in (new.token, new.token, new.token, "nonsense"):
            client.validate(token)
        client.validate_many([ValidationRequest(each) for each in (new.token, "ses_x", new.token)])
        client.sign_out(new.token)
        client.validate(new.token)
        with pytest.raises(InvalidArgument):
            client.create("x" * 300)
        wait_until(lambda: _value(address, "worker_runs_total", outcome="done", task="expire"))
        page = _page(address)

        def value(name: str, **labels: str) -> float:
            return _value(address, name, **labels)

        ok = {"code": "OK", "method": "ValidateSession"}
        assert value("rpc_duration_seconds_count", **ok) == 5
        assert value("rpc_duration_seconds_count", **ok | {"method": "CreateSession"}) == 1
        invalid = {"code": "INVALID_ARGUMENT", "method": "CreateSession"}
        assert value("rpc_duration_seconds_count", **invalid) == 1
        assert value("rpc_errors_total", **invalid, reason="INVALID_FIELD") == 1
        outcomes = {"accepted": 5, "malformed": 2, "signed_out": 1, "expired": 0}
        for outcome, count in outcomes.items():
            assert value("validations_total", outcome=outcome) == count, outcome
        assert value("sessions_created_total") == 1
        assert value("sessions_ended_total", reason="signed_out") == 1
        assert value("api_key_calls_total") == 9
        assert value("database_duration_seconds_count", operation="validate") >= 5
        assert value("database_connections_limit", pool="write") == 1
        assert value("live_sessions") == 0
        assert value("oldest_overdue_seconds") == 0
        assert value("build_info") == 1
        assert server.stop() == 0
    for secret in ("ses_", "ada-lovelace", "203.0.113.7", new.session.session_id):
        assert secret not in page
    assert "_created" not in page.replace("sessions_created", "")


def _value(address: str, name: str, **labels: str) -> float:
    """Return the first sample of a metric that has all of these label values; 0 if there is none."""
    for line in _page(address).splitlines():
        if re.match(rf"session_authority_{name}[{{ ]", line) and all(
            f'{label}="{value}"' in line for label, value in labels.items()
        ):
            return float(line.rpartition(" ")[2])
    return 0


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
        age = timedelta(days=4).total_seconds()
        wait_until(lambda: _value(address, "oldest_overdue_seconds") > age)


def test_a_worker_serves_metrics_too(tmp_path: Path) -> None:
    address = _free_address()
    settings = {"SESSION_AUTHORITY_METRICS_LISTEN": address}
    assert run("migrate", cwd=tmp_path).returncode == 0
    with running("worker", cwd=tmp_path, settings=settings) as worker:
        worker.wait_for(r"(worker on)")
        wait_until(lambda: _value(address, "worker_last_success_timestamp_seconds", task="expire"))
        assert _value(address, "build_info") == 1
        assert worker.stop() == 0


def _make_overdue(folder: Path, by: timedelta) -> None:
    async def write() -> None:
        database = Database.sqlite(folder / "session-authority.sqlite")
        try:
            made = SystemClock().now() - timedelta(days=90) - by
            await over(database).fill([a_session(at=made, lifetime=timedelta(days=90))])
        finally:
            await database.close()

    asyncio.run(write())
