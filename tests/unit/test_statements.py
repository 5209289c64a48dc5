"""Databases of one kind share compiled statements, and others do not."""

from collections.abc import Callable

import pytest
from sqlalchemy import Dialect
from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg
from sqlalchemy.dialects.sqlite.aiosqlite import SQLiteDialect_aiosqlite

from tests.support.statements import SharedStatements


def new_postgresql() -> Dialect:
    return PGDialect_psycopg()  # type: ignore[no-untyped-call]


def old_postgresql() -> Dialect:
    dialect: Dialect = new_postgresql()
    dialect.server_version_info = (9, 6)
    return dialect


@pytest.mark.parametrize("kind", [SQLiteDialect_aiosqlite, new_postgresql, old_postgresql])
def test_only_a_dialect_of_the_same_kind_finds_a_statement(kind: Callable[[], Dialect]) -> None:
    statements = SharedStatements()
    statements[new_postgresql(), "SELECT"] = "compiled"

    found = statements.get((kind(), "SELECT"))

    assert found == ("compiled" if kind is new_postgresql else None)
