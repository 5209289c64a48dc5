"""Warnings about problems that no standard covers."""

from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta

from session_authority_server.check.database_condition import PostgresqlCondition, SqliteCondition
from session_authority_server.check.facts import Facts
from session_authority_server.check.key_warnings import (
    EXPIRES_SOON,
    keys_are_unused_or_too_powerful,
)
from session_authority_server.check.receiver_warnings import receivers_lack_events
from session_authority_server.check.requirement import CheckWarning, span
from session_authority_server.domain.clock import TOLERATED_SKEW
from session_authority_server.domain.privacy import EraseAddresses, KeepAddresses, KeepUserAgents

# For short-lived certificates, the check warns in this last fraction of their lifetime.
_LAST_FRACTION = 0.25
# The check warns if work is overdue by this many intervals of the worker, and by at least this time.
_BACKLOG_INTERVALS = 10
_MIN_BACKLOG = timedelta(minutes=10)
# The check warns if partitions end within this time. The worker creates them for a month ahead.
_PARTITIONS_AHEAD = timedelta(days=14)
_LONG_HISTORY = timedelta(days=90)
_SHORT_HISTORY = timedelta(days=1)
_WAITS_FOR_DISK = frozenset(("on", "remote_apply"))


def commits_are_not_durable(facts: Facts) -> Iterator[CheckWarning]:
    """Warn of a database that can lose committed changes in a crash."""
    for reason in facts.durability_faults():
        remedy = (
            "turn it on, at least for the authority's role and database"
            if isinstance(facts.condition, PostgresqlCondition)
            else "move the file to a local disk"
        )
        yield CheckWarning(
            "not-durable",
            "database",
            f"{reason}: a crash can lose new sessions, and can bring ended sessions back",
            remedy,
        )
    match facts.condition:
        case SqliteCondition(journal_mode=mode) if mode != "wal":
            yield CheckWarning(
                "journal-mode",
                "database",
                f"the file's journal mode is {mode}: no server has opened it yet, or another program changed it",
                "start a server on the file; the server sets the mode to wal",
            )


def failover_loses_commits(facts: Facts) -> Iterator[CheckWarning]:
    """Warn of a PostgreSQL server whose standbys may lack committed changes."""
    condition = facts.condition
    if not isinstance(condition, PostgresqlCondition):
        return
    remedy = "list the standbys that commits wait for in synchronous_standby_names"
    if condition.standbys == 0:
        yield CheckWarning(
            "no-standby",
            "database",
            "it has no standby, so all sessions are lost with its disk",
            "add a standby, and " + remedy,
        )
    elif not condition.waits_for_standbys or condition.asynchronous_standbys:
        yield CheckWarning(
            "asynchronous-standby",
            "database",
            f"it has {condition.standbys} standbys, and commits wait for "
            + ("none" if not condition.waits_for_standbys else "only some")
            + " of them: after a failover to another standby, ended sessions may be live again",
            remedy + ", and fail over to these only",
        )
    if (
        condition.waits_for_standbys
        and condition.synchronous_commit not in _WAITS_FOR_DISK
        and condition.synchronous_commit != "off"  # already reported as not-durable
    ):
        yield CheckWarning(
            "weak-commit",
            "database",
            f"synchronous_commit is {condition.synchronous_commit}, so commits don't wait for a standby's disk",
            "set it to on, at least for the authority's role and database",
        )


def lost_endings_stay_unnoticed(facts: Facts) -> Iterator[CheckWarning]:
    """Warn of servers that can't notice a database that went back in time."""
    remedy = (
        "set it to a directory on a local disk that outlives restarts (docs/operate/restore.md)"
    )
    if facts.state_directory is None:
        if isinstance(facts.condition, PostgresqlCondition):
            yield CheckWarning(
                "no-state-directory",
                "SESSION_AUTHORITY_STATE_DIRECTORY",
                "it is not set: after a restore or a failover that lost endings, ended sessions are live again, and no "
                "server notices",
                remedy,
            )
    elif reason := facts.state_loss():
        yield CheckWarning(
            "state-directory-vanishes",
            "SESSION_AUTHORITY_STATE_DIRECTORY",
            f"{reason}: after a restart, servers can't notice that the database lost endings",
            remedy,
        )


def clocks_differ(facts: Facts) -> Iterator[CheckWarning]:
    """Warn of a clock that differs from the database's."""
    if abs(facts.clock_skew) >= TOLERATED_SKEW:
        yield CheckWarning(
            "clock-skew",
            "clock",
            f"this machine's clock is {facts.clock_skew.total_seconds():.1f} s ahead of the database's, so servers here "
            "refuse every call, and workers do nothing",
            "synchronize both clocks by NTP",
        )


def times_lie_in_the_future(facts: Facts) -> Iterator[CheckWarning]:
    """Warn of stored times that lie in the future because a clock was wrong."""
    latest = None if facts.contents is None else facts.contents.latest_time
    ahead = timedelta(0) if latest is None else latest - (facts.now - facts.clock_skew)
    if ahead > 2 * TOLERATED_SKEW:
        yield CheckWarning(
            "future-times",
            "clock",
            f"the database holds times in the future, up to {latest:%Y-%m-%d %H:%M:%S} UTC: a server's clock was "
            "ahead, or this machine's clock is behind",
            "synchronize the clocks by NTP, then run: session-authority repair-clock",
        )


