import resource

import pytest

from session_authority_server.cli.serve import _allow_many_connections


class Limits:
    """The system's limits of open files, and the highest limit that it accepts."""

    def __init__(self, soft: int, hard: int, takes: int) -> None:
        self.now = soft, hard
        self._takes = takes

    def get(self, _what: int) -> tuple[int, int]:
        return self.now

    def set(self, _what: int, wanted: tuple[int, int]) -> None:
        if wanted[0] > self._takes:
            raise ValueError("current limit exceeds maximum limit")
        self.now = wanted


@pytest.mark.parametrize(
    ("soft", "hard", "takes", "then"),
    [
        (1_024, 524_288, 524_288, 65_536),
        (1_024, 20_000, 20_000, 20_000),
        (256, resource.RLIM_INFINITY, 24_576, 10_240),  # as macOS
        (256, resource.RLIM_INFINITY, 300, 256),
        (1_000_000, 1_000_000, 1_000_000, 1_000_000),
        (resource.RLIM_INFINITY, resource.RLIM_INFINITY, 24_576, resource.RLIM_INFINITY),
    ],
)
def test_the_limit_of_open_files_is_raised_as_far_as_the_system_accepts(
    monkeypatch: pytest.MonkeyPatch, soft: int, hard: int, takes: int, then: int
) -> None:
    limits = Limits(soft, hard, takes)
    monkeypatch.setattr(resource, "getrlimit", limits.get)
    monkeypatch.setattr(resource, "setrlimit", limits.set)
    _allow_many_connections()
    assert limits.now == (then, hard)
