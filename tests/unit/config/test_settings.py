from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from session_authority_server.config import (
    ConfigurationError,
    Settings,
    load_settings,
    unit_of,
)
from session_authority_server.domain.duration import format_duration
from session_authority_server.domain.policy import AtLimit, Policy


def test_the_defaults_apply_without_settings() -> None:
    settings = load_settings()
    assert settings.listen == "127.0.0.1:50551"
    assert settings.sqlite_path == Path("session-authority.sqlite")
    assert settings.policy == Policy()


@pytest.mark.parametrize(
    ("name", "value", "number"),
    [
        ("absolute_lifetime_seconds", "90d", 7_776_000),
        ("absolute_lifetime_seconds", "7776000", 7_776_000),
        ("idle_timeout_seconds", "1h30m", 5_400),
        ("drain_seconds", "500ms", 0.5),
        ("drain_seconds", "2.5", 2.5),
        ("worker_interval_seconds", "1m", 60),
        ("history_retention_days", "48h", 2),
        ("history_retention_days", "48", 48),
    ],
)
def test_a_span_of_time_is_a_duration_or_a_plain_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str, number: float
) -> None:
    (tmp_path / "session-authority.toml").write_text(f'{name} = "{value}"\n')
    assert getattr(load_settings(), name) == number
    (tmp_path / "session-authority.toml").unlink()
    monkeypatch.setenv(f"SESSION_AUTHORITY_{name.upper()}", value)
    assert getattr(load_settings(), name) == number


def test_every_span_of_time_takes_durations() -> None:
    spans = [name for name in Settings.model_fields if "seconds" in name or "days" in name]
    assert len(spans) >= 7
    for name in spans:
        unit = unit_of(name)
        assert unit is not None, name
        shortest = 1_000 * unit
        given: dict[str, Any] = {name: format_duration(shortest)}
        try:
            assert getattr(load_settings(**given), name) == 1_000
        except ConfigurationError as error:  # above the limit of this setting
            assert "less than or equal to" in str(error)  # noqa: PT017


BAD: list[tuple[str, Any, str]] = [
    ("listen", "nowhere", "give host:port"),
    ("listen", "127.0.0.1", "give host:port"),
    ("listen", "127.0.0.1:65536", "give host:port"),
    ("listen", "127.0.0.1:-1", "give host:port"),
    ("listen", "::1:50551", "give host:port"),
    ("listen", "127.0.0.1:\N{FULLWIDTH DIGIT FIVE}1", "give host:port"),
    ("processes", "0", "greater than or equal to 1"),
    ("processes", "65", "less than or equal to 64"),
    ("processes", "two", "valid integer"),
    ("metrics_listen", "9090", "give host:port"),
    ("database_url", "sessions.sqlite", "give sqlite:/// and a path"),
    ("database_url", "sqlite:///", "give sqlite:/// and a path"),
    ("database_url", "postgresql+asyncpg://x", "begins with postgresql://"),
    ("database_url", "postgres://x?target_session_attrs=standby", "must be read-write"),
    ("database_url", "postgresql:///x?host=a:1&host=b:2", "host1:5432,host2:5432"),
    ("log_level", "loud", "debug, info, warning, error"),
    ("log_format", "xml", "auto, json, console"),
    ("drain_seconds", "-1", "greater than or equal to 0"),
    ("drain_seconds", "601", "less than or equal to 600"),
    ("drain_seconds", "soon", "give a duration such as 90d, 1h30m or 500ms, or a number of sec"),
    ("drain_seconds", "11m", "less than or equal to 600"),
    ("drain_seconds", "1h 30m", "give a duration"),
    ("history_retention_days", "36h", "give whole days"),
    ("absolute_lifetime_seconds", "1500ms", "give whole seconds"),
    ("absolute_lifetime_seconds", "99999999d", "less than or equal to 315360000"),
    ("absolute_lifetime_seconds", "0", "greater than or equal to 1"),
    ("absolute_lifetime_seconds", "1.5", "valid integer"),
    ("idle_timeout_seconds", "59", "at least 60, or 0"),
    ("event_key", "x" * 31, "at least 32 characters"),
    ("idle_timeout_seconds", "-1", "greater than or equal to 0"),
    ("event_key", "too short", "give at least 32 characters"),
    ("event_issuer", "http://signals.example.com", "give https"),
    ("event_issuer", "https://signals.example.com/a", "without a path"),
    ("event_issuer", "https://signals.example.com/", "without a path"),
    ("event_issuer", "https://signals.example.com?", "without a path"),
    ("event_signing_keys", "events.pem", "give both event_issuer and event_signing_keys"),
    ("outbox_limit", "999", "greater than or equal to 1000"),
    ("last_active_resolution_seconds", "0", "greater than or equal to 1"),
    ("last_active_resolution_seconds", "86401", "less than or equal to 86400"),
    ("session_limit", "-1", "greater than or equal to 0"),
    ("at_limit", "panic", "end-least-recently-active"),
    ("history_retention_days", "-1", "greater than or equal to 0"),
    ("worker_interval_seconds", "0", "greater than or equal to 0.1"),
]


