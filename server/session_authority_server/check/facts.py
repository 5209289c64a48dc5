"""What an installation is judged by: gathered once, so that every judgement is of the same moment."""

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
from session_authority_server.store.schema import SchemaVersion

# What lies there is gone when the machine is switched off.
_IN_MEMORY = frozenset(("tmpfs", "ramfs"))
# More than clocks differ by that are right.
_CLOCKS_DIFFER = timedelta(minutes=1)
# SQLite's locks and its write-ahead log ask for a disk of this machine.
_OVER_A_NETWORK = frozenset(
    ("nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ceph", "fuse.sshfs", "fuse.glusterfs")
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Exposure:
    """Who can reach the server, and how.

    Attributes:
        listen: Where it listens.
        is_loopback: Whether only this machine can get there.
        tls: Whether it has been given a certificate.
        tls_fault: Why it can't serve with that; empty where it can.
        tls_dates: The first and the last moment of its certificate; None where they are not known.
        allow_plaintext: Whether `serve` is told that something in front encrypts.
        insecure: Whether `serve` is told to ask for no API keys.
        metrics_listen: Where metrics are served; empty for nowhere.
        metrics_is_loopback: Whether only this machine can get there.
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
    """A file that others should not read.

    Attributes:
        path: Where it is.
        holds: What is in it, in words.
        mode: Its permission bits.
    """

    path: Path
    holds: str
    mode: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """What the tables say.

    Attributes:
        keys: Every API key there is or was.
        uses: What each used since that is recorded.
        overdue_since: When the longest overdue session should have been looked at; None where none is overdue.
        live_until: Until when that live session needs no look which needs one last; None where there is none.
        backlog: What else waits for the worker.
        latest_time: The latest of the times that were recorded when something happened; None where there is none.
        sign_ins_until: From when on sign-ins have no partition to go to; None where there are enough.
    """

    keys: Sequence[ApiKey]
    uses: Mapping[UUID, Mapping[Permission, KeyUse]]
    overdue_since: datetime | None
    live_until: datetime | None
    backlog: Backlog
    sign_ins_until: datetime | None
    latest_time: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """All that is known of an installation.

    Attributes:
        now: When it was looked at.
        policy: Its rules about sessions.
        exposure: Who can reach it.
        worker_interval: How often its worker looks.
        audit_log: Where its audit log goes; empty for nowhere.
        audit_addresses: Whether that tells addresses.
        condition: How its database keeps what it is told.
        watch_is_verified: Whether a database that changes are heard from by another address has to prove who it is;
            true where it is on this machine, or there is no other address.
        filesystem: The type of the file system of a SQLite file; empty where that is not known.
        names: How many names a SQLite file has.
        schema: Where its database's schema stands.
        clock_skew: How far this machine's clock is ahead of the database's.
        files: Those that others should not read.
        development_key_id: The id of the key in the file beside a SQLite file, if there is one.
        token_secret_bits: How much of a session token is random.
        contents: What its tables say; None where this program can't read them.
    """

    now: datetime
    policy: Policy
    exposure: Exposure
    worker_interval: timedelta
    audit_log: str
    audit_addresses: bool
    condition: Condition
    watch_is_verified: bool
    filesystem: str
    names: int
    schema: SchemaVersion
    clock_skew: timedelta
    files: Sequence[File]
    development_key_id: UUID | None
    token_secret_bits: int
    contents: Contents | None

    @property
    def good_keys(self) -> Sequence[ApiKey]:
        """The keys that callers can use now."""
        if self.contents is None:
            return ()
        return [key for key in self.contents.keys if key.state(self.now) is KeyState.ACTIVE]

    def may(self, permission: Permission) -> bool:
        """Say whether there is a caller who may do something."""
        return self.exposure.insecure or any(
            permission in key.permissions for key in self.good_keys
        )

    def exceeded_until(self, limit: timedelta) -> datetime | None:
        """Return until when, at least, a session may live to which a limit of the policy was none when it began.

        None where no such session is known. One that began under the policy needs a look before its limits have
        passed from now on.
        """
        until = None if self.contents is None else self.contents.live_until
        there = self.now - self.clock_skew
        return None if until is None or until - there <= limit + _CLOCKS_DIFFER else until

    @property
    def is_encrypted(self) -> bool:
        """Whether nobody on the way to the server can read along, as far as the server can tell."""
        return self.exposure.tls or self.exposure.is_loopback

    @property
    def has_standbys(self) -> bool:
        """Whether another server could take the database's place."""
        return isinstance(self.condition, PostgresqlCondition) and self.condition.standbys > 0

    def forgets(self) -> Iterator[str]:
        """Give the reasons why a crash of the database's machine can undo what had been answered."""
        match self.condition:
            case PostgresqlCondition() as postgresql:
                if not postgresql.fsync:
                    yield "fsync is off"
                if not postgresql.full_page_writes:
                    yield "full_page_writes is off"
                if postgresql.synchronous_commit == "off":
                    yield "synchronous_commit is off"
            case SqliteCondition():
                if self.filesystem in _IN_MEMORY:
                    yield f"the file is kept in memory ({self.filesystem})"
                if self.filesystem in _OVER_A_NETWORK:
                    yield f"the file is on a network file system ({self.filesystem})"
