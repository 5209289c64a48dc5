"""Column types that store the domain's values in both engines."""

import json
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from enum import Enum
from types import MappingProxyType
from typing import Any, TypeVar
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    Dialect,
    Interval,
    LargeBinary,
    SmallInteger,
    Text,
    TypeDecorator,
    Uuid,
)
from sqlalchemy.dialects.postgresql import INET, TIMESTAMP
from sqlalchemy.types import TypeEngine

from session_authority_server.domain.session import NO_ATTRIBUTES

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)

T = TypeVar("T")
Decode = Callable[[Any], Any]


class _Stored(TypeDecorator[T]):
    """A value stored in a PostgreSQL type (`native`), or in a type that both engines have (`impl`).

    SQLAlchemy calls `decode` directly instead of its chain of processors. A validation reads two dozen columns, and
    the chain would add its cost to each.
    """

    native: TypeEngine[Any] | None = None

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        if dialect.name == "postgresql" and self.native is not None:
            return dialect.type_descriptor(self.native)
        return super().load_dialect_impl(dialect)

    def process_bind_param(self, value: T | None, dialect: Dialect) -> Any:
        if value is None or (dialect.name == "postgresql" and self.native is not None):
            return value
        return self.encode(value)

    def result_processor(self, dialect: Dialect, coltype: object) -> Decode | None:
        if dialect.name == "postgresql" and self.native is not None:
            return None
        return self.decode

    def encode(self, value: T) -> Any:
        raise NotImplementedError

    def decode(self, value: Any) -> Any:
        raise NotImplementedError


class Moment(_Stored[datetime]):
    """A moment in UTC. PostgreSQL stores a `timestamptz`, SQLite microseconds since 1970."""

    impl = BigInteger
    cache_ok = True
    native = TIMESTAMP(timezone=True)

    def result_processor(self, dialect: Dialect, coltype: object) -> Decode | None:
        # psycopg returns times in the zone of PostgreSQL's setting TimeZone. Convert them to UTC, because Python's
        # arithmetic within a zone ignores daylight saving time.
        return _in_utc if dialect.name == "postgresql" else self.decode

    def encode(self, value: datetime) -> int:
        return (value - _EPOCH) // _MICROSECOND

    def decode(self, value: int | None) -> datetime | None:
        return None if value is None else _EPOCH + timedelta(0, 0, value)


def _in_utc(value: datetime | None) -> datetime | None:
    return None if value is None else value.astimezone(UTC)


class Span(_Stored[timedelta]):
    """A duration. PostgreSQL stores an `interval`, SQLite microseconds."""

    impl = BigInteger
    cache_ok = True
    native = Interval()

    def encode(self, value: timedelta) -> int:
        return value // _MICROSECOND

    def decode(self, value: int | None) -> timedelta | None:
        return None if value is None else timedelta(0, 0, value)


class Id(_Stored[UUID]):
    """A UUID. PostgreSQL stores a `uuid`, SQLite its 16 bytes. Both have the same order."""

    impl = LargeBinary(16)
    cache_ok = True
    native = Uuid()

    def encode(self, value: UUID) -> bytes:
        return value.bytes

    def decode(self, value: bytes | None) -> UUID | None:
        return None if value is None else UUID(bytes=value)


class Address(_Stored[str]):
    """An IP address. PostgreSQL stores an `inet`, SQLite the canonical text."""

    impl = Text
    cache_ok = True
    native = INET()

    def encode(self, value: str) -> str:
        return value

    def result_processor(self, dialect: Dialect, coltype: object) -> Decode | None:
        return self.decode if dialect.name == "postgresql" else None

    def decode(self, value: object) -> str | None:
        return None if value is None else str(value)


class Code(_Stored[Enum]):
    """An enum member, stored as its position in the enum from 1. New members must go to the end of the enum."""

    impl = SmallInteger
    cache_ok = True

    def __init__(self, members: Iterable[Enum]) -> None:
        super().__init__()
        self.members = tuple(members)

    def encode(self, value: Enum) -> int:
        return self.members.index(value) + 1

    def decode(self, value: int | None) -> Enum | None:
        return None if value is None else self.members[value - 1]


class Words(_Stored[tuple[str, ...]]):
    """Words without spaces, stored as one text with a space between them."""

    impl = Text
    cache_ok = True

    def encode(self, value: tuple[str, ...]) -> str:
        return " ".join(value)

    def decode(self, value: str) -> tuple[str, ...]:
        return tuple(value.split())


class Attributes(_Stored[Mapping[str, str]]):
    """A small map of strings, stored as JSON, or as null if empty."""

    impl = Text
    cache_ok = True

    def encode(self, value: Mapping[str, str]) -> str | None:
        return json.dumps(dict(value), ensure_ascii=False) if value else None

    def decode(self, value: str | None) -> Mapping[str, str]:
        return MappingProxyType(json.loads(value)) if value else NO_ATTRIBUTES
