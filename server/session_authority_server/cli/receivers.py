import asyncio
import json
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

import click
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from session_authority_server.app.database import fenced, opened
from session_authority_server.app.event_key import event_key
from session_authority_server.app.outputs import auditing
from session_authority_server.app.process import CannotStart
from session_authority_server.cli.shared import run, settings_of
from session_authority_server.config import Settings
from session_authority_server.domain.clock import SystemClock
from session_authority_server.domain.duration import EXAMPLE, parse_duration
from session_authority_server.domain.errors import InvalidRequest
from session_authority_server.domain.receiver import WANTABLE, EventType, Receiver, ReceiverState
from session_authority_server.domain.webhook import ROTATION_OVERLAP, shown_key, signing_key
from session_authority_server.store.outbox import SqlOutbox
from session_authority_server.store.receivers import SqlReceiverStore
from session_authority_server.usecases.receivers import (
    BACKLOG_LIMIT,
    Listed,
    ManagedByItself,
    NameTaken,
    NotActive,
    ReceiverNotFound,
    Receivers,
    RotatedMeanwhile,
    TooManyReceivers,
)

TEST_SECONDS = 15.0
_LOOK_SECONDS = 0.2
_WIDE_COLUMNS = 200
_STANDARD_ERROR = 2
_REFUSALS = (
    InvalidRequest,
    ManagedByItself,
    NameTaken,
    NotActive,
    ReceiverNotFound,
    RotatedMeanwhile,
    TooManyReceivers,
)
_TYPES = [each.value for each in EventType if each in WANTABLE]


def _span(_context: click.Context, _parameter: click.Parameter, value: str) -> timedelta:
    span = parse_duration(value)
    if span is None:
        raise click.BadParameter(f"give {EXAMPLE}")
    return span


_database_url = click.option(
    "--database-url", help="The URL of the database with the sessions and receivers."
)
_name = click.argument("name")


@click.group()
def receivers() -> None:
    """Add, list, test and remove the receivers of events.

    Workers deliver events to receivers by signed HTTP requests.
    """


@receivers.command()
@_name
@click.argument("url")
@click.option(
    "--event",
    "types",
    type=click.Choice(_TYPES),
    multiple=True,
    help="A type of event. Repeat the option for each. By default, all types.",
)
@_database_url
@click.pass_context
def add(
    context: click.Context, name: str, url: str, types: Sequence[str], database_url: str | None
) -> None:
    """Add a receiver NAME that gets events at URL, and print its secret.

    The secret verifies the signatures of events. Give it to the receiver.
    """
    settings = settings_of(context, database_url=database_url)
    key = _event_key(settings)
    wanted = frozenset(map(EventType, types)) or WANTABLE

    async def work(found: Receivers) -> None:
        receiver, start = await found.add(name, url, wanted)
        click.echo(f"The receiver {name} gets events from {_time(start)} on. Its secret:", err=True)
        click.echo(_secret(key, receiver))

    _run(settings, work)


@receivers.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON array, for programs.")
@_database_url
@click.pass_context
def list_(context: click.Context, as_json: bool, database_url: str | None) -> None:
    """List all receivers, with their states, the events that wait, and the latest problem."""

    async def work(found: Receivers) -> None:
        listed = await found.list()
        if as_json:
            click.echo(json.dumps([_as_json(each) for each in listed], indent=2))
        else:
            width = None if sys.stdout.isatty() else _WIDE_COLUMNS
            Console(highlight=False, markup=False, width=width).print(_table(listed))

    _run(settings_of(context, database_url=database_url), work)


@receivers.command()
@_name
@_database_url
@click.pass_context
def test(context: click.Context, name: str, database_url: str | None) -> None:
    """Send a test event to the receiver NAME, and wait for the outcome."""

    async def work(found: Receivers) -> None:
        sequence = await found.send_test(name)
        try:
            async with asyncio.timeout(TEST_SECONDS):
                problem = await _outcome(found, sequence)
        except TimeoutError:
            problem = (
                f"nothing tried it within {TEST_SECONDS:.0f} s; run a worker that has SESSION_AUTHORITY_EVENT_KEY. "
                "A receiver that accepts nothing gets one event a minute: see `session-authority receivers list`"
            )
        if problem:
            raise click.ClickException(f"the test event was not delivered: {problem}")
        click.echo(f"The receiver {name} accepted the test event.", err=True)

    _run(settings_of(context, database_url=database_url), work)


async def _outcome(found: Receivers, sequence: int) -> str:
    """Wait for the first attempt to deliver a test event. Return its problem; empty if it was delivered."""
    while True:
        outcome = await found.outcome_of_test(sequence)
        if outcome is None:
            return "the receiver was removed"
        if outcome.delivered:
            return ""
        if outcome.attempts:
            return outcome.problem
        await asyncio.sleep(_LOOK_SECONDS)


@receivers.command()
@_name
@_database_url
@click.pass_context
def pause(context: click.Context, name: str, database_url: str | None) -> None:
    """Stop the delivery to the receiver NAME. Its events wait."""

    async def work(found: Receivers) -> None:
        await found.pause(name)
        click.echo(f"The receiver {name} is paused. Its events wait.", err=True)

    _run(settings_of(context, database_url=database_url), work)


@receivers.command()
@_name
@_database_url
@click.pass_context
def resume(context: click.Context, name: str, database_url: str | None) -> None:
    """Deliver the events of a paused or parked receiver NAME again."""

    async def work(found: Receivers) -> None:
        await found.resume(name)
        click.echo(f"The receiver {name} gets its events again.", err=True)

    _run(settings_of(context, database_url=database_url), work)


