from datetime import timedelta
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from session_authority_server.config.addresses import split_address
from session_authority_server.domain.duration import EXAMPLE, parse_duration
from session_authority_server.domain.event_stream import check_issuer
from session_authority_server.domain.policy import AtLimit, Policy, SupersededUse
from session_authority_server.domain.privacy import EraseAddresses, KeepAddresses, KeepUserAgents
from session_authority_server.store.database_url import (
    SQLITE_PREFIX,
    checked_database_url,
    checked_postgresql_url,
    shown_url,
)

ENV_PREFIX = "SESSION_AUTHORITY_"
STANDARD_OUTPUT = "-"
# The last word of a setting's name, if the setting is a span of time.
_UNITS = {"seconds": timedelta(seconds=1), "days": timedelta(days=1)}
EVENT_KEY_CHARACTERS = 32
_TEN_YEARS_SECONDS = 3_650 * 86_400
# The only source of the defaults about sessions.
_DEFAULTS = Policy()
CHOICES = {
    "log_level": ("debug", "info", "warning", "error"),
    "log_format": ("auto", "json", "console"),
}
"""The values of settings that are compared without regard to case."""


def _seconds(span: timedelta | None) -> int:
    """Return a span in seconds; 0 for None."""
    return 0 if span is None else int(span.total_seconds())


def unit_of(name: str) -> timedelta | None:
    """Return the unit of a plain number in a setting that is a span of time; None for other settings."""
    return _UNITS.get(name.rpartition("_")[2])


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def read_duration(kind: type[BaseSettings], name: str, value: object) -> object:
    """Return the plain number of a setting's duration. Return the values of other settings as they are.

    Raises:
        ValueError: If the setting is a span of time, and the value is no duration in its unit.
    """
    unit = unit_of(name)
    if unit is None or not isinstance(value, str) or _is_number(value):
        return value
    plural = name.rpartition("_")[2]
    span = parse_duration(value)
    if span is None:
        raise ValueError(f"give {EXAMPLE}, or a number of {plural}")
    if kind.model_fields[name].annotation is int and span % unit:
        raise ValueError(f"give whole {plural}")
    return span / unit


def checked_choice(name: str, value: str) -> str:
    """Return the value of a setting in `CHOICES`, in lower case.

    Raises:
        ValueError: If the value is no choice.
    """
    choices = CHOICES[name]
    if value.lower() not in choices:
        raise ValueError(f"give one of {', '.join(choices)}")
    return value.lower()


