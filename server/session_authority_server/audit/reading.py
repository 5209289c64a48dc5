"""Read the events of audit logs that end sessions or API keys."""

import gzip
import json
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

from session_authority_server.domain.event import (
    KeyExpirySet,
    KeyRevoked,
    SessionEnded,
    SessionsSwept,
)
from session_authority_server.domain.session import Ending, EndReason, InitiatingEntity, Sweep
from session_authority_server.usecases.replay import LoggedEvent, TokenReplaced

# How many truncated lines are kept. A truncated line is dropped when a later line contains it in full.
CUT_LINES_LIMIT = 100


class AuditLogFiles:
    """The files of an audit log, the oldest first. Files that end in .gz are compressed.

    Attributes:
        dropped: How many events the log says were lost.
        cut: Lines cut short that no later line repeats. A full disk or a crash cuts lines.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = paths
        self.dropped = 0
        self.cut: list[str] = []

    @property
    def is_complete(self) -> bool:
        """Whether no event was dropped, and no line is cut short. Valid only after all events were read."""
        return not (self.dropped or self.cut)

    def events(self) -> Iterator[LoggedEvent]:
        """Return the events that end sessions, tokens or API keys.

        Raises:
            OSError: If a file can't be read.
        """
        for path in self._paths:
            opening = gzip.open if path.suffix == ".gz" else open
            with opening(path, "rt", encoding="utf-8", errors="replace") as lines:
                for line in lines:
                    yield from self._event(line.rstrip("\n"))

    def _event(self, line: str) -> Iterator[LoggedEvent]:
        if not line.startswith("{"):
            return  # Standard output also carries other lines.
        try:
            fields = json.loads(line)
            event = _event_of(fields) if "event_timestamp" in fields else None
        except (ValueError, KeyError, TypeError):
            if len(self.cut) < CUT_LINES_LIMIT:
                self.cut.append(line)
            return
        if self.cut:
            self.cut = [each for each in self.cut if not line.startswith(each)]
        if fields.get("event") == "events-dropped":
            self.dropped += fields["count"]
        if event is not None:
            yield event


def _event_of(fields: dict[str, Any]) -> LoggedEvent | None:
    """Return the event of a line; None if it ends neither a session nor a key."""
    time = _moment(fields["event_timestamp"])
    match fields["event"]:
        case "session-ended":
            ending = Ending(time, EndReason(fields["reason"]), _initiator(fields))
            return SessionEnded(UUID(fields["session_id"]), fields["user_id"], ending)
        case "sessions-swept":
            why = fields.get("reason_admin", {}).get("en", "")
            sweep = Sweep(time, _initiator(fields), why)
            kept = fields.get("kept_session_id")
            user_id = fields.get("user_id", "")
            return SessionsSwept(user_id, sweep, None if kept is None else UUID(kept), why)
        case "session-reauthenticated":
            return TokenReplaced(UUID(fields["session_id"]), time)
        case "api-key-revoked":
            return KeyRevoked(fields["key_id"], time)
        case "api-key-expiry-set":
            return KeyExpirySet(fields["key_id"], _moment(fields["expire_timestamp"]), time)
        case _:
            return None


def _initiator(fields: dict[str, Any]) -> InitiatingEntity:
    return InitiatingEntity(fields["initiating_entity"])


def _moment(numeric: float) -> datetime:
    return datetime.fromtimestamp(numeric, UTC)