@receivers.command()
@_name
@click.option(
    "--since",
    default="3d",
    show_default=True,
    callback=_span,
    help="How far back. Delivered events are kept for 3 days.",
)
@_database_url
@click.pass_context
def replay(context: click.Context, name: str, since: timedelta, database_url: str | None) -> None:
    """Deliver events to the receiver NAME again that were already delivered, in their order.

    The events keep their ids. The receiver is paused until all of them wait.
    """

    async def work(found: Receivers) -> None:
        count = await found.replay(name, SystemClock().now() - since)
        click.echo(f"{count} events will be delivered to {name} again.", err=True)

    _run(settings_of(context, database_url=database_url), work)


@receivers.command()
@_name
@_database_url
@click.pass_context
def rotate(context: click.Context, name: str, database_url: str | None) -> None:
    """Replace the secret of the receiver NAME, and print the new one.

    For 24 hours, events are signed with both secrets.
    """
    settings = settings_of(context, database_url=database_url)
    key = _event_key(settings)

    async def work(found: Receivers) -> None:
        receiver = await found.rotate(name)
        assert receiver.rotate_time is not None
        end = receiver.rotate_time + ROTATION_OVERLAP
        click.echo(
            f"Events for {name} are also signed with the old secret until {_time(end)}. "
            "The new secret:",
            err=True,
        )
        click.echo(_secret(key, receiver))

    _run(settings, work)


@receivers.command()
@_name
@_database_url
@click.pass_context
def remove(context: click.Context, name: str, database_url: str | None) -> None:
    """Remove the receiver NAME and its events."""

    async def work(found: Receivers) -> None:
        await found.remove(name)
        click.echo(f"The receiver {name} is removed.", err=True)

    _run(settings_of(context, database_url=database_url), work)


def _run(settings: Settings, work: Callable[[Receivers], Any]) -> None:
    async def in_database() -> None:
        async with _receivers(settings) as found:
            await work(found)

    try:
        run(in_database())
    except _REFUSALS as error:
        raise click.ClickException(str(error)) from None


@asynccontextmanager
async def _receivers(settings: Settings) -> AsyncIterator[Receivers]:
    # Standard output carries only the secret, so an audit log to standard output goes to standard error.
    async with (
        auditing(settings, _STANDARD_ERROR) as audit,
        opened(settings) as database,
        fenced(settings, database),
    ):
        yield Receivers(SqlReceiverStore(database), SqlOutbox(database), SystemClock(), audit)


def _event_key(settings: Settings) -> bytes:
    try:
        key = event_key(settings, make=True)
    except CannotStart as error:
        raise click.ClickException(str(error)) from None
    if key is None:
        raise click.ClickException(
            "the secrets of receivers need a key; set SESSION_AUTHORITY_EVENT_KEY for this command and all workers, "
            "for example to the output of: openssl rand -base64 32"
        )
    return key


def _secret(key: bytes, receiver: Receiver) -> str:
    return shown_key(signing_key(key, receiver.receiver_id, receiver.generation))


def _time(time: datetime | None) -> str:
    return "-" if time is None else f"{time:%Y-%m-%d %H:%M:%S} UTC"


def _origin(url: str) -> str:
    """Return a URL without its path, which may be a secret."""
    if not url:
        return "polled"
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}/…"


def _count(listed: Listed) -> str:
    pending = listed.backlog.pending
    return f"{pending:,}" + (" or more" if pending >= BACKLOG_LIMIT else "")


def _table(found: Sequence[Listed]) -> Table:
    table = Table(box=SIMPLE, pad_edge=False)
    for heading in (
        "name",
        "url",
        "events",
        "state",
        "waiting",
        "oldest",
        "dropped",
        "last success",
        "last failure",
        "problem",
    ):
        table.add_column(heading, no_wrap=heading == "name")
    for each in found:
        receiver = each.receiver
        every = receiver.event_types == WANTABLE
        table.add_row(
            receiver.name,
            _origin(receiver.url),
            "all" if every else ", ".join(sorted(kind.value for kind in receiver.event_types)),
            receiver.state.value,
            _count(each),
            _time(each.backlog.oldest),
            f"{receiver.dropped:,}",
            _time(receiver.last_success_time),
            _time(receiver.last_failure_time),
            receiver.problem if receiver.state is ReceiverState.PARKED or _is_failing(each) else "",
        )
    return table


def _is_failing(listed: Listed) -> bool:
    receiver = listed.receiver
    failed, succeeded = receiver.last_failure_time, receiver.last_success_time
    return failed is not None and (succeeded is None or failed > succeeded)


def _as_json(listed: Listed) -> dict[str, object]:
    receiver, backlog = listed

    def iso(time: datetime | None) -> str | None:
        return None if time is None else time.isoformat()

    return {
        "name": receiver.name,
        "origin": _origin(receiver.url).removesuffix("/…"),
        "events": sorted(each.value for each in receiver.event_types),
        "state": receiver.state.value,
        "create_time": iso(receiver.create_time),
        "rotate_time": iso(receiver.rotate_time),
        "waiting": backlog.pending,
        "oldest_waiting_time": iso(backlog.oldest),
        "dropped": receiver.dropped,
        "last_success_time": iso(receiver.last_success_time),
        "last_failure_time": iso(receiver.last_failure_time),
        "problem": receiver.problem,
    }
