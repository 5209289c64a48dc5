import os
from pathlib import Path

import pytest

from session_authority_server.config import (
    ConfigurationError,
    Settings,
    load_settings,
)
from session_authority_server.domain.policy import Policy


def test_arguments_override_the_environment_which_overrides_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "session-authority.toml").write_text(
        'listen = "127.0.0.1:1"\nlog_level = "error"\nsession_limit = 1\nlog_format = "json"\n'
    )
    monkeypatch.setenv("SESSION_AUTHORITY_LISTEN", "127.0.0.1:2")
    monkeypatch.setenv("SESSION_AUTHORITY_LOG_LEVEL", "warning")
    monkeypatch.setenv("SESSION_AUTHORITY_SESSION_LIMIT", "2")

    settings = load_settings(listen="127.0.0.1:3", log_level=None)

    assert settings.listen == "127.0.0.1:3"
    assert settings.log_level == "warning"
    assert settings.session_limit == 2
    assert settings.log_format == "json"
    assert settings.drain_seconds == 10


def test_a_named_file_is_read_in_place_of_the_one_in_the_working_directory(tmp_path: Path) -> None:
    (tmp_path / "session-authority.toml").write_text("session_limit = 1\ndrain_seconds = 1\n")
    (tmp_path / "other.toml").write_text("session_limit = 2\n")

    settings = load_settings(tmp_path / "other.toml")

    assert (settings.session_limit, settings.drain_seconds) == (2, 10)


def test_a_named_file_must_exist(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigurationError, match=r"the configuration file .*absent\.toml does not exist"
    ):
        load_settings(tmp_path / "absent.toml")


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    for name, make, reason in (
        ("folder", Path.mkdir, "it is not a regular file"),
        ("pipe", os.mkfifo, "it is not a regular file"),
        ("loop", lambda path: path.symlink_to(path), "Too many levels of symbolic links"),
        ("a" * 256, lambda _path: None, "File name too long"),
    ):
        file = tmp_path / name
        make(file)
        with pytest.raises(ConfigurationError) as caught:
            load_settings(file)
        assert str(caught.value) == f"{file} can't be read: {reason}"
    (tmp_path / "session-authority.toml").mkdir()
    with pytest.raises(ConfigurationError, match=r"session-authority\.toml can't be read"):
        load_settings()


@pytest.mark.parametrize("text", ["listen = \n", "[", "listen = 'x", "\x00"])
def test_a_file_that_is_not_toml_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "session-authority.toml").write_text(text)
    with pytest.raises(ConfigurationError, match=r"session-authority\.toml can't be read"):
        load_settings()


@pytest.mark.parametrize(
    ("given", "advice"),
    [
        ("session_limits", "did you mean session_limit?"),
        ("sesion-limit", "did you mean session_limit?"),
        ("idle_timeout", "did you mean idle_timeout_seconds?"),
        ("SESSION_AUTHORITY_LISTEN", "did you mean listen?"),
        ("colour", "see docs/reference/settings.md"),
    ],
)
def test_an_unknown_name_in_the_file_is_refused_with_the_right_name(
    tmp_path: Path, given: str, advice: str
) -> None:
    (tmp_path / "session-authority.toml").write_text(f'{given} = ""\n')
    with pytest.raises(ConfigurationError) as caught:
        load_settings()
    assert str(caught.value) == f"{given} in session-authority.toml is not a setting; {advice}"


def test_an_empty_value_counts_as_unset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = load_settings(session_limit=7).model_dump()
    (tmp_path / "session-authority.toml").write_text(
        'session_limit = 7\nidle_timeout_seconds = ""\n'
    )
    for name in Settings.model_fields:
        monkeypatch.setenv(f"SESSION_AUTHORITY_{name.upper()}", "")
    assert load_settings().model_dump() == expected


def test_all_bad_values_are_reported_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SESSION_AUTHORITY_LISTEN", "x")
    monkeypatch.setenv("SESSION_AUTHORITY_SESSION_LIMIT", "x")
    with pytest.raises(ConfigurationError) as caught:
        load_settings()
    assert len(str(caught.value).splitlines()) == 2


@pytest.mark.parametrize(
    ("misspelt", "meant"),
    [
        ("SESSION_AUTHORITY_IDLE_TIMEOUT", "SESSION_AUTHORITY_IDLE_TIMEOUT_SECONDS"),
        ("SESSION_AUTHORITY_SESION_LIMIT", "SESSION_AUTHORITY_SESSION_LIMIT"),
        ("SESSION_AUTHORITY_DATABASE", "SESSION_AUTHORITY_DATABASE_URL"),
        ("SESSION_AUTHORITY_TLS_CERTIFICATES", "SESSION_AUTHORITY_TLS_CERTIFICATE"),
    ],
)
def test_a_misspelt_variable_is_refused(
    misspelt: str, meant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(misspelt, "300")
    with pytest.raises(
        ConfigurationError, match=f"{misspelt} is not a setting; did you mean {meant}"
    ):
        load_settings()


@pytest.mark.parametrize("name", ["ADDRESS", "API_KEY", "TLS", "CONFIG", "NEAR_CACHE"])
def test_a_variable_of_another_program_is_ignored(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"SESSION_AUTHORITY_{name}", "x")
    assert load_settings().policy == Policy()


def _variables_of_a_service(name: str, ports: dict[str, int]) -> dict[str, str]:
    """Return what a kubelet injects for a Service, by `FromServices` of its package `envvars`."""
    prefix = name.upper().replace("-", "_")
    first = next(iter(ports.values()))
    found = {
        f"{prefix}_SERVICE_HOST": "10.96.0.7",
        f"{prefix}_SERVICE_PORT": str(first),
        f"{prefix}_PORT": f"tcp://10.96.0.7:{first}",
    }
    for port_name, port in ports.items():
        link = f"{prefix}_PORT_{port}_TCP"
        found |= {
            f"{prefix}_SERVICE_PORT_{port_name.upper().replace('-', '_')}": str(port),
            link: f"tcp://10.96.0.7:{port}",
            f"{link}_PROTO": "tcp",
            f"{link}_PORT": str(port),
            f"{link}_ADDR": "10.96.0.7",
        }
    return found


@pytest.mark.parametrize(
    "service",
    ["", "-metrics", "-worker-interval-seconds", "-listen", "-database", "-host", "-audit-log"],
)
def test_what_kubernetes_injects_for_a_service_is_ignored(
    service: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    defaults = load_settings().model_dump()
    ports = {"grpc": 50_551, "metrics-listen": 9_464}
    variables = _variables_of_a_service(f"session-authority{service}", ports)
    assert len(variables) == 13
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert load_settings().model_dump() == defaults
