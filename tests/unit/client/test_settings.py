import math
from pathlib import Path

import grpc
import pytest

from session_authority import (
    AsyncSessionClient,
    ConfigurationError,
    NearCache,
    SessionAuthorityError,
    SessionClient,
    Unavailable,
    _settings,
)
from session_authority._channel import channel_options
from session_authority._settings import Settings, is_local
from session_authority_server.domain.duration import parse_duration
from tests.support.fake_authority import TOKEN, ThreadedAuthority, accepted
from tests.unit.client.conftest import Twin

CERTIFICATES = b"-----BEGIN CERTIFICATE-----"
KEY = b"-----BEGIN PRIVATE KEY-----"
NAMES = (
    "ADDRESS",
    "API_KEY",
    "DEADLINE_SECONDS",
    "TLS",
    "TLS_ROOT_CERTIFICATES",
    "TLS_CLIENT_CERTIFICATE",
    "TLS_CLIENT_KEY",
    "NEAR_CACHE",
    "BATCHING",
    "TRACING",
)


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NAMES:
        monkeypatch.delenv(f"SESSION_AUTHORITY_{name}", raising=False)


def test_an_empty_environment_gives_the_defaults() -> None:
    unset = Settings.from_env({f"SESSION_AUTHORITY_{name}": "" for name in NAMES})
    assert unset == Settings.from_env({}) == Settings()
    assert unset.address == "127.0.0.1:50551"
    assert unset.deadline_seconds == 5
    assert unset.metadata == ()
    assert not unset.secure


def test_the_environment_gives_every_setting(
    client_type: type[SessionClient | AsyncSessionClient],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    certificates = tmp_path / "roots.pem"
    certificates.write_bytes(CERTIFICATES)
    key = tmp_path / "client.key"
    key.write_bytes(KEY)
    for name, value in {
        "ADDRESS": "sessions.example:443",
        "API_KEY": "key-1",
        "DEADLINE_SECONDS": "2.5",
        "TLS": "on",
        "TLS_ROOT_CERTIFICATES": str(certificates),
        "TLS_CLIENT_CERTIFICATE": str(certificates),
        "TLS_CLIENT_KEY": str(key),
        "BATCHING": "off",
        "TRACING": "on",
    }.items():
        monkeypatch.setenv(f"SESSION_AUTHORITY_{name}", value)

    client = client_type.from_env()

    assert client._settings == Settings(
        "sessions.example:443",
        api_key="key-1",
        deadline_seconds=2.5,
        tls=True,
        root_certificates=CERTIFICATES,
        client_certificate=CERTIFICATES,
        client_key=KEY,
        batching=False,
        tracing=True,
    )
    assert isinstance(client, client_type)
    assert repr(client) == f"{client_type.__name__}('sessions.example:443')"


@pytest.mark.parametrize("text", ["500ms", "1m30s", "1.5s", "1d2h3m4s5ms", "m5", "1s1m", "1 s"])
def test_a_deadline_takes_the_same_durations_as_the_servers_settings(text: str) -> None:
    environment = {"SESSION_AUTHORITY_DEADLINE_SECONDS": text}
    length = parse_duration(text)
    if length is None:
        with pytest.raises(ConfigurationError, match="such as 500ms"):
            Settings.from_env(environment)
    else:
        assert Settings.from_env(environment).deadline_seconds == length.total_seconds()


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("ADDRESS", "two words:1", "must have the form host:port"),
        ("API_KEY", "key\n1", "must be printable ASCII without spaces"),
        ("API_KEY", "clé", "must be printable ASCII without spaces"),
        ("DEADLINE_SECONDS", "soon", "must be a duration such as 500ms or a number, not 'soon'"),
        ("DEADLINE_SECONDS", "0", "must be a positive number of seconds"),
        ("DEADLINE_SECONDS", "inf", "must be a positive number of seconds"),
        ("TLS", "yes", 'must be "on" or "off", not \'yes\''),
        (
            "TLS_ROOT_CERTIFICATES",
            "/nowhere.pem",
            "names a file that cannot be read: '/nowhere.pem' (No such file or directory)",
        ),
        (
            "TLS_CLIENT_KEY",
            "/nowhere.pem",
            "names a file that cannot be read: '/nowhere.pem' (No such file or directory)",
        ),
        ("TLS_CLIENT_CERTIFICATE", "/dev/null", "is given without client_key"),
        ("TLS_CLIENT_KEY", "/dev/null", "is given without client_certificate"),
    ],
)
def test_an_invalid_variable_is_named(name: str, value: str, problem: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Settings.from_env({f"SESSION_AUTHORITY_{name}": value})
    assert caught.value.setting == f"SESSION_AUTHORITY_{name}"
    assert caught.value.problem == problem
    assert f"SESSION_AUTHORITY_{name} {problem}" in str(caught.value)
    assert isinstance(caught.value, SessionAuthorityError)
    assert isinstance(caught.value, ValueError)


def test_tracing_without_opentelemetry_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_settings, "find_spec", lambda _name: None)
    with pytest.raises(
        ConfigurationError, match=r"SESSION_AUTHORITY_TRACING is on, but .* the extra otel"
    ):
        Settings.from_env({"SESSION_AUTHORITY_TRACING": "on"})


