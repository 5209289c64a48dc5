import json
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from typing import Any, TypeVar
from uuid import UUID

import click
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from session_authority_server.app.database import fenced, opened
from session_authority_server.app.outputs import auditing
from session_authority_server.cli.shared import run, settings_of
from session_authority_server.config import Settings
from session_authority_server.domain.api_key import LONGEST_LIFETIME, ApiKey, Permission
from session_authority_server.domain.clock import SystemClock
from session_authority_server.domain.duration import EXAMPLE, parse_duration
from session_authority_server.domain.errors import InvalidRequest
from session_authority_server.store.keys import SqlKeyStore
from session_authority_server.usecases.api_keys import (
    ApiKeys,
    KeyAlreadyEnded,
    KeyNotFound,
    TooManyKeys,
)

Command = TypeVar("Command", bound=Callable[..., None])
_WIDE_COLUMNS = 200
_STANDARD_ERROR = 2


def _span(_context: click.Context, _parameter: click.Parameter, value: str | None) -> Any:
    if value is None:
        return None
    span = parse_duration(value)
    if span is None or span > LONGEST_LIFETIME:
        raise click.BadParameter(f"give {EXAMPLE}; the maximum is {LONGEST_LIFETIME.days}d")
    return span


def _id(_context: click.Context, _parameter: click.Parameter, value: str) -> UUID:
    try:
        return UUID(value)
    except ValueError:
        # The message omits the value, since it may be a secret key.
        raise click.BadParameter("give the key's id from `keys list`, not the key itself") from None


_database_url = click.option(
    "--database-url", help="The URL of the database with the sessions and keys."
)
_key_id = click.argument("key_id", callback=_id)
_expires_in = click.option(
    "--expires-in",
    callback=_span,
    help="Time until the key expires, such as 90d. By default, it never expires.",
)


@click.group()
def keys() -> None:
    """Create, list, expire and revoke the API keys of programs that call the authority.

    Servers apply changes within a second.
    """


@keys.command()
@click.argument("name")
@click.option(
    "--permission",
    "permissions",
    type=click.Choice([each.value for each in Permission]),
    multiple=True,
    required=True,
    help="A permission of the key. Repeat the option for each.",
)
@_expires_in
@_database_url
@click.pass_context
def create(
    context: click.Context,
    name: str,
    permissions: Sequence[str],
    expires_in: timedelta | None,
    database_url: str | None,
) -> None:
    """Create a key for the program NAME, and print it. It can't be shown again."""
    granted = frozenset(map(Permission, permissions))

    async def work(api_keys: ApiKeys) -> None:
        _show_new(*await api_keys.create(name, granted, expires_in))

    _run(context, database_url, work)


@keys.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON array, for programs.")
@_database_url
@click.pass_context
def list_(context: click.Context, as_json: bool, database_url: str | None) -> None:
    """List all keys, including expired and revoked keys, without their secrets."""

    async def work(api_keys: ApiKeys) -> None:
        found, now = await api_keys.list(), SystemClock().now()
        if as_json:
            click.echo(json.dumps([_as_json(key, now) for key in found], indent=2))
        else:
            width = None if sys.stdout.isatty() else _WIDE_COLUMNS
            Console(highlight=False, markup=False, width=width).print(_table(found, now))

    _run(context, database_url, work)


@keys.command()
@_key_id
@click.option(
    "--overlap",
    default="24h",
    show_default=True,
    callback=_span,
    help="Time until the old key expires.",
)
@_expires_in
@_database_url
@click.pass_context
def rotate(
    context: click.Context,
    key_id: UUID,
    overlap: timedelta,
    expires_in: timedelta | None,
    database_url: str | None,
) -> None:
    """Create a key with the same name and permissions as KEY_ID, and print it.

    The new key can't be shown again. The old key expires after the overlap.
    """

    async def work(api_keys: ApiKeys) -> None:
        _show_new(*await api_keys.rotate(key_id, overlap, expires_in))
        click.echo(
            f"The old key {key_id} expires in {overlap}, or earlier if it had an earlier expiry.",
            err=True,
        )

    _run(context, database_url, work)


