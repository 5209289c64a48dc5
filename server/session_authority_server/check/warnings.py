"""Warnings about an installation that no standard's list names."""

from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta

from session_authority_server.check.database_condition import PostgresqlCondition, SqliteCondition
from session_authority_server.check.facts import Facts
from session_authority_server.check.key_warnings import (
    EXPIRES_SOON,
    keys_are_unused_or_too_powerful,
)
from session_authority_server.check.requirement import CheckWarning, span
from session_authority_server.domain.clock import TOLERATED_SKEW
from session_authority_server.domain.privacy import EraseAddresses, KeepAddresses, KeepUserAgents

# Which part of a certificate's time is its last, if that is less.
_LAST_PART = 0.25
# How long what is due may wait for the worker: so many of its intervals, and at least so long.
_BACKLOG_INTERVALS = 10
_LEAST_BACKLOG = timedelta(minutes=10)
# How far ahead there must be partitions. The worker makes them for a month.
_PARTITIONS_AHEAD = timedelta(days=14)
_LONG_HISTORY = timedelta(days=90)
_SHORT_HISTORY = timedelta(days=1)
_WAITS_FOR_DISK = frozenset(("on", "remote_apply"))


def commits_are_not_durable(facts: Facts) -> Iterator[CheckWarning]:
    """Warn of a database that does not keep what it answered."""
    for reason in facts.forgets():
        remedy = (
            "turn it on, for the authority's role and database at least"
            if isinstance(facts.condition, PostgresqlCondition)
            else "keep it on a disk of this machine"
        )
        yield CheckWarning(
            "not-durable",
            "database",
            f"{reason}: sessions that were created or ended may be otherwise after a crash",
            remedy,
        )
    match facts.condition:
        case SqliteCondition(journal_mode=mode) if mode != "wal":
            yield CheckWarning(
                "journal-mode",
                "database",
                f"the file's journal mode is {mode}: no server has opened it yet, or another program changed it",
                "start a server on it; it sets the mode to wal",
            )


def failover_loses_commits(facts: Facts) -> Iterator[CheckWarning]:
    """Warn of a PostgreSQL whose standbys may lack what was answered."""
    condition = facts.condition
    if not isinstance(condition, PostgresqlCondition):
        return
    remedy = "name standbys that commits wait for in synchronous_standby_names"
    if condition.standbys == 0:
        yield CheckWarning(
            "no-standby",
            "database",
            "no standby follows it: what was answered is lost with its disk",
            "add a standby, and " + remedy,
        )
    elif not condition.waits_for_standbys or condition.asynchronous_standbys:
        yield CheckWarning(
            "asynchronous-standby",
            "database",
            f"of {condition.standbys} standbys, commits wait for "
            + ("none" if not condition.waits_for_standbys else "some only")
            + ": if another takes over, ended sessions may be live again",
            remedy + ", and let no other take over",
        )
    if (
        condition.waits_for_standbys
        and condition.synchronous_commit not in _WAITS_FOR_DISK
        and condition.synchronous_commit != "off"  # which is told as worse
    ):
        yield CheckWarning(
            "weak-commit",
            "database",
            f"synchronous_commit is {condition.synchronous_commit}: an answer doesn't wait for a standby's disk",
            "set it to on, for the authority's role and database at least",
        )


def clocks_differ(facts: Facts) -> Iterator[CheckWarning]:
    """Warn of a clock that is not the database's."""
    if abs(facts.clock_skew) >= TOLERATED_SKEW:
        yield CheckWarning(
            "clock-skew",
            "clock",
            f"this machine's clock is {facts.clock_skew.total_seconds():.1f} s ahead of the database's: servers here "
            "refuse every call, and workers do nothing",
            "keep both by NTP",
        )


def times_lie_in_the_future(facts: Facts) -> Iterator[CheckWarning]:
    """Warn of stored times that a wrong clock has left behind."""
    latest = None if facts.contents is None else facts.contents.latest_time
    ahead = timedelta(0) if latest is None else latest - (facts.now - facts.clock_skew)
    if ahead > 2 * TOLERATED_SKEW:
        yield CheckWarning(
            "future-times",
            "clock",
            f"the database holds times up to {latest:%Y-%m-%d %H:%M:%S} UTC, which lies in the future: a clock was "
            "ahead, or this one is behind",
            "set the clock by NTP, then run: session-authority repair-clock",
        )


