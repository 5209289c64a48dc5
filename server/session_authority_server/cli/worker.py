import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from session_authority_server.app.clock_skew import ClockSkew
from session_authority_server.app.database import opened, stopping_if_displaced
from session_authority_server.app.outputs import auditing, metrics
from session_authority_server.app.process import catch_signals, notify
from session_authority_server.app.reporting import reporting
from session_authority_server.app.running import log_start, read_log_level, reload
from session_authority_server.app.upkeep import jobs, right_clock, working
from session_authority_server.cli.shared import run, settings_of
from session_authority_server.config import Settings
from session_authority_server.ports.store import Audit
from session_authority_server.store.database import Database

_COUNT_LIMIT = 1_000_000
_PLAIN_EVERY_ROWS = 50_000


@click.command()
@click.option("--database-url", help="The URL of the database with the sessions.")
@click.option("--once", is_flag=True, help="Do all due work, then exit.")
@click.option("--dry-run", is_flag=True, help="With --once: only count the due rows.")
@click.pass_context
def worker(context: click.Context, database_url: str | None, once: bool, dry_run: bool) -> None:
    """Record the endings of sessions and delete old history, on a schedule or once."""
    if dry_run and not once:
        raise click.UsageError("--dry-run needs --once")
    settings = settings_of(context, database_url=database_url)
    if once:  # A closed terminal ends it.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})
    if dry_run:
        run(_count(settings))
    elif once:
        run(_once(settings))
    else:
        run(_run_forever(settings, context.obj))


async def _run_forever(settings: Settings, config_file: Path | None) -> None:
    async with (
        auditing(settings) as audit,
        opened(settings) as database,
        metrics(settings, database),
        stopping_if_displaced(database),
    ):
        await _work(settings, database, audit, config_file)
    click.echo("session-authority: stopped")


async def _work(
    settings: Settings, database: Database, audit: Audit, config_file: Path | None
) -> None:
    skew = await _settled(database)
    right = right_clock(database, skew)
    async with (
        reporting(database, settings.policy, skew.clock) as reporter,
        working(database, settings, skew.clock, audit, right, reporter),
    ):
        await log_start("worker", settings, database)
        signalled = catch_signals(lambda: reload(read_log_level(config_file)))
        click.echo(
            f"session-authority: worker on {settings.database}, "
            f"every {settings.worker_interval_seconds:g} s"
        )
        notify("READY=1")
        await signalled.wait()
        notify("STOPPING=1")


async def _once(settings: Settings) -> None:
    async with auditing(settings) as audit, opened(settings) as database:
        skew = await _settled(database)
        right = right_clock(database, skew)
        async with reporting(database, settings.policy, skew.clock) as reporter:
            for job in jobs(database, settings, skew.clock, audit, reporter):
                if right is not None:
                    await right.require()
                due = await job.count(_COUNT_LIMIT)
                with _reporting(job.name, due) as report:
                    rows = await job(report)
                click.echo(f"{job.name}: {rows} rows")


async def _count(settings: Settings) -> None:
    async with opened(settings) as database:
        skew = await _settled(database)
        for job in jobs(database, settings, skew.clock):
            due = await job.count(_COUNT_LIMIT)
            more = " or more" if due == _COUNT_LIMIT else ""
            click.echo(f"{job.name}: {due}{more} rows due; nothing was changed")


async def _settled(database: Database) -> ClockSkew:
    skew = ClockSkew(database)
    await skew.settle()
    return skew


@contextmanager
def _reporting(name: str, due: int) -> Iterator[Callable[[int], None]]:
    """Show progress as a bar on a terminal, and as occasional lines elsewhere."""
    if not sys.stdout.isatty():
        done = 0

        def line(rows: int) -> None:
            nonlocal done
            before, done = done, done + rows
            if before // _PLAIN_EVERY_ROWS != done // _PLAIN_EVERY_ROWS:
                click.echo(f"{name}: {done} of {due}")

        yield line
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console()) as bar:
        task = bar.add_task(name, total=due)

        def advance(rows: int) -> None:
            bar.advance(task, rows)

        yield advance
