"""SIGHUP makes every process of a server, and a worker, read its certificates and log level again."""

import json
import signal
from pathlib import Path
from typing import Any

from session_authority import SessionClient
from tests.support.certificates import TestAuthority
from tests.support.engines import migrated_postgresql
from tests.support.program import Program, running, serving
from tests.support.waiting import wait_until


def lines(program: Program) -> list[dict[str, Any]]:
    return [json.loads(line) for line in program.stderr.splitlines() if line.startswith("{")]


def sources(program: Program, event: str) -> set[int | None]:
    """Return the numbers of the processes that logged an event; None for a process without a number."""
    return {line.get("process") for line in lines(program) if line["event"] == event}


def hang_up(program: Program) -> None:
    program.process.send_signal(signal.SIGHUP)


def test_every_process_of_a_server_reloads_and_says_so(tmp_path: Path) -> None:
    authority = TestAuthority(tmp_path)
    pair = authority.pair()
    file = tmp_path / "other.toml"
    file.write_text('log_level = "info"\n')
    with migrated_postgresql() as url:
        settings = {
            "SESSION_AUTHORITY_CONFIG": str(file),
            "SESSION_AUTHORITY_DATABASE_URL": url,
            "SESSION_AUTHORITY_TLS_CERTIFICATE": str(pair.certificate),
            "SESSION_AUTHORITY_TLS_KEY": str(pair.key),
        }
        with serving(tmp_path, "--processes", "2", settings=settings) as server:
            assert sources(server, "started") == {0, 1}
            file.write_text('log_level = "debug"\n')
            pair.replace(authority.pair())
            hang_up(server)
            wait_until(lambda: sources(server, "certificates reloaded") == {0, 1})
            wait_until(lambda: sources(server, "log level reloaded") == {None, 0, 1})

            pair.key.write_text("no key")
            file.write_text('log_level = "loud"\n')
            hang_up(server)
            stays = "can't be reloaded; the old ones stay"
            wait_until(lambda: sources(server, f"certificates {stays}") == {0, 1})
            assert sources(server, f"settings {stays}") == {None}

            trusted = authority.certificate.read_bytes()
            with SessionClient(server.address, root_certificates=trusted) as client:
                assert client.validate(client.create("ada").token)
            assert server.stop() == 0


def test_a_worker_reloads_its_log_level_and_keeps_the_old_one_in_doubt(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        assert server.stop() == 0
    file = tmp_path / "session-authority.toml"
    file.write_text('log_level = "error"\n')
    with running("worker", cwd=tmp_path) as worker:
        worker.wait_for("(worker on)")
        assert lines(worker) == []
        file.write_text('log_levels = "debug"\n')
        hang_up(worker)
        wait_until(lambda: "did you mean log_level" in worker.stderr)
        file.write_text('log_level = "info"\n')
        hang_up(worker)
        wait_until(lambda: sources(worker, "log level reloaded") == {None})
        assert worker.stop() == 0


def test_the_first_line_of_a_log_says_what_runs(tmp_path: Path) -> None:
    settings = {"SESSION_AUTHORITY_IDLE_TIMEOUT_SECONDS": "2h"}
    with serving(tmp_path, settings=settings, host="native") as server:
        address = server.address
        server.stop()
    [line] = [line for line in lines(server) if line["event"] == "started"]
    assert line["program"] == "server"
    assert line["version"][0].isdecimal()
    assert (line["host"], line["address"]) == ("native", address)
    assert line["database"] == str(tmp_path / "session-authority.sqlite")
    assert line["schema"].isdecimal()
    assert line["policy"]["idle_timeout"] == "2h"
    assert line["policy"]["absolute_lifetime"] == "90d"
    assert line["policy"]["at_limit"] == "end-least-recently-active"