def traffic_is_in_plaintext(facts: Facts) -> Iterator[CheckWarning]:
    """Warn of what travels in clear text."""
    exposure = facts.exposure
    if not facts.is_encrypted:
        yield CheckWarning(
            "plaintext-listener",
            exposure.listen,
            "other machines can get there, and calls are not encrypted"
            + (
                " by the server"
                if exposure.allow_plaintext
                else ""
                if exposure.insecure
                else "; `serve` refuses to start"
            ),
            "set SESSION_AUTHORITY_TLS_CERTIFICATE and SESSION_AUTHORITY_TLS_KEY, unless a mesh encrypts",
        )
    if exposure.metrics_listen and not exposure.metrics_is_loopback:
        yield CheckWarning(
            "plaintext-metrics",
            exposure.metrics_listen,
            "metrics are served over plain HTTP, to whoever gets there",
            "listen where your collector alone can reach",
        )
    match facts.condition:
        case PostgresqlCondition(encrypted=False, is_local=False):
            yield CheckWarning(
                "plaintext-database",
                "database",
                "the connection to it leaves this machine, and is not encrypted",
                "add ?sslmode=verify-full to SESSION_AUTHORITY_DATABASE_URL",
            )
        case PostgresqlCondition(verified=False, is_local=False):
            yield _unverified("SESSION_AUTHORITY_DATABASE_URL")
    if not facts.watch_is_verified:
        yield _unverified("SESSION_AUTHORITY_WATCH_DATABASE_URL")


def _unverified(setting: str) -> CheckWarning:
    return CheckWarning(
        "unverified-database",
        setting,
        "the connection to it leaves this machine, and the database need not prove who it is: whoever is in between "
        "can read along and answer in its place",
        f"add ?sslmode=verify-full to {setting}, and sslrootcert for an authority of your own",
    )


def certificate_expires(facts: Facts) -> Iterator[CheckWarning]:
    """Warn of a certificate that no client accepts now, or soon."""
    if facts.exposure.tls_dates is None:
        return
    begin, end = facts.exposure.tls_dates
    remedy = "replace the certificate and its key; servers take the new ones up by themselves"
    if not begin <= facts.now <= end:
        yield CheckWarning(
            "certificate-not-valid",
            "SESSION_AUTHORITY_TLS_CERTIFICATE",
            f"it holds from {begin:%Y-%m-%d %H:%M} to {end:%Y-%m-%d %H:%M} UTC, which is not now",
            remedy,
        )
    # One that lives for days alone is replaced days before its end.
    elif end - facts.now <= min(EXPIRES_SOON, (end - begin) * _LAST_PART):
        yield CheckWarning(
            "certificate-expires-soon",
            "SESSION_AUTHORITY_TLS_CERTIFICATE",
            f"it expires at {end:%Y-%m-%d %H:%M} UTC",
            remedy,
        )


def api_keys_are_off(facts: Facts) -> Iterator[CheckWarning]:
    """Warn of a server without API keys."""
    if facts.exposure.insecure:
        yield CheckWarning(
            "insecure",
            "--insecure",
            "no API key is asked for: whoever gets there may do everything",
            "serve without --insecure",
        )


def upkeep_is_behind(facts: Facts) -> Iterator[CheckWarning]:
    """Warn of what should have been done by the worker."""
    if facts.contents is None:
        return
    patience = max(_LEAST_BACKLOG, _BACKLOG_INTERVALS * facts.worker_interval)
    backlog = facts.contents.backlog
    for what, since in (
        ("sessions are overdue", facts.contents.overdue_since),
        ("a sweep is not recorded", backlog.sweep_time),
        ("an erasure is not complete", backlog.erase_time),
    ):
        if since is not None and facts.now - since >= patience:
            yield CheckWarning(
                "backlog",
                "worker",
                f"{what} since {since:%Y-%m-%d %H:%M:%S} UTC; no ended session is accepted for that",
                "see to it that a worker runs: in `serve` without --no-worker, or `session-authority worker`",
            )
    until = facts.contents.sign_ins_until
    if until is not None and until - facts.now <= _PARTITIONS_AHEAD:
        yield CheckWarning(
            "partitions-missing",
            "database",
            f"from {until:%Y-%m-%d} on there is no partition for sign-ins, which will fail",
            "run: session-authority worker --once",
        )


