"""Read the events of audit logs that end sessions or API keys."""

import gzip
import json
import zlib
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

from session_authority_server.domain.errors import InvalidRequest
from session_authority_server.domain.event import (
    KeyExpirySet,
    KeyRevoked,
    SessionEnded,
    SessionsSwept,
)
from session_authority_server.domain.session import Ending, EndReason, InitiatingEntity, Sweep
from session_authority_server.domain.sign_in import Violations, check_user_id
from session_authority_server.usecases.replay import LoggedEvent, TokenReplaced

# How many truncated lines are kept. A truncated line is dropped when a later line contains it in full.
CUT_LINES_LIMIT = 100

# Every event that ends something has this field. A line that has it and does not begin with { lacks its beginning, or
# another program has put a prefix before it.
_EVENT_SIGN = '"initiating_entity":'

# Errors of parsing a line that this program did not write, or did not write in full.
_MALFORMED = (
    *(ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError),
    InvalidRequest,
)


class AuditLogFiles:
    """The files of an audit log, the oldest first. Files that end in .gz are compressed.

    Attributes:
        count: How many events of any kind the log has.
        dropped: How many events the log says were lost.
        cut: Lines cut short that no later line repeats. A full disk or a crash cuts lines.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = paths
        self.count = 0
        self.dropped = 0
        self.cut: list[str] = []

    @property
    def is_complete(self) -> bool:
        """Whether no event was dropped, and no line is cut short. Valid only after all events were read."""
        return not (self.dropped or self.cut)

    def events(self) -> Iterator[LoggedEvent]:
        """Return the events that end sessions, tokens or API keys.

        Raises:
            OSError: If a file can't be read. Its filename names the file.
        """
        for path in self._paths:
            opening = gzip.open if path.suffix == ".gz" else open
            try:
                with opening(path, "rt", encoding="utf-8", errors="replace") as lines:
                    for line in lines:
                        yield from self._event(line.rstrip("\n"))
            except (EOFError, zlib.error, gzip.BadGzipFile) as error:
                raise OSError(0, f"its compressed data is damaged: {error}", str(path)) from error

    def _event(self, line: str) -> Iterator[LoggedEvent]:
        if not line.startswith("{"):
            if _EVENT_SIGN in line:
                self._note_cut(line)
            return  # Standard output also carries other lines.
        try:
            fields = json.loads(line)
            if "event_timestamp" not in fields:
                return
            event = _event_of(fields)
            dropped = int(fields["count"]) if fields["event"] == "events-dropped" else 0
        except _MALFORMED:
            self._note_cut(line)
            return
        if self.cut:
            self.cut = [each for each in self.cut if not line.startswith(each)]
        self.count += 1
        self.dropped += dropped
        if event is not None:
            yield event

    def _note_cut(self, line: str) -> None:
        if len(self.cut) < CUT_LINES_LIMIT:
            self.cut.append(line)


def _event_of(fields: dict[str, Any]) -> LoggedEvent | None:
    """Return the event of a line; None if it ends neither a session nor a key."""
    time = _moment(fields["event_timestamp"])
    match fields["event"]:
        case "session-ended":
            ending = Ending(time, EndReason(fields["reason"]), _initiator(fields))
            return SessionEnded(UUID(fields["session_id"]), _user_id(fields["user_id"]), ending)
        case "sessions-swept":
            why = fields.get("reason_admin", {}).get("en", "")
            sweep = Sweep(time, _initiator(fields), why)
            kept = fields.get("kept_session_id")
            user_id = "" if fields.get("everybody") is True else _user_id(fields["user_id"])
            return SessionsSwept(user_id, sweep, None if kept is None else UUID(kept), why)
        case "session-reauthenticated":
            return TokenReplaced(UUID(fields["session_id"]), time)
        case "api-key-revoked":
            return KeyRevoked(_key_id(fields), time)
        case "api-key-expiry-set":
            return KeyExpirySet(_key_id(fields), _moment(fields["expire_timestamp"]), time)
        case _:
            return None


def _user_id(text: object) -> str:
    """Return a user id that the API would accept, and so the database too."""
    if not isinstance(text, str):
        raise TypeError("a user id is a string")
    violations = Violations()
    check_user_id(text, violations)
    violations.raise_if_any()
    return text


def _key_id(fields: dict[str, Any]) -> str:
    return str(UUID(fields["key_id"]))


def _initiator(fields: dict[str, Any]) -> InitiatingEntity:
    return InitiatingEntity(fields["initiating_entity"])


def _moment(numeric: float) -> datetime:
    return datetime.fromtimestamp(numeric, UTC)
