"""Facts about an installation, gathered once so that all judgements are about the same moment."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from uuid import UUID

from session_authority_server.check.database_condition import (
    Backlog,
    Condition,
    PostgresqlCondition,
    SqliteCondition,
)
from session_authority_server.domain.api_key import ApiKey, KeyState, KeyUse, Permission
from session_authority_server.domain.policy import Policy
from session_authority_server.domain.receiver import Receiver
from session_authority_server.store.schema import SchemaVersion

# Files on these are lost when the machine restarts.
_MEMORY_FILESYSTEMS = frozenset(("tmpfs", "ramfs"))
# The root of a container, which is lost with the container.
_CONTAINER_FILESYSTEMS = frozenset(("overlay", "aufs"))
# Machines empty these folders when they start.
_TEMPORARY_FOLDERS = (Path("/tmp"), Path("/run"), Path("/var/run"))  # noqa: S108 - only compared
# Two correct clocks differ by less than this.
_CLOCK_TOLERANCE = timedelta(minutes=1)
# SQLite's locks and its write-ahead log need a local disk.
_NETWORK_FILESYSTEMS = frozenset(
    ("nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ceph", "fuse.sshfs", "fuse.glusterfs")
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Exposure:
    """The server's network addresses and how they are protected.

    Attributes:
        listen: The address that the server listens on.
        is_loopback: Whether only this machine can reach the server.
        tls: Whether a certificate is configured.
        tls_fault: Why the certificate can't be used; empty if it can.
        tls_dates: The first and the last valid moment of the certificate; None if they are not known.
        allow_plaintext: Whether `serve` runs with `--allow-plaintext`, behind a proxy or mesh that encrypts.
        insecure: Whether `serve` runs with `--insecure`, without API keys.
        metrics_listen: The address that metrics are served on; empty if they are not served.
        metrics_is_loopback: Whether only this machine can read the metrics.
    """

    listen: str
    is_loopback: bool
    tls: bool
    tls_fault: str
    tls_dates: tuple[datetime, datetime] | None
    allow_plaintext: bool
    insecure: bool
    metrics_listen: str
    metrics_is_loopback: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class File:
    """A file that other users of the machine should not read.

    Attributes:
        path: The file's path.
        holds: A phrase that describes the contents.
        mode: The permission bits.
    """

    path: Path
    holds: str
    mode: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """The contents of the database's tables.

    Attributes:
        keys: All API keys, including expired and revoked keys.
        uses: The recorded uses of each key's permissions, by key id.
        overdue_since: The `check_time` of the most overdue session; None if no session is overdue.
        live_until: The latest `check_time` of any live session; None if no session is live.
        backlog: The worker's unfinished sweeps and erasures.
        latest_time: The latest recorded time of any event; None if no event is recorded.
        sign_ins_until: The time from which sign-ins have no partition; None if no partition is missing.
        receivers: The receivers of events.
    """

    keys: Sequence[ApiKey]
    uses: Mapping[UUID, Mapping[Permission, KeyUse]]
    overdue_since: datetime | None
    live_until: datetime | None
    backlog: Backlog
    sign_ins_until: datetime | None
    latest_time: datetime | None
    receivers: Sequence[Receiver]


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """The facts about an installation.

    Attributes:
        now: The time of the check, by this machine's clock.
        policy: The rules for sessions.
        exposure: The server's network addresses and how they are protected.
        worker_interval: Time between two runs of the worker.
        audit_log: The audit log's destination; empty if there is none.
        audit_addresses: Whether the audit log contains IP addresses.
        condition: The database's durability and security.
        watch_is_verified: Whether the server at WATCH_DATABASE_URL must prove its identity. True if the setting is
            empty or the server is on this machine.
        state_directory: The directory outside the database that remembers acknowledged endings, as set; None if unset.
        state_filesystem: The type of its file system; empty if unknown.
        filesystem: The type of a SQLite file's file system; empty if unknown.
        hard_links: Number of hard links to a SQLite file.
        schema: The version of the database's schema.
        clock_skew: How far this machine's clock is ahead of the database's.
        files: Files that other users of the machine should not read.
        has_event_key: Whether there is a key to sign events.
        development_key_id: The id of the development key beside a SQLite file, if the key exists.
        token_secret_bits: Number of random bits in a session token.
        contents: The contents of the tables; None if the schema does not serve this program.
    """

    now: datetime
    policy: Policy
    exposure: Exposure
    worker_interval: timedelta
    audit_log: str
    audit_addresses: bool
    condition: Condition
    watch_is_verified: bool
    state_directory: Path | None
    state_filesystem: str
    filesystem: str
    hard_links: int
    schema: SchemaVersion
    clock_skew: timedelta
    files: Sequence[File]
    has_event_key: bool
    development_key_id: UUID | None
    token_secret_bits: int
    contents: Contents | None

    @property
    def active_keys(self) -> Sequence[ApiKey]:
        """The keys that are neither expired nor revoked."""
        if self.contents is None:
            return ()
        return [key for key in self.contents.keys if key.state(self.now) is KeyState.ACTIVE]

    def may(self, permission: Permission) -> bool:
        """Return whether at least one caller has the permission."""
        return self.exposure.insecure or any(
            permission in key.permissions for key in self.active_keys
        )

    def longer_limits_until(self, limit: timedelta) -> datetime | None:
        """Return the latest `check_time` of a live session if it proves an earlier, longer limit; else None.

        A session that began under the present limit has a `check_time` within `limit` from now. A later one comes from
        an earlier, longer limit. A session with that limit may live past the returned time.
        """
        until = None if self.contents is None else self.contents.live_until
        database_now = self.now - self.clock_skew
        return None if until is None or until - database_now <= limit + _CLOCK_TOLERANCE else until

    @property
    def is_encrypted(self) -> bool:
        """Whether calls are encrypted by the server, or never leave this machine."""
        return self.exposure.tls or self.exposure.is_loopback

    @property
    def has_standbys(self) -> bool:
        """Whether a standby could take over from the database."""
        return isinstance(self.condition, PostgresqlCondition) and self.condition.standbys > 0

    def state_loss(self) -> str:
        """Return why a restart may lose the state directory; empty if the directory is safe or not set."""
        if self.state_directory is None:
            return ""
        if self.state_filesystem in _MEMORY_FILESYSTEMS:
            return f"it is kept in memory ({self.state_filesystem})"
        if self.state_filesystem in _CONTAINER_FILESYSTEMS:
            return f"it is part of a container ({self.state_filesystem})"
        if any(self.state_directory.is_relative_to(each) for each in _TEMPORARY_FOLDERS):
            return "the system empties this folder when it starts"
        return ""

    def durability_faults(self) -> Iterator[str]:
        """Yield the reasons why a crash of the database's machine can lose committed changes."""
        match self.condition:
            case PostgresqlCondition() as postgresql:
                if not postgresql.fsync:
                    yield "fsync is off"
                if not postgresql.full_page_writes:
                    yield "full_page_writes is off"
                if postgresql.synchronous_commit == "off":
                    yield "synchronous_commit is off"
            case SqliteCondition():
                if self.filesystem in _MEMORY_FILESYSTEMS:
                    yield f"the file is kept in memory ({self.filesystem})"
                if self.filesystem in _NETWORK_FILESYSTEMS:
                    yield f"the file is on a network file system ({self.filesystem})"