@pytest.mark.parametrize("name", ["audit_log", "tls_certificate", "tls_key", "tls_client_ca"])
def test_an_impossible_path_is_refused(name: str) -> None:
    with pytest.raises(ConfigurationError, match=f"{name} in the configuration file.*give a path"):
        load_settings(None, **{"tls_certificate": "x", "tls_key": "y", name: "a\0b"})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("listen", "a\0b:1"),
        ("database_url", "sqlite:///a\0b"),
        ("database_url", "postgresql://host/database?user=a\0b"),
    ],
)
def test_an_address_with_a_nul_is_refused(name: str, value: str) -> None:
    with pytest.raises(ConfigurationError, match=f"{name} in the configuration file.*: give "):
        load_settings(None, **{name: value})


@pytest.mark.parametrize(("name", "value", "remedy"), BAD)
def test_a_bad_value_is_refused_by_the_name_of_its_setting(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, remedy: str
) -> None:
    monkeypatch.setenv(f"SESSION_AUTHORITY_{name.upper()}", value)

    with pytest.raises(ConfigurationError) as caught:
        load_settings()

    message = str(caught.value)
    assert message.startswith(
        f"SESSION_AUTHORITY_{name.upper()} (or {name} in the configuration file)"
    )
    assert remedy in message


def test_values_of_a_choice_are_case_insensitive() -> None:
    assert load_settings(log_level="DEBUG", log_format="JSON").log_level == "debug"


def test_the_policy_has_the_values_of_the_settings() -> None:
    settings = load_settings(
        absolute_lifetime_seconds=3_600,
        idle_timeout_seconds=600,
        last_active_resolution_seconds=30,
        session_limit=5,
        at_limit="refuse",
        history_retention_days=7,
    )
    assert settings.policy == Policy(
        absolute_lifetime=timedelta(hours=1),
        idle_timeout=timedelta(minutes=10),
        last_active_resolution=timedelta(seconds=30),
        session_limit=5,
        at_limit=AtLimit.REFUSE,
        history_retention=timedelta(days=7),
    )