def test_certificates_are_refused_if_tls_is_off(tmp_path: Path) -> None:
    certificates = tmp_path / "roots.pem"
    certificates.write_bytes(CERTIFICATES)
    with pytest.raises(ConfigurationError, match="ROOT_CERTIFICATES is given, but TLS is off"):
        Settings.from_env(
            {
                "SESSION_AUTHORITY_TLS": "off",
                "SESSION_AUTHORITY_TLS_ROOT_CERTIFICATES": str(certificates),
            }
        )


@pytest.mark.parametrize(
    "settings",
    [
        {"address": ""},
        {"api_key": ""},
        {"deadline_seconds": math.nan},
        {"deadline_seconds": -1.0},
        {"channel_credentials": grpc.local_channel_credentials(), "tls": True},
        {
            "channel_credentials": grpc.local_channel_credentials(),
            "root_certificates": CERTIFICATES,
        },
        {
            "channel_credentials": grpc.local_channel_credentials(),
            "client_certificate": CERTIFICATES,
            "client_key": KEY,
        },
        {"client_certificate": CERTIFICATES, "client_key": KEY, "tls": False},
        {"client_certificate": CERTIFICATES},
        {"client_key": KEY},
        {"client_certificate": b"", "client_key": KEY},
        {"client_certificate": CERTIFICATES, "client_key": CERTIFICATES},
        {
            "client_key": b"-----BEGIN ENCRYPTED PRIVATE KEY-----",
            "client_certificate": CERTIFICATES,
        },
    ],
    # Without ids, pytest would name tests by the objects, differently in each process of a run.
    ids=lambda arguments: "-".join(arguments),
)
def test_an_invalid_argument_of_the_client_is_named(
    client_type: type[SessionClient | AsyncSessionClient], settings: dict[str, object]
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        client_type(**settings)  # type: ignore[arg-type]
    assert caught.value.setting in settings


def test_a_refused_api_key_is_not_quoted() -> None:
    with pytest.raises(ConfigurationError) as caught:
        Settings(api_key="key-1\n")
    assert "key-1" not in str(caught.value)
    assert "key-1" not in repr(Settings(api_key="key-1"))


def test_a_refused_client_key_is_not_quoted() -> None:
    with pytest.raises(ConfigurationError) as caught:
        Settings(client_certificate=CERTIFICATES, client_key=b"secret")
    assert "secret" not in str(caught.value)
    assert "PRIVATE" not in repr(Settings(client_certificate=CERTIFICATES, client_key=KEY))


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1:1",
        "127.8.9.10:1",
        "localhost:1",
        "LOCALHOST:1",
        "[::1]:1",
        "::1",
        "unix:/run/authority.sock",
        "unix-abstract:authority",
        "ipv4:127.0.0.1:1,127.0.0.2:1",
        "ipv6:[::1]:1",
        "dns:localhost:1",
        "dns:///localhost:1",
    ],
)
def test_an_address_on_this_host_uses_plaintext_by_default(address: str) -> None:
    assert is_local(address)
    assert not Settings(address).secure
    assert Settings(address).credentials() is None
    assert ("grpc.enable_http_proxy", 0) in channel_options(Settings(address))