class Settings(BaseSettings):
    """The operator's settings.

    Each setting comes from the environment (`SESSION_AUTHORITY_` and the name in capitals), then from the configuration
    file, then from its default. The file is the one that `SESSION_AUTHORITY_CONFIG` names, or else
    `session-authority.toml` in the working directory. Defaults about sessions, such as 90 days, come from
    `domain/policy.py`. CONTRIBUTING.md lists what a new setting needs.
    """

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX, env_ignore_empty=True, extra="forbid", frozen=True
    )

    listen: str = Field(
        "127.0.0.1:50551",
        description="The address to serve gRPC on, as host:port. Port 0 picks a free port.",
    )
    host: Literal["auto", "grpcio", "native"] = Field(
        "auto",
        description="The HTTP/2 host: grpcio, native (several times as fast, without TLS) or auto. auto selects native "
        "if it is installed and there is no certificate, or else grpcio.",
    )
    database_url: str = Field(
        "sqlite:///session-authority.sqlite",
        repr=False,
        description="The database that keeps the sessions: sqlite:///relative/path, sqlite:////absolute/path or "
        "postgresql://user:password@host/database.",
    )
    state_directory: str = Field(
        "",
        description="The directory that remembers acknowledged endings outside the database, to notice a database that "
        "went back in time. Empty for a folder beside the SQLite file; with PostgreSQL, empty for none.",
    )
    watch_database_url: str = Field(
        "",
        repr=False,
        description="The address of the same PostgreSQL database without a pooler, to listen for changes to cached "
        "sessions. Empty for DATABASE_URL.",
    )
    processes: Annotated[int, Field(ge=1, le=64)] = Field(
        1,
        description="How many processes share the port. More than one needs PostgreSQL.",
    )
    metrics_listen: str = Field(
        "",
        description="The address to serve Prometheus metrics on over HTTP, as host:port. Empty for no metrics. "
        "Each further process uses the next port.",
    )
    log_level: str = Field(
        "info", description="The lowest level to log: debug, info, warning or error."
    )
    log_format: str = Field(
        "auto",
        description="The format of the log: json, console, or auto (console on a terminal, json elsewhere).",
    )
    audit_log: str = Field(
        "",
        description="The file of the audit log, or - for standard output. Empty for no audit log.",
    )
    audit_addresses: bool = Field(
        False,
        description="Whether the audit log contains the IP address and user agent of a sign-in, as far as kept.",
    )
    drain_seconds: Annotated[float, Field(ge=0, le=600)] = Field(
        10, description="How long calls in flight may continue after SIGTERM."
    )
    absolute_lifetime_seconds: Annotated[int, Field(ge=1, le=_TEN_YEARS_SECONDS)] = Field(
        _seconds(_DEFAULTS.absolute_lifetime),
        description="The longest lifetime of a session.",
    )
    idle_timeout_seconds: Annotated[int, Field(ge=0, le=_TEN_YEARS_SECONDS)] = Field(
        _seconds(_DEFAULTS.idle_timeout),
        description="How long a session may stay unused: at least 60 seconds, or 0 for no idle timeout.",
    )
    last_active_resolution_seconds: Annotated[int, Field(ge=1, le=86_400)] = Field(
        _seconds(_DEFAULTS.last_active_resolution),
        description="How far the recorded last activity of a session may lag behind.",
    )
    session_limit: Annotated[int, Field(ge=0, le=1_000_000)] = Field(
        _DEFAULTS.session_limit or 0,
        description="How many live sessions a user may have. 0 for no limit.",
    )
    at_limit: AtLimit = Field(
        _DEFAULTS.at_limit,
        description="The effect of a sign-in at the session limit: end-least-recently-active or refuse.",
    )
    history_retention_days: Annotated[int, Field(ge=0, le=36_500)] = Field(
        _DEFAULTS.history_retention.days,
        description="How long ended sessions stay in the history.",
    )
    max_authentication_age_seconds: Annotated[int, Field(ge=0, le=_TEN_YEARS_SECONDS)] = Field(
        _seconds(_DEFAULTS.max_authentication_age),
        description="The largest age of a user's proof of identity to list or end sessions. 0 for any age. "
        "Signing out is always possible.",
    )
    superseded_use: SupersededUse = Field(
        _DEFAULTS.superseded_use,
        description="The effect of using a superseded token more than "
        f"{_seconds(_DEFAULTS.superseded_grace)} seconds after the re-authentication: reject, or end-session, which "
        "also ends the session.",
    )
    keep_ip_addresses: KeepAddresses = Field(
        _DEFAULTS.keep_ip_addresses,
        description="How much of an IP address is kept: full, truncated (IPv4 to /24, IPv6 to /48) or none.",
    )
    keep_user_agents: KeepUserAgents = Field(
        _DEFAULTS.keep_user_agents,
        description="How much of a user agent is kept: full, or none (only the names of browser and system).",
    )
    erase_addresses: EraseAddresses = Field(
        _DEFAULTS.erase_addresses,
        description="When IP addresses and user agents are erased: with-history, or at-end (when the session ends).",
    )
    location_database: str = Field(
        "",
        description="The file of the locations of IP addresses, in MaxMind's format (for example GeoLite2-City.mmdb). "
        "The server reloads the file when it changes. Empty for no locations.",
    )
    event_key: str = Field(
        "",
        repr=False,
        description="The secret from which the secrets of receivers are derived, the same for all workers: at least 32 "
        "characters. Empty for a key that is made in the state directory; without one, no events are delivered.",
    )
    receivers_may_be_private: bool = Field(
        False,
        description="Whether events may be sent to private addresses, for receivers in the operator's own network.",
    )
    event_issuer: str = Field(
        "",
        description="The address under which receivers of security events reach the gateway, such as "
        "https://signals.example.com. It is the issuer of the events. Empty for no security events.",
    )
    event_signing_keys: str = Field(
        "",
        validate_default=True,
        description="The PEM file of the private RSA keys for security events: 1 to 10. The first one signs, and all "
        "are published. The file is read again when it changes.",
    )
    outbox_limit: Annotated[int, Field(ge=1_000, le=100_000_000)] = Field(
        1_000_000,
        description="How many events may wait for a receiver. The worker drops the oldest beyond this number.",
    )
    worker_interval_seconds: Annotated[float, Field(ge=0.1, le=86_400, allow_inf_nan=False)] = (
        Field(30, description="How often the worker looks for overdue sessions.")
    )
    tls_certificate: str = Field(
        "",
        description="The PEM file of the server's certificate and its chain. The server reloads the file when it "
        "changes. Empty for no encryption.",
    )
    tls_key: str = Field(
        "",
        validate_default=True,
        description="The PEM file of the certificate's private key, without a passphrase.",
    )
    tls_client_ca: str = Field(
        "",
        description="The PEM file of the CA certificates for clients. One of them must have signed each client's "
        "certificate. Empty to request no client certificate.",
    )
    max_in_flight_calls: Annotated[int, Field(ge=1, le=100_000)] = Field(
        256,
        description="How many calls a process runs at once, without validations. Further calls wait in a queue for up "
        "to a second. Then they are refused with RESOURCE_EXHAUSTED.",
    )
    calls_per_connection: Annotated[int, Field(ge=1, le=10_000)] = Field(
        170,
        description="How many calls and streams a connection carries at once. Further ones wait in the client.",
    )
    rejected_tokens_per_minute: Annotated[int, Field(ge=0, le=1_000_000_000)] = Field(
        60_000,
        description="How many calls with unknown session tokens a process answers for an API key in a minute. Further "
        "ones are refused with RESOURCE_EXHAUSTED. Calls with a valid token are never refused. 0 for no limit.",
    )

    @field_validator("*", mode="before")
    @classmethod
    def _read_duration(cls, value: object, info: ValidationInfo) -> object:
        """Return the plain number of a duration. Return the values of other settings as they are."""
        return read_duration(cls, str(info.field_name), value)

    @field_validator("listen", "metrics_listen")
    @classmethod
    def _check_address(cls, value: str, info: ValidationInfo) -> str:
        if value or info.field_name == "listen":
            split_address(value)
        return value

    @field_validator("database_url")
    @classmethod
    def _check_database_url(cls, value: str) -> str:
        return checked_database_url(value)

    @field_validator("watch_database_url")
    @classmethod
    def _check_watch_database_url(cls, value: str, info: ValidationInfo) -> str:
        if not value:
            return value
        value = checked_postgresql_url(value)
        if info.data.get("database_url", "").startswith(SQLITE_PREFIX):
            raise ValueError("works with PostgreSQL only; leave it empty for SQLite")
        return value

    @field_validator(
        "audit_log",
        "state_directory",
        "location_database",
        "event_signing_keys",
        "tls_certificate",
        "tls_key",
        "tls_client_ca",
    )
    @classmethod
    def _check_path(cls, value: str, info: ValidationInfo) -> str:
        is_log = info.field_name == "audit_log"
        if "\0" in value:
            raise ValueError("give a path" + (", or - for standard output" if is_log else ""))
        return STANDARD_OUTPUT if is_log and value == "stdout" else value

    @field_validator(*CHOICES)
    @classmethod
    def _check_choice(cls, value: str, info: ValidationInfo) -> str:
        return checked_choice(str(info.field_name), value)

    @field_validator("event_issuer")
    @classmethod
    def _check_event_issuer(cls, value: str) -> str:
        if value:
            check_issuer(value)
        return value

    @field_validator("event_signing_keys")
    @classmethod
    def _check_event_signing_keys(cls, value: str, info: ValidationInfo) -> str:
        if bool(value) != bool(info.data.get("event_issuer")):
            raise ValueError("give both event_issuer and event_signing_keys, or neither")
        return value

    @field_validator("event_key")
    @classmethod
    def _check_event_key(cls, value: str) -> str:
        if value and len(value) < EVENT_KEY_CHARACTERS:
            raise ValueError(
                f"give at least {EVENT_KEY_CHARACTERS} characters, for example from: openssl rand -base64 32"
            )
        return value

    @field_validator("idle_timeout_seconds")
    @classmethod
    def _check_idle_timeout(cls, value: int) -> int:
        if 0 < value < 60:
            raise ValueError("give at least 60, or 0 for no idle timeout")
        return value

    @field_validator("tls_key")
    @classmethod
    def _check_tls_key(cls, value: str, info: ValidationInfo) -> str:
        if bool(value) != bool(info.data.get("tls_certificate")):
            raise ValueError("give both tls_certificate and tls_key, or neither")
        return value

    @field_validator("tls_client_ca")
    @classmethod
    def _check_tls_client_ca(cls, value: str, info: ValidationInfo) -> str:
        if value and not info.data.get("tls_certificate"):
            raise ValueError("needs tls_certificate and tls_key; set both")
        return value

    @property
    def sqlite_path(self) -> Path | None:
        """The SQLite file; None with PostgreSQL."""
        if not self.database_url.startswith(SQLITE_PREFIX):
            return None
        return Path(self.database_url.removeprefix(SQLITE_PREFIX))

    @property
    def state_path(self) -> Path | None:
        """The directory that remembers acknowledged endings; None if there is none."""
        if self.state_directory:
            return Path(self.state_directory)
        file = self.sqlite_path
        return None if file is None else file.with_name(file.name + ".state")

    @property
    def database(self) -> str:
        """The path or URL of the database as messages show it, without the password."""
        if self.sqlite_path is not None:
            return str(self.sqlite_path.resolve())
        return shown_url(self.database_url)

    @property
    def policy(self) -> Policy:
        """The rules about sessions."""
        return Policy(
            absolute_lifetime=timedelta(seconds=self.absolute_lifetime_seconds),
            # `or None`: a setting of 0 turns the rule off.
            idle_timeout=timedelta(seconds=self.idle_timeout_seconds) or None,
            last_active_resolution=timedelta(seconds=self.last_active_resolution_seconds),
            session_limit=self.session_limit or None,
            at_limit=self.at_limit,
            history_retention=timedelta(days=self.history_retention_days),
            max_authentication_age=timedelta(seconds=self.max_authentication_age_seconds) or None,
            superseded_use=self.superseded_use,
            keep_ip_addresses=self.keep_ip_addresses,
            keep_user_agents=self.keep_user_agents,
            erase_addresses=self.erase_addresses,
        )
