"""How changes travel from one server to another: as the text of PostgreSQL's notifications."""

from collections.abc import Iterator
from uuid import UUID

from session_authority_server.domain.changes import Changes

CHANNEL = "session_authority_changes"
# A notification holds less than 8,000 bytes (PostgreSQL's NOTIFY_PAYLOAD_MAX_LENGTH).
PAYLOAD_LIMIT_BYTES = 7_900
_SESSION_IDS_AT_ONCE = PAYLOAD_LIMIT_BYTES // 33
_USER_IDS_AT_ONCE = PAYLOAD_LIMIT_BYTES // 256  # of 255 bytes at most, and a line's end
_SESSIONS, _USERS, _EVERYBODY = "s", "u", "a"


def payloads(changes: Changes) -> Iterator[str]:
    """Return changes as the texts of as many notifications as they take: a letter, and then a name a line."""
    if changes.everybody:
        yield _EVERYBODY
        return
    for kind, names, at_once in (
        (_SESSIONS, [each.hex for each in changes.session_ids], _SESSION_IDS_AT_ONCE),
        (_USERS, list(changes.user_ids), _USER_IDS_AT_ONCE),
    ):
        for start in range(0, len(names), at_once):
            yield "\n".join((kind, *names[start : start + at_once]))


def read(payload: str) -> Changes:
    """Return the changes that a notification tells of; everybody's where it can't be read.

    A server of a later release may have sent it. To forget too much does no harm.
    """
    kind, *names = payload.split("\n")
    if kind == _USERS:
        return Changes(user_ids=set(names))
    if kind == _SESSIONS:
        try:
            return Changes(session_ids={UUID(hex=name) for name in names})
        except ValueError:
            pass
    return Changes(everybody=True)
