from collections.abc import Sequence
from pathlib import Path

import click

from session_authority_server.app.clock_skew import ClockSkew
from session_authority_server.app.database import fenced, opened
from session_authority_server.app.outputs import auditing
from session_authority_server.app.reporting import reporter
from session_authority_server.app.upkeep import erases_at_end
from session_authority_server.app.wiring import usecase_context
from session_authority_server.audit.reading import AuditLogFiles
from session_authority_server.cli.shared import run, settings_of
from session_authority_server.config import Settings
from session_authority_server.domain.event import FenceChoice, FenceResolved
from session_authority_server.ports.store import Audit
from session_authority_server.store.database import Database
from session_authority_server.store.keys import SqlKeyStore
from session_authority_server.store.lost_endings import read_recorded, resolve
from session_authority_server.store.sessions import SqlSessionStore
from session_authority_server.usecases.operator_revoke import revoke_all_sessions
from session_authority_server.usecases.replay import replay

_STANDARD_ERROR = 2
_END_ALL_REASON = "The database went back in time."
_CHOICES = """Servers answer no call until you choose:
  session-authority fence --replay AUDIT_LOG   end again what the audit log names as ended
  session-authority fence --end-all            end every session
  session-authority fence --accept             end none: ended sessions may be live again"""


@click.command()
@click.option(
    "--replay",
    "logs",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    multiple=True,
    help="End what this audit log names as ended. Repeat the option for rotated files, the oldest first.",
)
@click.option("--end-all", is_flag=True, help="End all sessions of all users.")
@click.option("--accept", is_flag=True, help="End no session. Lost endings stay lost.")
@click.option(
    "--yes", is_flag=True, help="With --end-all and --accept: don't ask for confirmation."
)
@click.option("--database-url", help="The URL of the database with the sessions.")
@click.pass_context
def fence(
    context: click.Context,
    logs: Sequence[Path],
    end_all: bool,
    accept: bool,
    yes: bool,
    database_url: str | None,
) -> None:
    """Show whether the database lost acknowledged endings, and deal with the loss.

    Without an option, shows the state, with exit status 1 if endings are lost. Servers serve again within seconds
    after the loss is resolved, without a restart.
    """
    if bool(logs) + end_all + accept > 1:
        raise click.UsageError("give only one of --replay, --end-all and --accept")
    settings = settings_of(context, database_url=database_url)
    if end_all and not yes:
        click.confirm("This signs all users out on all devices. Continue?", abort=True)
    if accept and not yes:
        click.confirm("Sessions that had ended may be live again. Continue?", abort=True)
    if end_all:
        choice: FenceChoice | None = FenceChoice.END_ALL
    elif accept:
        choice = FenceChoice.ACCEPT
    else:
        choice = FenceChoice.REPLAY if logs else None
    if not run(_fence(settings, choice, logs)):
        context.exit(1)


async def _fence(settings: Settings, choice: FenceChoice | None, logs: Sequence[Path]) -> bool:
    """Resolve lost endings as chosen, or show the state if `choice` is None. Return whether no loss remains."""
    async with (
        auditing(settings, _STANDARD_ERROR) as audit,
        opened(settings) as database,
        fenced(settings, database),
    ):
        recorded = await read_recorded(database)
        if choice is None:
            if recorded is None:
                click.echo(
                    "The database has every acknowledged ending that a server or this machine knows of."
                )
                return True
            click.echo(
                f"Acknowledged endings are missing from the database: at least {len(recorded.lost)}. A server noticed "
                f"it at {recorded.noticed_time:%Y-%m-%d %H:%M:%S} UTC. A backup was restored, a standby took over, or "
                "another deployment uses the same state directory."
            )
            click.echo(_CHOICES)
            return False
        skew = ClockSkew(database)
        await skew.settle()
        await skew.require_right_clock()
        if choice is FenceChoice.REPLAY and not await _replay(
            settings, database, skew, audit, logs
        ):
            return False
        if choice is FenceChoice.END_ALL:
            telling = reporter(settings.policy, skew.clock)
            store = SqlSessionStore(database, reporter=telling)
            context = usecase_context(store, skew.clock, settings.policy, audit)
            await revoke_all_sessions(context, _END_ALL_REASON)
            click.echo(
                "Ended every session. Revoked API keys may be valid again: see `session-authority keys list`."
            )
        lost = recorded.lost if recorded is not None else frozenset()
        await resolve(database, lost)
        audit.record(FenceResolved(choice, len(lost), skew.clock.now()))
        click.echo(f"Resolved. Lost endings: {len(lost)}. Servers serve again within seconds.")
        return True


async def _replay(
    settings: Settings, database: Database, skew: ClockSkew, audit: Audit, logs: Sequence[Path]
) -> bool:
    """Replay audit logs. Return whether they are complete."""
    store = SqlSessionStore(
        database,
        erases_at_end=erases_at_end(settings.policy),
        audit=audit,
        reporter=reporter(settings.policy, skew.clock),
    )
    context = usecase_context(store, skew.clock, settings.policy, audit)
    files = AuditLogFiles(logs)
    try:
        done = await replay(context, SqlKeyStore(database), files.events())
    except OSError as error:
        raise click.ClickException(f"{error.filename} can't be read: {error.strerror}") from None
    if not files.count:
        click.echo(
            "The audit log has no event. Give the log as the server wrote it, one event per line that begins with {: "
            "without prefixes (journalctl --output cat), and not inside other JSON.",
            err=True,
        )
        return False
    click.echo(
        f"Replayed. Ended sessions: {done.sessions}; repeated sweeps: {done.sweeps}; revoked API keys: {done.keys}."
    )
    if files.is_complete:
        return True
    click.echo(
        f"The audit log lacks events. Dropped events: {files.dropped}; damaged lines: {len(files.cut)}. Sessions "
        "that ended in these events may be live. Choose --end-all or --accept.",
        err=True,
    )
    return False
