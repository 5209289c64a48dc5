"""Calls have the same results under any settings of the server, a role, a pooler or the environment."""

import asyncio
import contextlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import timedelta
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit
from uuid import UUID

import grpc
import psycopg
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from session_authority import AsyncSessionClient, NewSession, Rejection, Session
from session_authority.session_token import Token
from session_authority.v1 import session_admin_service_pb2 as pb
from session_authority.v1.session_admin_service_pb2_grpc import SessionAdminServiceStub
from session_authority_server.app.serving import ServeOptions, serving
from session_authority_server.app.upkeep import jobs
from session_authority_server.check.database_condition import PostgresqlCondition, read_condition
from session_authority_server.config import Settings, load_settings
from session_authority_server.domain.clock import SystemClock
from session_authority_server.domain.session import Changes
from session_authority_server.store.database import Database
from session_authority_server.store.schema import migrate
from session_authority_server.watch.postgresql_channel import PostgresqlChannel
from tests.support import pgbouncer, postgresql
from tests.support.engines import migrated_postgresql
from tests.support.program import Refusal

if TYPE_CHECKING:
    from session_authority.v1.session_admin_service_pb2_grpc import SessionAdminServiceAsyncStub

# Two users. The UTF-8 bytes of the first one, decoded as LATIN1, are the second one.
USERS = ("ümlaut", "Ã¼mlaut", "日本")
LIFETIME = timedelta(days=40, hours=3, microseconds=7)
IDLE = timedelta(days=2, minutes=1)
HOSTILE = {
    "client_encoding": "LATIN1",
    "datestyle": "SQL, DMY",
    "intervalstyle": "iso_8601",
    "timezone": "Asia/Kathmandu",
    "bytea_output": "escape",
    "standard_conforming_strings": "off",
    "extra_float_digits": "-15",
    "array_nulls": "off",
    "transform_null_equals": "on",
    "quote_all_identifiers": "on",
    "default_transaction_isolation": "serializable",
    "default_transaction_deferrable": "on",
    "client_min_messages": "error",
    "xmloption": "document",
    "search_path": "nowhere, public",
    "lc_messages": "C",
    "row_security": "off",
    "jit": "on",
}
OTHERS = [
    {
        "client_encoding": "SQL_ASCII",
        "datestyle": "German, YMD",
        "intervalstyle": "sql_standard",
        "timezone": "<+0530>-05:30",
        "default_transaction_isolation": "repeatable read",
    },
    {
        "client_encoding": "EUC_JP",
        "datestyle": "Postgres, MDY",
        "intervalstyle": "postgres_verbose",
        "timezone": "America/St_Johns",
    },
]

Way = Callable[[str, Mapping[str, str]], AbstractContextManager[str]]


@contextlib.contextmanager
def by_database(url: str, hostile: Mapping[str, str]) -> Iterator[str]:
    _alter(url, f"DATABASE {_name(url)}", hostile)
    yield url


@contextlib.contextmanager
def by_role(url: str, hostile: Mapping[str, str]) -> Iterator[str]:
    role = f"app_{_name(url)[-12:]}"
    with psycopg.connect(url, autocommit=True) as admin:
        admin.execute(f"CREATE ROLE {role} LOGIN SUPERUSER".encode())
    _alter(url, f"ROLE {role}", hostile)
    try:
        yield url.replace("postgres@", f"{role}@")
    finally:
        with psycopg.connect(url, autocommit=True) as admin:
            admin.execute(f"REASSIGN OWNED BY {role} TO postgres".encode())
            admin.execute(f"DROP ROLE {role}".encode())


@contextlib.contextmanager
def by_options_in_the_url(url: str, hostile: Mapping[str, str]) -> Iterator[str]:
    encoding = hostile.get("client_encoding")
    rest = {name: value for name, value in hostile.items() if name != "client_encoding"}
    yield f"{url}?options={quote(_options(rest))}" + (
        f"&client_encoding={encoding}" if encoding else ""
    )


