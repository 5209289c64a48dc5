import json
import re
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

from session_authority_server.app.database import opened
from session_authority_server.app.outputs import auditing
from session_authority_server.cli.shared import run, settings_of
from session_authority_server.config import Settings
from session_authority_server.domain.api_key import LONGEST_LIFETIME, ApiKey, Permission
from session_authority_server.domain.clock import SystemClock
from session_authority_server.domain.errors import InvalidRequest
from session_authority_server.store.keys import SqlKeyStore
from session_authority_server.usecases.api_keys import (
    ApiKeys,
    KeyAlreadyEnded,
    KeyNotFound,
    TooManyKeys,
)

Command = TypeVar("Command", bound=Callable[..., None])
_UNIT_SECONDS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
_WIDE_COLUMNS = 200
_STANDARD_ERROR = 2


def _span(_context: click.Context, _parameter: click.Parameter, value: str | None) -> Any:
    if value is None:
        return None
    found = re.fullmatch(r"(\d{1,9})([smhd])", value)
    span = timedelta(seconds=int(found[1]) * _UNIT_SECONDS[found[2]]) if found else None
    if span is None or span > LONGEST_LIFETIME:
        raise click.BadParameter(
            f"give a number and s, m, h or d, such as 90d, of {LONGEST_LIFETIME.days}d at most"
        )
    return span


def _id(_context: click.Context, _parameter: click.Parameter, value: str) -> UUID:
    try:
        return UUID(value)
    except ValueError:
        # Not repeated: it may be the key itself.
        raise click.BadParameter("give a key's id, as `keys list` shows it, not the key") from None


_database_url = click.option("--database-url", help="Where sessions and keys are kept.")
_key_id = click.argument("key_id", callback=_id)
_expires_in = click.option(
    "--expires-in",
    callback=_span,
    help="How long the key is good, such as 90d; for ever unless given.",
)


@click.group()
def keys() -> None:
    """Make, list and end the API keys of programs that call the authority.

    Servers follow within a second.
    """


@keys.command()
@click.argument("name")
@click.option(
    "--permission",
    "permissions",
    type=click.Choice([each.value for each in Permission]),
    multiple=True,
    required=True,
    help="What the key permits; to be given once for each.",
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
    """Make a key for a program called NAME, and print it, this once."""
    granted = frozenset(map(Permission, permissions))

    async def work(api_keys: ApiKeys) -> None:
        _show_new(*await api_keys.create(name, granted, expires_in))

    _run(context, database_url, work)


@keys.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON array, for programs.")
@_database_url
@click.pass_context
def list_(context: click.Context, as_json: bool, database_url: str | None) -> None:
    """Show every key there is or was, never its secret."""

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
    help="How long the old key stays good beside the new one.",
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
    """Make a successor with the same name and permissions, and print it, this once.

    The old key expires after the overlap.
    """

    async def work(api_keys: ApiKeys) -> None:
        _show_new(*await api_keys.rotate(key_id, overlap, expires_in))
        click.echo(f"The old key {key_id} expires in {overlap}, or earlier if it was to.", err=True)

    _run(context, database_url, work)


@keys.command()
@_key_id
@click.option(
    "--in", "within", callback=_span, default="0s", help="After how long; at once unless given."
)
@_database_url
@click.pass_context
def expire(
    context: click.Context, key_id: UUID, within: timedelta, database_url: str | None
) -> None:
    """Have a key expire after a while; never later than it would have."""

    async def work(api_keys: ApiKeys) -> None:
        key = await api_keys.expire(key_id, within)
        click.echo(f"The key {key_id} ({key.name}) expires at {_time(key.expire_time)}.", err=True)

    _run(context, database_url, work)


@keys.command()
@_key_id
@_database_url
@click.pass_context
def revoke(context: click.Context, key_id: UUID, database_url: str | None) -> None:
    """Revoke a key: no server accepts it a second later. Its sessions live on."""

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
    # Where standard output is asked for, beside it: that is a new key's alone.
    async with auditing(settings, _STANDARD_ERROR) as audit, opened(settings) as database:
        yield ApiKeys(SqlKeyStore(database), SystemClock(), audit)


def _show_new(key: ApiKey, presented: str) -> None:
    """Print a key alone on standard output, for a pipe or a file, and all else beside it."""
    expires = (
        "does not expire" if key.expire_time is None else f"expires at {_time(key.expire_time)}"
    )
    click.echo(
        f"The key {key.key_id} ({key.name}) permits {_permissions(key)} and {expires}. "
        "It is shown this once:",
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
