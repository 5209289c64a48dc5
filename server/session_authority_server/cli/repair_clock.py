import click

from session_authority_server.app.clock_skew import ClockSkew
from session_authority_server.app.database import opened
from session_authority_server.cli.shared import run, settings_of
from session_authority_server.config import Settings
from session_authority_server.store.clock_times import repair


@click.command("repair-clock")
@click.option("--database-url", help="The URL of the database with the sessions.")
@click.option("--yes", is_flag=True, help="Don't ask whether the clock is right.")
@click.pass_context
def repair_clock(context: click.Context, database_url: str | None, yes: bool) -> None:
    """Correct stored times after you have corrected a wrong clock.

    Moves stored times in the future to the present. Reopens sessions whose lifetime or idle timeout ended too early.
    Resumes the worker if it is paused. Sessions that users or operators ended stay ended. Deleted sessions can't be
    restored.
    """
    run(_repair(settings_of(context, database_url=database_url), yes=yes))


async def _repair(settings: Settings, *, yes: bool) -> None:
    async with opened(settings) as database:
        skew = ClockSkew(database)
        await skew.settle()
        await skew.require_right_clock()
        if not yes:
            now = skew.clock.now()
            click.confirm(f"It is {now:%Y-%m-%d %H:%M:%S} UTC. Is that right?", abort=True)
        done = await repair(database, skew.clock.now())
    click.echo(
        f"sessions moved to the present: {done.sessions}; sweep times moved to the present: {done.sweeps}; "
        f"reopened sessions: {done.reopened}"
    )
