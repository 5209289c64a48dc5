"""Rows as PostgreSQL sends them in binary, against what the driver makes of them."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from uuid import UUID

import psycopg
import pytest

from session_authority_server.store.wire import values_of
from tests import postgresql

Connection = psycopg.Connection[tuple[object, ...]]


@pytest.fixture(scope="module")
def connection() -> Iterator[Connection]:
    with psycopg.connect(postgresql.shared_url(), autocommit=True) as made:
        yield made


def sent(connection: Connection, *values: str) -> list[object]:
    """Return what comes of expressions that a server evaluates and sends as one record."""
    statement = f"SELECT record_send(row({', '.join(values)}))"
    [(record,)] = connection.execute(statement.encode()).fetchall()
    assert isinstance(record, bytes)
    return values_of(record)


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("'x'::text", "x"),
        ("''::text", ""),
        ("'Zürich 東京'::text", "Zürich 東京"),
        (r"'\x00ff'::bytea", b"\x00\xff"),
        ("0::bigint", 0),
        ("-1::bigint", -1),
        ("9223372036854775807", 2**63 - 1),
        ("7::smallint", 7),
        ("'2026-11-24 01:02:03.000004+00'::timestamptz", datetime(2026, 11, 24, 1, 2, 3, 4, UTC)),
        ("'1999-12-31 23:59:59.999999+00'::timestamptz", datetime(2000, 1, 1, tzinfo=UTC)),
        ("'90 days'::interval", timedelta(days=90)),
        ("'1 day 00:00:01.000002'::interval", timedelta(days=1, seconds=1, microseconds=2)),
        ("'26:00:00'::interval", timedelta(hours=26)),
        ("'203.0.113.7'::inet", "203.0.113.7"),
        ("'2001:db8::5'::inet", "2001:db8::5"),
        (
            "'01a1c347-847a-795a-9bac-13e659ceda65'::uuid",
            UUID("01a1c347-847a-795a-9bac-13e659ceda65"),
        ),
        ("null::text", None),
        ("null::inet", None),
    ],
)
def test_a_value_is_what_was_stored(connection: Connection, expression: str, value: object) -> None:
    if isinstance(value, datetime) and value.year == 2000:
        value -= timedelta(microseconds=1)
    assert sent(connection, expression) == [value]
    assert sent(connection, "'before'::text", expression, "null::text", "'after'::text") == [
        "before",
        value,
        None,
        "after",
    ]


def test_a_record_without_columns_has_no_values(connection: Connection) -> None:
    assert sent(connection) == []


def test_a_type_that_no_table_has_is_refused(connection: Connection) -> None:
    with pytest.raises(KeyError):
        sent(connection, "1.5::numeric")
