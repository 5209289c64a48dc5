from sqlalchemy import Column

from session_authority_server.domain.device import DeviceType
from session_authority_server.domain.session import EndReason, InitiatingEntity
from session_authority_server.store.column_types import Code
from session_authority_server.store.tables import sessions, sweeps


def codes(column: "Column[object]") -> list[tuple[int, object]]:
    assert isinstance(column.type, Code)
    return list(enumerate(column.type.members, start=1))


def test_stored_codes_keep_their_meaning() -> None:
    """Rows hold these numbers. A new member takes the next number; no other number may change."""
    assert codes(sessions.c.end_reason) == [
        (1, EndReason.SIGNED_OUT),
        (2, EndReason.REVOKED),
        (3, EndReason.EXPIRED),
        (4, EndReason.IDLE_TIMEOUT),
        (5, EndReason.LIMIT),
    ]
    entities = [
        (1, InitiatingEntity.ADMIN),
        (2, InitiatingEntity.USER),
        (3, InitiatingEntity.POLICY),
        (4, InitiatingEntity.SYSTEM),
    ]
    assert codes(sessions.c.initiating_entity) == codes(sweeps.c.initiating_entity) == entities
    assert codes(sessions.c.device_type) == [
        (1, DeviceType.UNKNOWN),
        (2, DeviceType.DESKTOP),
        (3, DeviceType.PHONE),
        (4, DeviceType.TABLET),
        (5, DeviceType.APPLIANCE),
        (6, DeviceType.SCRIPT),
        (7, DeviceType.BOT),
    ]
