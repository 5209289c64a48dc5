import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from session_authority_server.observability import logs
from session_authority_server.observability.flood_limit import PER_SECOND
from session_authority_server.observability.logs import BoundedHandler


class Elapsed:
    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


class Log:
    """A process's log. The test decides when the next second begins."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.elapsed, self._stream = Elapsed(), io.StringIO()
        self.handler = BoundedHandler(self._stream, self.elapsed)
        monkeypatch.setattr(logs, "BoundedHandler", lambda _stream: self.handler)
        monkeypatch.setattr(logs, "REPORT_SECONDS", 3_600)  # the test triggers the summary
        logs.configure("info", "json")

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self._stream.getvalue().splitlines()]

    @property
    def events(self) -> list[str]:
        return [line["event"] for line in self.lines]


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> Iterator[Log]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    log = Log(monkeypatch)
    yield log
    log.handler.close()
    root.handlers[:], root.level = handlers, level
    structlog.reset_defaults()


def _refuse(times: int, reason: str = "API_KEY_MISSING") -> None:
    for number in range(times):
        structlog.get_logger("rpc").info("call refused", method=str(number), reason=reason)


def test_a_flood_leaves_some_lines_and_a_summary_with_the_count(log: Log) -> None:
    _refuse(1_000)
    assert log.events == ["call refused"] * PER_SECOND
    log.handler.report()

    last = log.lines[-1]
    assert (last["event"], last["reason"]) == ("more of: call refused", "API_KEY_MISSING")
    assert (last["lines"], last["level"], last["logger"]) == (1_000 - PER_SECOND, "info", "rpc")
    log.handler.report()
    assert len(log.lines) == PER_SECOND + 1  # the summary is logged once


def test_each_kind_of_line_has_its_own_limit(log: Log) -> None:
    _refuse(PER_SECOND + 1)
    _refuse(1, "API_KEY_INVALID")
    for number in range(PER_SECOND + 1):
        logging.getLogger("store").error("failed while %s", number)
    logging.getLogger("store").error("something else")

    assert log.events.count("call refused") == PER_SECOND + 1
    assert sum(event.startswith("failed while") for event in log.events) == PER_SECOND
    assert "something else" in log.events


def test_a_second_later_lines_are_logged_again(log: Log) -> None:
    _refuse(PER_SECOND + 5)
    log.elapsed.seconds = 0.99
    _refuse(5)
    assert len(log.lines) == PER_SECOND
    log.elapsed.seconds = 1
    _refuse(5)
    assert len(log.lines) == PER_SECOND + 5


def test_the_summary_is_logged_automatically_with_the_fields_of_every_line(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "REPORT_SECONDS", 0.01)
    with structlog.contextvars.bound_contextvars(process=3):
        _refuse(PER_SECOND + 2)
        reporter = log.handler._reporter
    assert reporter is not None
    reporter.join(5)
    assert log.lines[-1]["lines"] == 2
    assert log.lines[-1]["process"] == 3


def test_suppressed_lines_are_counted_at_the_end(log: Log) -> None:
    _refuse(PER_SECOND + 2)
    log.handler.close()
    assert log.lines[-1]["lines"] == 2
