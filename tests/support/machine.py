from datetime import UTC, datetime, timedelta, tzinfo

import pytest

from session_authority_server.domain import clock as clocks


class MachineClocks:
    """The wall clock and the monotonic clock of a machine. The test moves them."""

    def __init__(self, start: datetime) -> None:
        self.wall = start
        self.elapsed = timedelta(seconds=5_000)

    def wait(self, by: timedelta) -> None:
        """Let time pass."""
        self.wall += by
        self.elapsed += by

    def step(self, by: timedelta) -> None:
        """Set the wall clock ahead or back."""
        self.wall += by

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Make the authority's clocks read these clocks."""
        machine = self

        class WallTime(datetime):
            @classmethod
            def now(cls, tz: tzinfo | None = None) -> "WallTime":
                return cls.fromtimestamp(machine.wall.timestamp(), tz or UTC)

        monkeypatch.setattr(clocks, "datetime", WallTime)
        monkeypatch.setattr(clocks, "elapsed_seconds", lambda: machine.elapsed.total_seconds())
