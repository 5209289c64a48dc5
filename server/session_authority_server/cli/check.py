import json
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import datetime
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from session_authority_server.app.database import cannot_use, database_of
from session_authority_server.app.grpc_server import certificates
from session_authority_server.app.process import CannotStart
from session_authority_server.check.facts import Facts
from session_authority_server.check.gather import gather
from session_authority_server.check.nist import JUSTIFICATION
from session_authority_server.check.report import (
    REQUIREMENTS,
    Demand,
    JudgedRequirement,
    Report,
    Status,
    as_json,
    assess,
)
from session_authority_server.check.requirement import CheckWarning, Standard, Verdict
from session_authority_server.cli.shared import run, settings_of
from session_authority_server.config import CONFIG_FILE, ENV_PREFIX, Settings
from session_authority_server.domain.clock import SystemClock
from session_authority_server.domain.errors import StoreUnavailable
from session_authority_server.observability import logs
from session_authority_server.rpc.certificate_dates import validity_period

_VERDICTS = {Verdict.MET: "met", Verdict.NOT_MET: "NOT MET", Verdict.APP_DUTY: "app's duty"}


class CannotCheck(click.ClickException):
    """The check could not read the settings or the database."""

    exit_code = Status.NOT_CHECKED.value


@click.command()
@click.option("--listen", help="The address that servers listen on, as given to `serve`.")
@click.option("--database-url", help="The URL of the database with the sessions.")
@click.option(
    "--allow-plaintext", is_flag=True, help="Judge servers that are started with --allow-plaintext."
)
@click.option("--insecure", is_flag=True, help="Judge servers that are started with --insecure.")
@click.option(
    "--level",
    type=click.IntRange(1, 3),
    default=1,
    show_default=True,
    help="The required level of OWASP ASVS.",
)
@click.option(
    "--aal",
    type=click.IntRange(1, 3),
    default=1,
    show_default=True,
    help="The required authenticator assurance level of NIST SP 800-63B-4.",
)
@click.option(
    "--accept",
    "accepted",
    multiple=True,
    type=click.Choice([each.id for each in REQUIREMENTS]),
    metavar="ID",
    help="Don't count a requirement that you justify not meeting. Repeat the option for each.",
)
@click.option("--strict", is_flag=True, help="Exit with 1 for warnings too.")
@click.option(
    "--all", "show_all", is_flag=True, help="Print every requirement, not only those that fail."
)
@click.option("--json", "as_json_", is_flag=True, help="Print one JSON object, for programs.")
@click.pass_context
def check(
    context: click.Context,
    listen: str | None,
    database_url: str | None,
    allow_plaintext: bool,
    insecure: bool,
    level: int,
    aal: int,
    accepted: Sequence[str],
    strict: bool,
    show_all: bool,
    as_json_: bool,
) -> None:
    """Judge settings and database by OWASP ASVS 5.0, chapter 7, and NIST SP 800-63B-4; change nothing.

    Exits with 0 if each required item is met or the app's duty, with 1 if not, and with 2 if the check is not possible.
    """
    demand = Demand(
        asvs_level=level, assurance_level=aal, accepted=frozenset(accepted), strict=strict
    )
    try:
        settings = settings_of(context, listen=listen, database_url=database_url)
        # Silence the log, because the report or the error message names the problem.
        logs.configure("critical", settings.log_format)
        facts = run(
            _facts(
                settings,
                insecure=insecure,
                allow_plaintext=allow_plaintext,
                config_file=context.obj or CONFIG_FILE,
            )
        )
    except click.ClickException as error:
        raise CannotCheck(error.message) from None
    report = assess(facts, demand)
    if as_json_:
        click.echo(json.dumps(as_json(report, demand, settings.database), indent=2))
    else:
        _print(report, demand, settings, show_all=show_all)
    sys.exit(report.status)