@contextlib.contextmanager
def by_the_environment(url: str, hostile: Mapping[str, str]) -> Iterator[str]:
    variables = {
        "PGCLIENTENCODING": hostile["client_encoding"],
        "PGDATESTYLE": hostile["datestyle"],
        "PGTZ": hostile["timezone"],
        "PGOPTIONS": _options(hostile),
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        yield url


@contextlib.contextmanager
def by_a_service_file(url: str, hostile: Mapping[str, str]) -> Iterator[str]:
    with postgresql.folder() as place, pytest.MonkeyPatch.context() as patch:
        file = place / "services"
        file.write_text(
            f"[hostile]\nclient_encoding={hostile['client_encoding']}\noptions={_options(hostile)}\n"
        )
        patch.setenv("PGSERVICEFILE", os.fspath(file))
        patch.setenv("PGSERVICE", "hostile")
        yield url


def _options(settings: Mapping[str, str]) -> str:
    escaped = {name: value.replace(" ", "\\ ") for name, value in settings.items()}
    return " ".join(f"-c {name}={value}" for name, value in escaped.items())


def _alter(url: str, what: str, settings: Mapping[str, str]) -> None:
    with psycopg.connect(url, autocommit=True) as admin:
        for name, value in settings.items():
            # search_path is a list of names, and not one string.
            shown = value if name == "search_path" else f"'{value}'"
            admin.execute(f"ALTER {what} SET {name} = {shown}".encode())


def _name(url: str) -> str:
    return url.rpartition("/")[2]


@contextlib.contextmanager
def by_a_pooler(url: str, hostile: Mapping[str, str]) -> Iterator[str]:
    if pgbouncer.PROGRAM is None:
        pytest.skip("there is no pgbouncer here; install it")
    names = ("client_encoding", "datestyle", "timezone")
    session = " ".join(f"{name}='{hostile[name]}'" for name in names)
    first = "; ".join(f"SET {name} = ''{hostile[name]}''" for name in names[1:])
    port = urlsplit(url).port
    assert port is not None
    with pgbouncer.pooler(port, 4, f"{session} connect_query='{first}'") as pooler:
        yield pooler.url(_name(url))


WAYS: Sequence[Way] = (
    by_a_pooler,
    by_database,
    by_role,
    by_options_in_the_url,
    by_the_environment,
    by_a_service_file,
)


@pytest.mark.parametrize("way", WAYS)
async def test_every_call_has_the_same_result_wherever_the_settings_come_from(way: Way) -> None:
    with postgresql.fresh_database() as url, way(url, HOSTILE) as hostile:
        await _assert_every_call_has_the_same_result(hostile, listen_url=url)


@pytest.mark.parametrize("settings", OTHERS)
async def test_every_call_has_the_same_result_with_other_settings(
    settings: Mapping[str, str],
) -> None:
    with postgresql.fresh_database() as url, by_database(url, settings) as hostile:
        await _assert_every_call_has_the_same_result(hostile, listen_url=url)


@contextlib.contextmanager
def encoded(encoding: str) -> Iterator[str]:
    """Create a database in an encoding, return its address, and drop it at the end."""
    server, name = postgresql.shared_url(), f"encoded_{encoding.lower()}"
    with psycopg.connect(server, autocommit=True) as admin:
        admin.execute(
            f"CREATE DATABASE {name} TEMPLATE template0 LOCALE 'C' ENCODING '{encoding}'".encode()
        )
    try:
        yield f"{server.rpartition('/')[0]}/{name}"
    finally:
        with psycopg.connect(server, autocommit=True) as admin:
            admin.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII", "EUC_JP"])
def test_a_database_in_another_encoding_is_refused(encoding: str, refusal: Refusal) -> None:
    with encoded(encoding) as url:
        for command in (
            "serve",
            "worker --once",
            "migrate",
            "migrate --check",
            "keys list",
            "check",
        ):
            said = refusal(*command.split(), "--database-url", url)
            assert f"its encoding is {encoding}, and user ids need UTF8" in said
            assert "ENCODING 'UTF8'" in said


class Receiver:
    """Callbacks of a listener that must never become ready."""

    def up(self) -> None:
        raise AssertionError

    lost = up

    def changed(self, changes: Changes) -> None:
        raise AssertionError

    def returned(self, number: int) -> None:
        raise AssertionError


async def test_a_listener_in_another_encoding_is_never_up(caplog: pytest.LogCaptureFixture) -> None:
    with encoded("LATIN1") as url:
        running = asyncio.create_task(
            PostgresqlChannel(postgresql.shared_url(), url).run(Receiver())
        )
        async with asyncio.timeout(60):
            while "can't listen for changes: its encoding is LATIN1" not in caplog.text:
                await asyncio.sleep(0.01)
        running.cancel()


def test_tables_outside_the_search_path_are_named(refusal: Refusal) -> None:
    with migrated_postgresql() as url:
        hiding = f"{url}?options={quote('-c search_path=nowhere')}"
        for command in ("serve", "worker --once", "migrate --check"):
            said = refusal(*command.split(), "--database-url", hiding)
            assert "the schema public has such tables, but search_path does not name it" in said
            assert "SET search_path = public" in said


async def test_schemas_in_which_every_role_may_create_objects_are_named() -> None:
    with postgresql.fresh_database() as url:
        with psycopg.connect(url, autocommit=True) as admin:
            admin.execute("CREATE SCHEMA closed")
            admin.execute("GRANT CREATE ON SCHEMA public TO PUBLIC")
        database = Database.postgresql(f"{url}?options={quote('-c search_path=closed,public')}")
        try:
            condition = await read_condition(database)
        finally:
            await database.close()
    assert isinstance(condition, PostgresqlCondition)
    assert condition.open_schemas == "public"


async def _assert_every_call_has_the_same_result(url: str, listen_url: str) -> None:
    settings = load_settings(database_url=url, watch_database_url=listen_url, listen="127.0.0.1:0")
    database = Database.postgresql(url)
    try:
        await migrate(database)
        async with (
            serving(settings, ServeOptions(worker=False, insecure=True)) as served,
            AsyncSessionClient(served.address) as client,
            AsyncSessionClient(served.address, near_cache=True) as near,
            grpc.aio.insecure_channel(served.address) as channel,
        ):
            await _call(client, near, SessionAdminServiceStub(channel))
            await _expire(settings, database, client)
    finally:
        await database.close()


async def _call(
    client: AsyncSessionClient, near: AsyncSessionClient, admin: "SessionAdminServiceAsyncStub"
) -> None:
    await asyncio.gather(*(_call_for(user, client, near, admin) for user in USERS))
    await admin.EraseUser(pb.EraseUserRequest(user_id=USERS[0]))


async def _call_for(
    user: str,
    client: AsyncSessionClient,
    near: AsyncSessionClient,
    admin: "SessionAdminServiceAsyncStub",
) -> None:
    first, second, third, fourth = new = [await _sign_in(client, user) for _ in range(4)]
    await _read(client, user, first)
    listed = await client.list(first.token)
    assert {each.session_id for each in listed} == {each.session.session_id for each in new}
    assert {each.expire_time - each.create_time for each in listed} == {LIFETIME}
    await client.revoke(first.token, second.session.session_id)
    await client.sign_out(third.token)
    renewed = await client.reauthenticate(first.token)
    answers = [await client.validate(each.token) for each in (first, second, third, renewed)]
    assert [_outcome(each) for each in answers] == ["SUPERSEDED", "REVOKED", "SIGNED_OUT", user]
    history = await client.list(renewed.token, show_ended=True)
    assert [each.user_id for each in history] == [user] * 4
    assert isinstance(await near.validate(fourth.token), Session)
    await client.revoke_others(renewed.token)
    await _until_rejected(near, fourth.token)
    assert isinstance(await near.validate(renewed.token), Session)
    await admin.RevokeUserSessions(pb.RevokeUserSessionsRequest(user_id=user))
    await _until_rejected(near, renewed.token)


async def _sign_in(client: AsyncSessionClient, user: str) -> NewSession:
    return await client.create(
        user,
        lifetime=LIFETIME,
        idle_timeout=IDLE,
        attributes={"name": user},
        ip_address="2001:db8::7",
        user_agent=f"Mozilla/5.0 {user}",
    )


async def _read(client: AsyncSessionClient, user: str, new: NewSession) -> None:
    session = await client.validate(new.token)
    assert isinstance(session, Session)
    assert session.user_id == user
    assert session.attributes == {"name": user}
    assert session.ip_address == "2001:db8::7"
    assert session.create_time == new.session.create_time
    assert session.expire_time == session.create_time + LIFETIME
    assert session.idle_expire_time is not None
    assert session.idle_expire_time - session.last_active_time == IDLE


def _outcome(answer: Session | Rejection) -> str:
    return answer.user_id if isinstance(answer, Session) else answer.reason.name


async def _until_rejected(client: AsyncSessionClient, token: Token) -> None:
    async with asyncio.timeout(60):
        while isinstance(await client.validate(token), Session):
            await asyncio.sleep(0.01)


async def _expire(settings: Settings, database: Database, client: AsyncSessionClient) -> None:
    """Record the endings of overdue sessions, and check the user of each one."""
    new = await client.create(USERS[0])

    async def make_overdue(connection: AsyncConnection) -> None:
        await connection.execute(
            text(
                "UPDATE sessions SET expire_time = now() - interval '1 hour', "
                "check_time = now() - interval '1 hour' WHERE session_id = :id"
            ),
            {"id": UUID(new.session.session_id)},
        )

    await database.write(make_overdue)
    assert _outcome(await client.validate(new.token)) == "EXPIRED"
    for job in jobs(database, settings, SystemClock()):
        due = await job.count(10)
        assert await job(lambda _rows: None) == due
        assert due >= (job.name == "expire")
