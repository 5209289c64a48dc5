"""A row as PostgreSQL sends it in binary (`record_send`), to Python's values.

The formats are those of the types' own send functions in PostgreSQL's source, which have not changed since 8.4:
every driver that reads binary results depends on them.
"""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from typing import Any
from uuid import UUID

_COUNT_BYTES = 4
_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)


def _signed(sent: bytes) -> int:
    return int.from_bytes(sent, signed=True)


def _timestamptz(sent: bytes) -> datetime:
    return _EPOCH + timedelta(0, 0, _signed(sent))


def _interval(sent: bytes) -> timedelta:
    # Microseconds, days and months; durations of ours have no months.
    return timedelta(_signed(sent[8:12]), 0, _signed(sent[:8]))


def _inet(sent: bytes) -> str:
    # Family, bits of the mask, whether it is a network, and the length, before the address.
    return str(ip_address(sent[4:]))


_DECODERS: dict[int, Callable[[bytes], Any]] = {
    17: bytes,  # bytea
    20: _signed,  # bigint
    21: _signed,  # smallint
    25: bytes.decode,  # text
    869: _inet,
    1184: _timestamptz,
    1186: _interval,
    2950: lambda sent: UUID(bytes=sent),
}


def values_of(record: bytes) -> list[Any]:
    """Return the columns of a sent record.

    Raises:
        KeyError: If a column is of a type that no table of ours has.
    """
    values: list[Any] = []
    at, end = _COUNT_BYTES, len(record)
    while at < end:
        oid = int.from_bytes(record[at : at + 4])
        length = int.from_bytes(record[at + 4 : at + 8], signed=True)
        at += 8
        if length < 0:  # null
            values.append(None)
            continue
        values.append(_DECODERS[oid](record[at : at + length]))
        at += length
    return values