@pytest.mark.parametrize(
    "address",
    [
        "sessions.example:443",
        "localhost.example:1",
        "127.0.0.1.example:1",
        "10.0.0.1:1",
        "0.0.0.0:1",
        "[2001:db8::1]:1",
        "2001:db8::1",
        "ipv4:127.0.0.1:1,10.0.0.1:1",
        "dns:///sessions.example:1",
        "dns://192.0.2.53/localhost:1",
        "xds:///localhost:1",
    ],
)
def test_an_address_that_may_leave_this_host_is_encrypted(address: str) -> None:
    assert not is_local(address)
    assert Settings(address).secure
    assert Settings(address).credentials() is not None
    assert "grpc.enable_http_proxy" not in dict(channel_options(Settings(address)))


@pytest.mark.parametrize(
    ("address", "authority"),
    [("ipv4:10.0.0.1:1,10.0.0.2:1", "10.0.0.1:1"), ("ipv6:///[::1]:1,[::2]:2", "[::1]:1")],
)
def test_a_list_of_addresses_has_one_authority(address: str, authority: str) -> None:
    assert ("grpc.default_authority", authority) in channel_options(Settings(address))


def test_the_tls_setting_overrides_the_default_of_the_address() -> None:
    assert not Settings("mesh.example:1", tls=False).secure
    assert Settings("127.0.0.1:1", tls=True).secure
    assert Settings("127.0.0.1:1", root_certificates=CERTIFICATES).secure
    assert Settings("127.0.0.1:1", client_certificate=CERTIFICATES, client_key=KEY).secure


async def test_a_tls_client_sends_no_call_to_a_plaintext_server(
    client_type: type[SessionClient | AsyncSessionClient],
) -> None:
    plain = ThreadedAuthority()
    plain.fake.answers("ValidateSession", accepted())
    twin = Twin(client_type(plain.fake.address, tls=True))
    with pytest.raises(Unavailable):
        await twin.validate(TOKEN)
    assert plain.fake.calls == []
    await twin.close()
    await plain.stop()


async def test_credentials_given_by_the_app_are_used(
    client_type: type[SessionClient | AsyncSessionClient],
) -> None:
    local = ThreadedAuthority(grpc.local_server_credentials())
    local.fake.answers("ValidateSession", accepted())
    credentials = grpc.local_channel_credentials()
    twin = Twin(client_type(local.fake.address, channel_credentials=credentials))
    assert await twin.validate(TOKEN)
    await twin.close()
    await local.stop()


@pytest.mark.parametrize(
    ("value", "expected"), [("on", NearCache()), ("off", None), ("", None)], ids=["on", "off", "no"]
)
def test_the_environment_turns_the_near_cache_on(
    client_type: type[SessionClient | AsyncSessionClient],
    monkeypatch: pytest.MonkeyPatch,
    value: str,
    expected: NearCache | None,
) -> None:
    monkeypatch.setenv("SESSION_AUTHORITY_NEAR_CACHE", value)
    client = client_type.from_env()
    assert client._settings.near_cache == expected
    assert (client.near_cache_statistics is not None) == (expected is not None)


def test_an_ambiguous_near_cache_variable_is_refused() -> None:
    with pytest.raises(
        ConfigurationError, match='SESSION_AUTHORITY_NEAR_CACHE must be "on" or "off"'
    ):
        Settings.from_env({"SESSION_AUTHORITY_NEAR_CACHE": "1"})


def test_a_near_cache_can_be_enabled_with_or_without_settings() -> None:
    assert SessionClient()._settings.near_cache is None
    assert SessionClient(near_cache=False)._settings.near_cache is None
    assert SessionClient(near_cache=True)._settings.near_cache == NearCache()
    chosen = NearCache(max_sessions=5)
    assert SessionClient(near_cache=chosen)._settings.near_cache == chosen