def traffic_is_in_plaintext(facts: Facts) -> Iterator[CheckWarning]:
    """Warn of connections that are not encrypted, or whose server is not verified."""
    exposure = facts.exposure
    if not facts.is_encrypted:
        yield CheckWarning(
            "plaintext-listener",
            exposure.listen,
            "other machines can reach this address, and calls are not encrypted"
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
            "metrics are served over plain HTTP to other machines",
            "listen on an address that only your collector can reach",
        )
    match facts.condition:
        case PostgresqlCondition(encrypted=False, is_local=False):
            yield CheckWarning(
                "plaintext-database",
                "database",
                "the connection to the database leaves this machine, and is not encrypted",
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
        "the connection to the database leaves this machine, and the database need not prove its identity: an attacker "
        "on the network can read and forge its answers",
        f"add ?sslmode=verify-full to {setting}, and sslrootcert for your own certificate authority",
    )


def certificate_expires(facts: Facts) -> Iterator[CheckWarning]:
    """Warn of a certificate that is not valid now, or expires soon."""
    if facts.exposure.tls_dates is None:
        return
    begin, end = facts.exposure.tls_dates
    remedy = "replace the certificate and its key; servers load the new files without a restart"
    if not begin <= facts.now <= end:
        yield CheckWarning(
            "certificate-not-valid",
            "SESSION_AUTHORITY_TLS_CERTIFICATE",
            f"it is not valid now, only from {begin:%Y-%m-%d %H:%M} to {end:%Y-%m-%d %H:%M} UTC",
            remedy,
        )
    # Warn 14 days before the certificate expires. For a short-lived certificate, warn when a quarter of its validity is
    # left. With the 14 days alone, a certificate that is valid for a few days would always cause a warning.
    elif end - facts.now <= min(EXPIRES_SOON, (end - begin) * _LAST_FRACTION):
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
            "the server requires no API key, so any caller has all permissions",
            "start `serve` without --insecure",
        )


def upkeep_is_behind(facts: Facts) -> Iterator[CheckWarning]:
    """Warn of work that the worker should have done."""
    if facts.contents is None:
        return
    patience = max(_MIN_BACKLOG, _BACKLOG_INTERVALS * facts.worker_interval)
    backlog = facts.contents.backlog
    for what, since in (
        ("sessions are overdue", facts.contents.overdue_since),
        ("a sweep is incomplete", backlog.sweep_time),
        ("an erasure is incomplete", backlog.erase_time),
    ):
        if since is not None and facts.now - since >= patience:
            yield CheckWarning(
                "backlog",
                "worker",
                f"{what} since {since:%Y-%m-%d %H:%M:%S} UTC; ended sessions are refused all the same",
                "run a worker: `serve` without --no-worker, or `session-authority worker`",
            )
    until = facts.contents.sign_ins_until
    if until is not None and until - facts.now <= _PARTITIONS_AHEAD:
        yield CheckWarning(
            "partitions-missing",
            "database",
            f"sign-ins will fail from {until:%Y-%m-%d} on, because no partition exists for them",
            "run: session-authority worker --once",
        )


def schema_differs(facts: Facts) -> Iterator[CheckWarning]:
    """Warn if the database has no schema, or if its schema version is not that of this program."""
    version = facts.schema
    if not version.serves:
        yield CheckWarning(
            "schema",
            "database",
            f"its schema is {version.current or 'missing'}, and this program needs {version.wanted}; "
            "keys and the worker were not checked",
            version.remedy,
        )
    elif not version.is_current:
        yield CheckWarning(
            "schema-newer",
            "database",
            f"its schema is {version.current}, newer than this program's {version.wanted}, but still serves this program",
            "update this program",
        )


def files_are_readable_by_others(facts: Facts) -> Iterator[CheckWarning]:
    """Warn of files that other users of the machine can access."""
    for file in facts.files:
        if file.mode & 0o007:
            yield CheckWarning(
                "open-file",
                str(file.path),
                f"it holds {file.holds}, and every user of this machine can access it (mode {file.mode:04o})",
                "run `chmod o=` on the file",
            )


def search_path_is_unsafe(facts: Facts) -> Iterator[CheckWarning]:
    """Warn of schemas in which any role could plant operators and functions that our statements call."""
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
    """Warn of a SQLite file with hard links, since each name has its own write-ahead log."""
    if facts.hard_links > 1:
        yield CheckWarning(
            "several-names",
            "database",
            f"the file has {facts.hard_links} names (hard links): a program that opens it by another name than the server's "
            "corrupts the file",
            "remove the other names",
        )


def history_is_short_or_long(facts: Facts) -> Iterator[CheckWarning]:
    """Warn if there is no audit log, or if data is deleted too soon or kept too long.

    Ended sessions may be deleted too soon. Full addresses or user agents may be kept too long. The audit log may keep
    addresses that the database erases.
    """
    policy = facts.policy
    if not facts.audit_log:
        yield CheckWarning(
            "no-audit-log",
            "SESSION_AUTHORITY_AUDIT_LOG",
            "no audit log is written",
            "set it to a file's path, or to - for standard output",
        )
    if policy.history_retention < _SHORT_HISTORY:
        yield CheckWarning(
            "short-history",
            "SESSION_AUTHORITY_HISTORY_RETENTION_DAYS",
            "ended sessions are deleted within a day, so incidents can't be investigated later",
            "keep them for at least a few days",
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
            "set it to false, or rotate and delete audit logs soon",
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
    lost_endings_stay_unnoticed,
    clocks_differ,
    times_lie_in_the_future,
    keys_are_unused_or_too_powerful,
    upkeep_is_behind,
    receivers_lack_events,
    history_is_short_or_long,
)
