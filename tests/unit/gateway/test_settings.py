from pathlib import Path

import pytest

from session_authority.backchannel import Provider
from session_authority_gateway.settings import GatewaySettings, load_gateway_settings
from session_authority_server.config import ConfigurationError, load_settings
from tests.support.gateway import PREFIX


def test_the_defaults_apply_without_settings() -> None:
    settings = load_gateway_settings()
    assert settings.listen == "127.0.0.1:50552"
    assert settings.proxies.trusts("127.0.0.1")
    assert settings.proxies.trusts("::1")
    assert not settings.proxies.trusts("192.0.2.1")
    assert settings.cookie.name(local=False) == "__Host-auth_session"


def test_the_environment_outranks_the_table_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "session-authority.toml"
    file.write_text('listen = "127.0.0.1:1"\n[gateway]\ncookie_name = "a"\nsign_in_url = "/in"\n')
    monkeypatch.setenv(f"{PREFIX}COOKIE_NAME", "b")
    monkeypatch.setenv(f"{PREFIX}DRAIN_SECONDS", "1m")
    settings = load_gateway_settings(file)
    assert (settings.cookie_name, settings.sign_in_url) == ("b", "/in")
    assert settings.drain_seconds == 60
    assert settings.listen == "127.0.0.1:50552"
    assert load_settings(file).listen == "127.0.0.1:1"


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("listen", "here", "give host:port"),
        ("grpc_listen", "here", "give host:port"),
        ("metrics_listen", "here", "give host:port"),
        ("trusted_proxies", "10.0.0.0/8, proxy", "must be addresses, networks"),
        ("sign_in_url", "sign-in", "give a path such as /sign-in"),
        ("sign_in_url", "//evil.example", "give a path such as /sign-in"),
        ("sign_in_url", "https://", "give a path such as /sign-in"),
        ("sign_in_url", "https://[", "give a path such as /sign-in"),
        ("sign_in_url", "https://a.example/é", "give a path such as /sign-in"),
        ("sign_in_url", "/é", "give a path such as /sign-in"),
        ("reauthenticate_url", "javascript:alert(1)", "give a path such as /sign-in"),
        ("cookie_name", "__Host-a", "no __Host- or __Secure- prefix"),
        ("cookie_domain", "example", "must have the form example.com"),
        ("origin", "shop.example", "must be a scheme, a host"),
        ("cached_sessions", "0", "greater than or equal to 1"),
        ("drain_seconds", "soon", "a duration such as"),
        ("log_level", "loud", "give one of debug"),
        ("providers", "https://id.example", "give a JSON list such as"),
        ("providers", "[" * 20_000, "give a JSON list such as"),
        ("providers", "{}", "give a list of providers"),
        ("providers", '[{"issuer": "https://id.example"}]', "provider 1 needs client_id"),
        ("page_path", "/backchannel/x", "the gateway itself uses /backchannel"),
        ("tls_certificate", "\0", "give a path"),
        ("tls_key", "key.pem", "give both"),
        ("tls_client_ca", "ca.pem", "needs tls_certificate"),
    ],
)
def test_an_invalid_setting_is_named(name: str, value: str, problem: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        load_gateway_settings(None, **{name: value})
    assert problem in str(refused.value)
    assert f"{PREFIX}{name.upper()}" in str(refused.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("sign_in_url", "https://id.example/in?app=1"),
        ("grpc_listen", "[::1]:0"),
        ("cookie_domain", "example.com"),
        ("origin", "HTTPS://Shop.example:443"),
    ],
)
def test_valid_settings_are_taken(name: str, value: str) -> None:
    assert getattr(load_gateway_settings(None, **{name: value}), name)


def test_providers_come_from_the_environment_or_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert load_gateway_settings().providers == ()
    file = tmp_path / "session-authority.toml"
    file.write_text(
        '[[gateway.providers]]\nissuer = "https://id.example"\nclient_id = "shop"\n'
        '[[gateway.providers]]\nissuer = "https://b.example"\nclient_id = "shop"\n'
        'jwks_url = "https://b.example/keys"\n'
    )
    assert load_gateway_settings(file).providers == (
        Provider("https://id.example", "shop"),
        Provider("https://b.example", "shop", "https://b.example/keys"),
    )
    load_settings(file)  # the server leaves the table of the gateway alone
    monkeypatch.setenv(
        f"{PREFIX}PROVIDERS", '[{"issuer": "https://c.example", "client_id": "shop"}]'
    )
    assert load_gateway_settings(file).providers == (Provider("https://c.example", "shop"),)


def test_a_misspelt_variable_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"{PREFIX}LISTN", "127.0.0.1:0")
    with pytest.raises(ConfigurationError, match=f"did you mean {PREFIX}LISTEN"):
        load_gateway_settings()
    load_settings()  # the server leaves the variables of the gateway alone


def test_a_misspelt_name_in_the_table_is_named(tmp_path: Path) -> None:
    file = tmp_path / "session-authority.toml"
    for text, problem in (
        ('[gateway]\nlistn = "x"\n', "did you mean listen?"),
        ("gateway = 1\n", "gateway must be a table"),
        ('[gatway]\nlisten = "127.0.0.1:1"\n', ""),
    ):
        file.write_text(text)
        if problem:
            with pytest.raises(ConfigurationError) as refused:
                load_gateway_settings(file)
            assert problem in str(refused.value)
        else:
            with pytest.raises(ConfigurationError, match="gatway"):
                load_settings(file)


def test_every_setting_has_a_description() -> None:
    assert all(field.description for field in GatewaySettings.model_fields.values())
