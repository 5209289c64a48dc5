from collections.abc import Iterator

import pytest

from session_authority_server.check.database_condition import PostgresqlCondition, read_condition
from session_authority_server.store.database import Database
from tests.support import postgresql


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """Return the address of a Unix socket. libpq accepts and ignores every sslmode there."""
    with postgresql.cluster() as server:
        server.stop()
        folder = server.folder / "data"
        server.options["unix_socket_directories"] = str(folder)
        server.start()
        yield f"postgresql://postgres@/postgres?host={folder}&port={server.port}"


@pytest.mark.parametrize(
    ("parameters", "verified"),
    [
        ("", False),
        ("&sslmode=require&sslrootcert=/none", False),
        ("&sslmode=verify-full", True),
    ],
)
async def test_a_connection_shows_whether_it_verifies_the_server(
    url: str, parameters: str, verified: bool
) -> None:
    database = Database.postgresql(url + parameters)
    try:
        condition = await read_condition(database)
    finally:
        await database.close()
    assert isinstance(condition, PostgresqlCondition)
    assert condition.is_local
    assert not condition.encrypted
    assert condition.verified is verified
