from pathlib import Path

import pytest
from click.testing import CliRunner

from session_authority_server.app.serving import ServeOptions
from session_authority_server.cli.server_process import Assignment, server_process
from session_authority_server.config import load_settings

URL = "postgresql://ada:s3cr%C3%A9t@127.0.0.1/sessions"


def test_an_assignment_arrives_unchanged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "settings.toml"
    file.write_text('at_limit = "refuse"\nsession_limit = 7\n')
    given = Assignment(
        3, load_settings(file, database_url=URL, log_level="error"), ServeOptions(insecure=True)
    )
    line = given.as_line()
    monkeypatch.setenv(
        "SESSION_AUTHORITY_SESSION_LIMIT", "8"
    )  # the environment variable no longer has an effect

    arrived = Assignment.from_line(3, line)

    assert line.count("\n") == 1
    assert arrived.settings.model_dump() == given.settings.model_dump()
    assert arrived.settings.policy == given.settings.policy
    assert (arrived.number, arrived.options) == (3, given.options)


def test_an_assignment_does_not_show_the_password() -> None:
    assignment = Assignment(0, load_settings(database_url=URL), ServeOptions())
    assert "s3cr" not in repr(assignment)


def test_running_the_module_by_hand_prints_its_purpose() -> None:
    done = CliRunner().invoke(server_process, ["0"], input="")
    assert done.exit_code == 2
    assert "serve --processes" in done.stderr