async def _facts(
    settings: Settings, *, insecure: bool, allow_plaintext: bool, config_file: Path
) -> Facts:
    database = database_of(settings, read_only=True)
    try:
        return await gather(
            settings,
            database,
            SystemClock(),
            insecure=insecure,
            allow_plaintext=allow_plaintext,
            tls_fault=_tls_fault(settings),
            tls_dates=_tls_dates(settings),
            config_file=config_file,
        )
    except StoreUnavailable as error:
        raise cannot_use(settings, error) from None
    finally:
        await database.close()


def _tls_fault(settings: Settings) -> str:
    try:
        certificates(settings)
    except CannotStart as error:
        return str(error)
    return ""


def _tls_dates(settings: Settings) -> tuple[datetime, datetime] | None:
    if not settings.tls_certificate:
        return None
    return validity_period(Path(settings.tls_certificate), Path(settings.tls_key))


def _print(report: Report, demand: Demand, settings: Settings, *, show_all: bool) -> None:
    console = Console(highlight=False, markup=False)
    console.print(f"Sessions in {settings.database}, at {report.time:%Y-%m-%d %H:%M:%S} UTC")
    console.print(_outcome(report, demand))
    console.print(_counts(report, demand))
    failing = [each for each in report.judged if each.fails]
    if failing:
        console.print("\nNot met:", _requirements(failing, demand))
    if report.warnings:
        console.print("\nWarnings:", _warnings(report.warnings))
    if not show_all:
        console.print("\nFor every requirement, add --all.")
        return
    for standard in Standard:
        judged = [each for each in report.judged if each.requirement.standard is standard]
        console.print(f"\n{standard.value}:", _requirements(judged, demand))
    if any(each.finding.justified for each in report.judged):
        console.print(f"\nWhy 90 days: {JUSTIFICATION}")


def _requirements(judged: Sequence[JudgedRequirement], demand: Demand) -> Table:
    rows = []
    for each in judged:
        requirement, finding = each.requirement, each.finding
        lines = [
            f"{_verdict(each, demand)}, level {requirement.level}",
            requirement.text,
            f"{finding.why}." + (f" The app's duty: {finding.duty}." if finding.duty else ""),
            f"Setting: {ENV_PREFIX}{finding.setting.upper()}" if finding.setting else "",
        ]
        rows.append((requirement.id, "\n".join(filter(None, lines))))
    return _list(rows)


def _warnings(warnings: Sequence[CheckWarning]) -> Table:
    return _list(
        ("-", f"{each.about}: {each.why}. Remedy: {each.remedy} [{each.name}]") for each in warnings
    )


def _list(rows: Iterable[tuple[str, str]]) -> Table:
    """Return rows of a short name and a text. The text wraps at the width of the terminal."""
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 1, 0))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for row in rows:
        table.add_row(*row)
    return table


def _counts(report: Report, demand: Demand) -> str:
    """Return how many requirements have each verdict."""
    counts = Counter(_verdict(each, demand) for each in report.judged)
    shown = ", ".join(f"{count} {verdict}" for verdict, count in counts.most_common())
    return f"{len(report.judged)} requirements: {shown}."


def _verdict(judged: JudgedRequirement, demand: Demand) -> str:
    shown = _VERDICTS[judged.finding.verdict]
    if judged.finding.verdict is not Verdict.NOT_MET:
        return shown
    if judged.requirement.id in demand.accepted:
        return "not met, accepted"
    if judged.finding.justified:
        return "not met, justified"
    return shown if judged.is_required else "not met, not required"


def _outcome(report: Report, demand: Demand) -> str:
    failing = [each.requirement.id for each in report.judged if each.fails]
    count = len(report.warnings)
    warnings = "1 warning" if count == 1 else f"{count} warnings"
    asked = f"ASVS level {demand.asvs_level}, AAL{demand.assurance_level}"
    if report.status is Status.NOT_CHECKED:
        return f"{asked}: could not be checked; {warnings}."
    if failing:
        return f"{asked}: not met: {', '.join(failing)}; {warnings}."
    return f"{asked}: all that is required is met or the app's duty; {warnings}."