def schema_differs(facts: Facts) -> Iterator[CheckWarning]:
    """Warn of a schema that is not this program's."""
    version = facts.schema
    if not version.serves:
        yield CheckWarning(
            "schema",
            "database",
            f"its schema is {version.current or 'missing'}, and this program works with {version.wanted}; "
            "its keys and its worker were not looked at",
            version.remedy,
        )
    elif not version.is_current:
        yield CheckWarning(
            "schema-newer",
            "database",
            f"its schema is {version.current}, newer than this program's {version.wanted}, which it still serves",
            "bring this program up to date",
        )


def files_are_readable_by_others(facts: Facts) -> Iterator[CheckWarning]:
    """Warn of files that others can read."""
    for file in facts.files:
        if file.mode & 0o007:
            yield CheckWarning(
                "open-file",
                str(file.path),
                f"it holds {file.holds}, and everybody on this machine can get at it (mode {file.mode:04o})",
                "chmod o= it",
            )


def search_path_is_unsafe(facts: Facts) -> Iterator[CheckWarning]:
    """Warn of schemas in which others may create operators and functions that our statements would then call."""
    match facts.condition:
        case PostgresqlCondition(open_schemas=str(schemas)):
            yield CheckWarning(
                "open-schema",
                "database",
                f"every role of the database may create operators and functions in {schemas}, and our statements "
                "would call them",
                f"run: REVOKE CREATE ON SCHEMA {schemas} FROM PUBLIC",
            )


def file_has_several_names(facts: Facts) -> Iterator[CheckWarning]:
    """Warn of a SQLite file that can be opened by another name, and so with another log."""
    if facts.names > 1:
        yield CheckWarning(
            "several-names",
            "database",
            f"the file has {facts.names} names (hard links): a program that opens it by another name than the server "
            "corrupts it",
            "remove the other names",
        )


def history_is_short_or_long(facts: Facts) -> Iterator[CheckWarning]:
    """Warn of histories that serve nobody, or that serve others too."""
    policy = facts.policy
    if not facts.audit_log:
        yield CheckWarning(
            "no-audit-log",
            "SESSION_AUTHORITY_AUDIT_LOG",
            "no audit log is written",
            "name a file, or - for standard output",
        )
    if policy.history_retention < _SHORT_HISTORY:
        yield CheckWarning(
            "short-history",
            "SESSION_AUTHORITY_HISTORY_RETENTION_DAYS",
            "ended sessions are deleted within a day: nobody can look into what happened",
            "keep them for some days",
        )
    keeps_addresses = (
        policy.keep_ip_addresses is KeepAddresses.FULL
        or policy.keep_user_agents is KeepUserAgents.FULL
    )
    erases_at_end = policy.erase_addresses is EraseAddresses.AT_END
    if keeps_addresses and not erases_at_end and policy.history_retention > _LONG_HISTORY:
        yield CheckWarning(
            "long-history",
            "SESSION_AUTHORITY_HISTORY_RETENTION_DAYS",
            f"addresses or user agents are kept in full for {span(policy.history_retention)} after a session's end",
            "keep less of them, or set SESSION_AUTHORITY_ERASE_ADDRESSES to at-end (docs/operate/privacy.md)",
        )
    if erases_at_end and facts.audit_log and facts.audit_addresses:
        yield CheckWarning(
            "addresses-outlive-erasure",
            "SESSION_AUTHORITY_AUDIT_ADDRESSES",
            "the audit log keeps the addresses that are erased when a session ends",
            "set it to false, or rotate the audit log as soon",
        )


WARNINGS: Sequence[Callable[[Facts], Iterator[CheckWarning]]] = (
    schema_differs,
    api_keys_are_off,
    traffic_is_in_plaintext,
    certificate_expires,
    files_are_readable_by_others,
    commits_are_not_durable,
    search_path_is_unsafe,
    file_has_several_names,
    failover_loses_commits,
    clocks_differ,
    times_lie_in_the_future,
    keys_are_unused_or_too_powerful,
    upkeep_is_behind,
    history_is_short_or_long,
)
