"""Every form of address that libpq takes reaches the database, or gets an error that says what to write."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import postgresql
from tests.support.postgresql import Cluster
from tests.support.program import Refusal, run

FORMS = {
    "the short name": "postgres://postgres@127.0.0.1:{port}/postgres",
    "the form of SQLAlchemy": "postgresql+psycopg://postgres@127.0.0.1:{port}/postgres",
    "no database": "postgresql://postgres@127.0.0.1:{port}",
    "a dead host first": "postgresql://postgres@127.0.0.1:{dead},127.0.0.1:{port}/postgres",
    "only primaries": "postgres://postgres@127.0.0.1:{port}/postgres?target_session_attrs=primary",
    "a socket": "postgresql:///postgres?host={socket}&port={port}&user=postgres",
    "a socket as the host": "postgresql://postgres@{quoted}:{port}/postgres",
    "hosts as parameters": "postgresql:///postgres?host=127.0.0.1,127.0.0.1&port={dead},{port}&user=postgres",
    "a service": "postgresql://?service=ours",
    "a service with another database": "postgres:///postgres?service=ours",
    "options": "postgresql://postgres@127.0.0.1:{port}/postgres?options=-c%20timezone%3DUTC&sslmode=disable",
}


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    with postgresql.folder() as folder:
        yield folder


@pytest.fixture(scope="module")
def server(place: Path) -> Iterator[Cluster]:
    with postgresql.cluster(unix_socket_directories=os.fspath(place)) as cluster:
        yield cluster


@pytest.mark.parametrize("form", FORMS)
def test_a_form_of_address_reaches_the_database(
    server: Cluster, place: Path, tmp_path: Path, form: str
) -> None:
    services = tmp_path / "services"
    services.write_text(f"[ours]\nhost=127.0.0.1\nport={server.port}\nuser=postgres\n")
    url = FORMS[form].format(
        port=server.port,
        dead=postgresql.free_port(),
        socket=place,
        quoted=os.fspath(place).replace("/", "%2F"),
    )
    settings = {"SESSION_AUTHORITY_DATABASE_URL": url, "PGSERVICEFILE": os.fspath(services)}
    done = run("migrate", cwd=tmp_path, settings=settings)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("url", "advice"),
    [
        ("postgresql://hush@db/app?sslmod=require", "parameter 1 after the question mark; did you"),
        ("postgresql://db/app?sslmode=require&x=hush", "does not know parameter 2"),
        ("postgresql://db/hu%zzsh", "as %XX"),
        ("postgresql+psycopg2://hush@db/app", "begins with postgresql://"),
        ("postgresql://hush@db1,db2/app?target_session_attrs=prefer-standby", "read-write"),
        ("postgresql:///app?host=hush:1&host=hush:2", "host1:5432,host2:5432"),
    ],
)
def test_a_wrong_address_gets_advice_and_is_not_quoted(
    refusal: Refusal, url: str, advice: str
) -> None:
    said = refusal("migrate", "--check", "--database-url", url)
    assert "SESSION_AUTHORITY_DATABASE_URL" in said
    assert advice in said
    assert "hush" not in said
