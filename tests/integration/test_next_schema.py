"""This program on the schema of the next release, as during a rolling upgrade."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from alembic import command

from session_authority import SessionClient
from session_authority_server.store import schema
from session_authority_server.store.database import Database
from tests.support import postgresql
from tests.support.program import run, serving

# While older programs still run, a newer release may only add to the schema.
NEXT = """
import sqlalchemy as sa
from alembic import op

revision = "0099"
down_revision = {head!r}
branch_labels = None
depends_on = None


def upgrade():
    op.add_column("sessions", sa.Column("country", sa.Text()))
    op.add_column("users", sa.Column("note", sa.Text(), nullable=False, server_default="none"))
    op.create_index("sessions_country_idx", "sessions", ["country"])
    op.create_table("countries", sa.Column("name", sa.Text(), primary_key=True))
    op.execute("UPDATE authority SET oldest_program = '{oldest_program}'")
"""


@dataclass(frozen=True)
class Place:
    """The address of a database, and a working folder."""

    folder: Path
    url: str

    @property
    def settings(self) -> dict[str, str]:
        return {"SESSION_AUTHORITY_DATABASE_URL": self.url}

    def database(self) -> Database:
        if self.url.startswith("sqlite"):
            return Database.sqlite(Path(self.url.removeprefix("sqlite:///")))
        return Database.postgresql(self.url)


@contextmanager
def _fresh(kind: str, folder: Path) -> Iterator[str]:
    if kind == "sqlite":
        (folder / "authority.sqlite").touch()
        yield f"sqlite:///{folder}/authority.sqlite"
    else:
        with postgresql.fresh_database() as url:
            yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    with _fresh(request.param, tmp_path) as url:
        yield Place(tmp_path, url)


def migrate_to_next(place: Place, *, oldest_program: str) -> None:
    """Bring a database to the schema of a release after this one."""
    versions = place.folder / "versions"
    versions.mkdir()

    async def work() -> None:
        database = place.database()
        try:
            head = (await schema.read_version(database)).wanted
            text = NEXT.format(head=head, oldest_program=oldest_program)
            (versions / "0099_next.py").write_text(text)
            configuration = schema.configuration()
            ours = Path(schema.__file__).parent / "migrations" / "versions"
            configuration.set_main_option("version_locations", f"{ours}:{versions}")

            def upgrade(connection: object) -> None:
                configuration.attributes["connection"] = connection
                command.upgrade(configuration, "head")

            await database.run_sync(upgrade)
        finally:
            await database.close()

    asyncio.run(work())


def test_a_program_serves_a_newer_schema_marked_compatible(place: Place) -> None:
    migrate_to_next(place, oldest_program="0002")
    with serving(place.folder, settings=place.settings) as server:
        with SessionClient(server.address) as client:
            one, two = client.create("ann"), client.create("ann")
            assert client.validate(one.token)
            renewed = client.reauthenticate(one.token)
            assert [each.session_id for each in client.list(renewed.token)]
            client.revoke(renewed.token, two.session.session_id)
            assert not client.validate(two.token)
            three = client.create("ann")
            client.revoke_others(renewed.token)
            assert not client.validate(three.token)
            client.sign_out(renewed.token)
            assert not client.validate(renewed.token)
        assert server.stop() == 0
        assert "from a newer release" in server.stderr
        assert "Traceback" not in server.stderr
    assert run("worker", "--once", cwd=place.folder, settings=place.settings).returncode == 0
    for options in ([], ["--check"]):
        done = run("migrate", *options, cwd=place.folder, settings=place.settings)
        assert done.returncode == 0
        assert "the schema is 0099, newer than this program's" in done.stdout


def test_a_program_refuses_a_newer_schema_marked_incompatible(place: Place) -> None:
    migrate_to_next(place, oldest_program="0099")
    for command_line in (("serve", "--listen", "127.0.0.1:0"), ("migrate",), ("worker", "--once")):
        done = run(*command_line, cwd=place.folder, settings=place.settings)
        assert done.returncode == 1
        assert "the schema of" in done.stderr
        assert "is 0099" in done.stderr
        assert "newer release" in done.stderr
