"""Retries of failed calls."""

from collections.abc import Iterable

import grpc
import pytest

from session_authority import InternalError, Unavailable
from session_authority import _retries as retries
from session_authority._retries import Attempts, RetryBudget


class _Status:
    def __init__(self, code: grpc.StatusCode, pushback: str | None = None) -> None:
        self._code = code
        self._metadata = [] if pushback is None else [("grpc-retry-pushback-ms", pushback)]

    def code(self) -> grpc.StatusCode:
        return self._code

    def details(self) -> str | None:
        return None

    def trailing_metadata(self) -> Iterable[tuple[str, str]] | None:
        return [("x-served-by", "fake"), *self._metadata]


DOWN = _Status(grpc.StatusCode.UNAVAILABLE)
UNAVAILABLE = Unavailable("down")


def test_pauses_double_up_to_a_limit_and_vary_by_a_fifth(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retries, "MAX_ATTEMPTS", 7)
    attempts = Attempts(RetryBudget(), 60)
    for middle in (0.05, 0.1, 0.2, 0.4, 0.5, 0.5):
        pause = attempts.pause_after(DOWN, UNAVAILABLE)
        assert pause is not None
        assert 0.8 * middle <= pause <= 1.2 * middle
    assert attempts.pause_after(DOWN, UNAVAILABLE) is None


def test_a_call_is_not_retried_if_its_deadline_passes_before_the_next_attempt() -> None:
    assert Attempts(RetryBudget(), 0.03).pause_after(DOWN, UNAVAILABLE) is None


def test_only_outages_and_overload_are_retried() -> None:
    internal = _Status(grpc.StatusCode.INTERNAL)
    assert Attempts(RetryBudget(), 60).pause_after(internal, InternalError("a bug")) is None
    assert Attempts(RetryBudget(), 60).pause_after(DOWN, InternalError("a bug")) is None


@pytest.mark.parametrize(("pushback", "pause"), [("1500", 1.5), ("0", 0.0)])
def test_a_retry_waits_for_the_servers_retry_delay(pushback: str, pause: float) -> None:
    status = _Status(grpc.StatusCode.UNAVAILABLE, pushback)
    assert Attempts(RetryBudget(), 60).pause_after(status, UNAVAILABLE) == pause


@pytest.mark.parametrize("pushback", ["-1", "soon", "", "9" * 5_000])
def test_a_call_is_not_retried_if_the_server_forbids_it(pushback: str) -> None:
    status = _Status(grpc.StatusCode.UNAVAILABLE, pushback)
    assert Attempts(RetryBudget(), 60).pause_after(status, UNAVAILABLE) is None


def test_retries_stop_in_a_lasting_outage_and_resume_after_answers() -> None:
    budget = RetryBudget()
    failed = 0
    while budget.failed():
        failed += 1
    assert failed == retries.BUDGET_TOKENS / 2 - 1
    for _ in range(20):
        budget.answered()
    assert budget.failed()