@keys.command()
@_key_id
@click.option(
    "--in",
    "within",
    callback=_span,
    default="0s",
    help="Time until the key expires. By default, it expires at once.",
)
@_database_url
@click.pass_context
def expire(
    context: click.Context, key_id: UUID, within: timedelta, database_url: str | None
) -> None:
    """Expire a key at once or after a time. This never extends the life of a key."""

    async def work(api_keys: ApiKeys) -> None:
        key = await api_keys.expire(key_id, within)
        click.echo(f"The key {key_id} ({key.name}) expires at {_time(key.expire_time)}.", err=True)

    _run(context, database_url, work)


@keys.command()
@_key_id
@_database_url
@click.pass_context
def revoke(context: click.Context, key_id: UUID, database_url: str | None) -> None:
    """Revoke a key. All servers refuse it within a second. Its sessions stay live."""

    async def work(api_keys: ApiKeys) -> None:
        key = await api_keys.revoke(key_id)
        click.echo(f"The key {key_id} ({key.name}) is revoked.", err=True)

    _run(context, database_url, work)


def _run(context: click.Context, database_url: str | None, work: Callable[[ApiKeys], Any]) -> None:
    settings = settings_of(context, database_url=database_url)

    async def in_database() -> None:
        async with _api_keys(settings) as api_keys:
            await work(api_keys)

    try:
        run(in_database())
    except (InvalidRequest, KeyNotFound, KeyAlreadyEnded, TooManyKeys) as error:
        raise click.ClickException(str(error)) from None


@asynccontextmanager
async def _api_keys(settings: Settings) -> AsyncIterator[ApiKeys]:
    # Standard output carries only the new key, so an audit log to standard output goes to standard error.
    async with (
        auditing(settings, _STANDARD_ERROR) as audit,
        opened(settings) as database,
        fenced(settings, database),
    ):
        yield ApiKeys(SqlKeyStore(database), SystemClock(), audit)


def _show_new(key: ApiKey, presented: str) -> None:
    """Print a key on standard output, for a pipe or a file, and its description on standard error."""
    expires = (
        "does not expire" if key.expire_time is None else f"expires at {_time(key.expire_time)}"
    )
    click.echo(
        f"The key {key.key_id} ({key.name}) permits {_permissions(key)} and {expires}. "
        "It can't be shown again:",
        err=True,
    )
    click.echo(presented)


def _permissions(key: ApiKey) -> str:
    return ", ".join(each.value for each in Permission if each in key.permissions)


def _time(time: datetime | None) -> str:
    return "-" if time is None else f"{time:%Y-%m-%d %H:%M:%S} UTC"


def _table(found: Sequence[ApiKey], now: datetime) -> Table:
    table = Table(box=SIMPLE, pad_edge=False)
    for heading in ("key id", "name", "permissions", "state", "created", "expires", "last used"):
        table.add_column(heading, no_wrap=heading == "key id")
    for key in found:
        table.add_row(
            str(key.key_id),
            key.name,
            _permissions(key),
            key.state(now).value,
            _time(key.create_time),
            _time(key.expire_time),
            _time(key.last_used_time),
        )
    return table


def _as_json(key: ApiKey, now: datetime) -> dict[str, object]:
    def iso(time: datetime | None) -> str | None:
        return None if time is None else time.isoformat()

    return {
        "key_id": str(key.key_id),
        "name": key.name,
        "permissions": [each.value for each in Permission if each in key.permissions],
        "state": key.state(now).value,
        "create_time": iso(key.create_time),
        "expire_time": iso(key.expire_time),
        "revoke_time": iso(key.revoke_time),
        "last_used_time": iso(key.last_used_time),
    }
