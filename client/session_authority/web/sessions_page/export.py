"""Export a user's sessions as JSON."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime

from session_authority.session import Session


def to_json(sessions: Sequence[Session], *, is_complete: bool, now: datetime) -> bytes:
    """Return sessions as a JSON document, without the data that the app attached to them."""
    document = {
        "exported_at": _time(now),
        "complete": is_complete,
        "sessions": [_entry(session) for session in sessions],
    }
    return (json.dumps(document, indent=2, ensure_ascii=False) + "\n").encode()


def _entry(session: Session) -> dict[str, object]:
    device = session.device
    return {
        "session_id": session.session_id,
        "state": session.state,
        "current": session.current,
        "device": {
            "browser": device.browser,
            "browser_version": device.browser_version,
            "os": device.os,
            "os_version": device.os_version,
            "type": device.type,
            "display_name": device.display_name,
        },
        "ip_address": session.ip_address,
        "last_ip_address": session.last_ip_address,
        "location": None if session.location is None else asdict(session.location),
        "create_time": _time(session.create_time),
        "authenticate_time": _time(session.authenticate_time),
        "authentication_methods": session.authentication_methods,
        "last_active_time": _time(session.last_active_time),
        "expire_time": _time(session.expire_time),
        "idle_expire_time": _time(session.idle_expire_time),
        "end_time": _time(session.end_time),
        "end_reason": session.end_reason,
        "initiating_entity": session.initiating_entity,
        "actor_id": session.actor_id,
        "new_device": session.new_device,
        "label": session.label,
    }


def _time(time: datetime | None) -> str | None:
    return None if time is None else time.isoformat().replace("+00:00", "Z")