def test_zero_means_no_idle_timeout_and_no_limit() -> None:
    policy = load_settings(idle_timeout_seconds=0, session_limit=0).policy
    assert policy.idle_timeout is None
    assert policy.session_limit is None


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://user:hush@db:5432/app?sslmode=require", "postgresql://db:5432/app"),
        ("postgresql://user:hush@db1:5432,db2:5433/app", "postgresql://db1:5432,db2:5433/app"),
        ("postgresql://user:hu%40sh@[::1]/app", "postgresql://[::1]/app"),
        ("postgresql://user:h:u#sh!@db/app", "postgresql://db/app"),
        ("postgresql://user:hush@%2Frun%2Fpg/app", "postgresql://%2Frun%2Fpg/app"),
        ("postgresql://user:hush@/app?host=/run/pg", "postgresql:///app"),
        ("postgresql://db:5432/app", "postgresql://db:5432/app"),
        ("postgresql://db/app?password=hush", "postgresql://db/app"),
        ("postgresql://db/app?password=hu%40sh&user=me", "postgresql://db/app"),
        ("postgresql://db/app?password=hu@sh", "postgresql://"),
        ("postgresql://?service=app&password=hush", "postgresql://"),
        ("postgresql://user:hush@db/hu:sh", "postgresql://db"),
        ("postgres://user:hush@db:5432/app", "postgresql://db:5432/app"),
        ("postgresql+psycopg://user:hush@db1,db2:5433/app", "postgresql://db1,db2:5433/app"),
        ("postgresql:///app?host=/run/pg&user=me", "postgresql:///app"),
        ("postgres://db1,db2/app?target_session_attrs=read-write", "postgresql://db1,db2/app"),
    ],
)
def test_the_displayed_database_address_contains_no_part_of_a_password(
    url: str, shown: str
) -> None:
    settings = load_settings(database_url=url, watch_database_url=url)
    assert settings.database == shown
    assert url not in repr(settings)
    assert "hush" not in repr(settings)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://user:hush/app",
        "postgresql://user:hush%40db/app",
        "postgresql://user%3Ahush/app",
        "postgresql://user%3Ahush@db/app",
        "postgresql://user%3Ahush%40db/app",
        "postgresql://user:hu@sh@db/app",
        "postgresql://user:hush@@db/app",
        "postgresql://user:12/hush@db/app",
        "postgresql://user:hu?sh@db/app",
        "postgresql://db?password=hu@sh",
        "postgresql://?password=hu@sh",
        "postgresql://user:hush@db:hush/app",
        "postgresql://user:99999/app",
        "postgresql://user:hush@db\n/app",
        "postgresql+asyncpg://user:hush@db/app",
        "postgres://user:hu@sh@db/app",
        "user:hush@db/app",
        "host=db user=app password=hush",
    ],
)
@pytest.mark.parametrize("setting", ["database_url", "watch_database_url"])
def test_an_ambiguous_address_is_refused_and_not_quoted(setting: str, url: str) -> None:
    given: dict[str, Any] = {"database_url": "postgresql://db/app", setting: url}
    with pytest.raises(ConfigurationError) as caught:
        load_settings(**given)
    assert f"SESSION_AUTHORITY_{setting.upper()}" in str(caught.value)
    assert "give" in str(caught.value)
    for part in ("hush", "hu@", "hu?", "sh@", "99999"):
        assert part not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("sqlite:///a.sqlite", Path("a.sqlite")),
        ("sqlite:////var/a b.sqlite", Path("/var/a b.sqlite")),
        ("sqlite:///../a.sqlite", Path("../a.sqlite")),
    ],
)
def test_a_database_url_names_a_relative_or_absolute_path(url: str, path: Path) -> None:
    assert load_settings(database_url=url).sqlite_path == path


def test_every_setting_has_a_description() -> None:
    for name, field in Settings.model_fields.items():
        assert field.description, name
        assert field.description.endswith("."), name


def test_settings_are_immutable() -> None:
    with pytest.raises(ValueError, match="frozen"):
        load_settings().listen = "127.0.0.1:1"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("absolute_lifetime_seconds", "999999999999"),
        ("idle_timeout_seconds", "300000000000"),
        ("session_limit", "100000000000000000000"),
        ("history_retention_days", "999999"),
        ("worker_interval_seconds", "inf"),
        ("worker_interval_seconds", "1e300"),
        ("database_url", "sqlite:///:memory:"),
        ("database_url", "sqlite:///file:a?mode=memory"),
    ],
)
def test_an_unusable_value_in_the_environment_is_refused(name: str, value: str) -> None:
    given: dict[str, Any] = {name: value}
    with pytest.raises(ConfigurationError, match=name.upper()):
        load_settings(**given)
