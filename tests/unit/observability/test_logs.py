import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from session_authority_server.observability import logs

TOKEN = "ses_" + "7" * 70


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:], root.level = handlers, level
    structlog.reset_defaults()


def _log_in_every_way() -> None:
    try:
        int(TOKEN)
    except ValueError:
        logging.getLogger("ours").exception("failed on %s", TOKEN)
        structlog.get_logger("ours").exception("failed", token=TOKEN)


@pytest.mark.parametrize("log_format", ["json", "console", "auto"])
def test_a_token_is_masked_in_every_part_of_a_line(
    capsys: pytest.CaptureFixture[str], log_format: str
) -> None:
    logs.configure("info", log_format)
    _log_in_every_way()

    written = capsys.readouterr().err
    assert written.count("ses_") >= 2
    assert TOKEN not in written


def test_lines_of_every_source_are_json_of_one_form(
    capsys: pytest.CaptureFixture[str],
) -> None:
    logs.configure("info", "auto")
    _log_in_every_way()

    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert len(lines) == 2
    for line in lines:
        assert {"event", "level", "logger", "timestamp", "exception"} <= set(line)
        assert (line["level"], line["logger"]) == ("error", "ours")


def test_lines_below_the_level_and_of_verbose_libraries_are_left_out(
    capsys: pytest.CaptureFixture[str],
) -> None:
    logs.configure("warning", "json")
    logging.getLogger("ours").info("left out")
    structlog.get_logger("ours").info("left out")
    logging.getLogger("ours").warning("kept")
    logs.configure("debug", "json")
    logging.getLogger("sqlalchemy.engine").info("SELECT secret_hash")
    logging.getLogger("ours").debug("kept too")

    assert [json.loads(line)["event"] for line in capsys.readouterr().err.splitlines()] == [
        "kept",
        "kept too",
    ]


def test_the_log_does_not_show_a_header_that_is_not_utf_8(
    capsys: pytest.CaptureFixture[str],
) -> None:
    logs.configure("info", "json")
    try:
        b"\xff".decode()
    except UnicodeDecodeError:
        # gRPC logs such a line. A token with one changed byte cannot be masked.
        name = "grpc._cython.cygrpc"
        logging.getLogger(name).exception("Invalid encoding on %s", f"Bearer {TOKEN[:-1]}\\xff")

    [line] = map(json.loads, capsys.readouterr().err.splitlines())
    assert (line["event"], line["level"]) == ("a header of a call is not UTF-8", "info")
    assert "exception" not in line


def test_grpc_logs_nothing_below_its_level(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("warning", "json")
    logging.getLogger("grpc._cython.cygrpc").error("Invalid encoding on %s", b"\xff")
    logging.getLogger("grpc._cython.cygrpc").error("kept")

    assert [json.loads(line)["event"] for line in capsys.readouterr().err.splitlines()] == ["kept"]


def test_a_change_of_the_level_is_logged_under_the_lower_of_both_levels(
    capsys: pytest.CaptureFixture[str],
) -> None:
    logs.configure("error", "json")
    for level in ("info", "error", "error"):
        logs.set_level(level)
        logging.getLogger("ours").info("at %s", level)
    logged = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [(line["event"], line.get("log_level")) for line in logged] == [
        ("log level reloaded", "info"),
        ("at info", None),
        ("log level reloaded", "error"),
    ]
