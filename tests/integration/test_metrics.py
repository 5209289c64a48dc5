import re
import socket
import urllib.request
from contextlib import closing
from pathlib import Path

from session_authority import InvalidArgument, SessionClient
from tests.integration.program import serving


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

        with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as answer:
            page = answer.read().decode()
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
