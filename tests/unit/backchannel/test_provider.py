import pytest

from session_authority.backchannel.provider import PROVIDERS_LIMIT, Provider, providers_of


def test_the_discovery_document_is_below_the_issuer() -> None:
    expected = "https://id.example/realms/a/.well-known/openid-configuration"
    assert Provider("https://id.example/realms/a", "shop").discovery_url == expected
    assert Provider("https://id.example/realms/a/", "shop").discovery_url == expected


@pytest.mark.parametrize(
    "address", ["http://localhost:3000", "http://127.0.0.2", "http://[::1]:1/oidc"]
)
def test_http_is_enough_on_this_machine(address: str) -> None:
    assert Provider(address, "shop", address).issuer == address


@pytest.mark.parametrize(
    "address",
    [
        "",
        "id.example",
        "http://id.example",
        "http://localhost.evil.example",
        "ftp://id.example",
        "https://",
        "https://a b",
        "https://user@id.example",
        "https://id.example:port",
        "https://[",
        "https://é.example",
        "https://id.example\n",
        None,
    ],
)
def test_other_addresses_are_refused(address: str) -> None:
    with pytest.raises(ValueError, match="issuer must be an address"):
        Provider(address, "shop")
    if address is not None:
        with pytest.raises(ValueError, match="jwks_url must be an address"):
            Provider("https://id.example", "shop", address)


def test_an_issuer_with_a_query_and_an_empty_client_id_are_refused() -> None:
    with pytest.raises(ValueError, match="neither a query nor a fragment"):
        Provider("https://id.example?a=1", "shop")
    with pytest.raises(ValueError, match="client_id must be"):
        Provider("https://id.example", "")


def test_a_setting_lists_providers() -> None:
    one = Provider("https://id.example", "shop")
    given = [
        one,
        {"issuer": "https://b.example", "client_id": "x", "jwks_url": "https://b.example/k"},
    ]
    assert providers_of(given) == (
        one,
        Provider("https://b.example", "x", "https://b.example/k"),
    )
    assert providers_of([]) == ()


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ("https://id.example", "give a list of providers"),
        (7, "give a list of providers"),
        ([{}] * (PROVIDERS_LIMIT + 1), "give at most 1,000 providers"),
        (["https://id.example"], "provider 1 must be a table with issuer, client_id, jwks_url"),
        ([{"issuer": "https://id.example"}], "provider 1 needs client_id"),
        ([{"client_id": "shop"}], "provider 1 needs issuer"),
        (
            [{"issuer": "https://id.example", "client_id": "a", "jwks_uri": "https://id.example"}],
            "provider 1 has no setting jwks_uri; give issuer, client_id, jwks_url",
        ),
        (
            [
                {"issuer": "https://id.example", "client_id": "a"},
                {"issuer": "id", "client_id": "a"},
            ],
            "provider 2: issuer must be an address",
        ),
        (
            [
                Provider("https://id.example", "a"),
                Provider("https://id.example", "b"),
                Provider("https://id.example", "a", "https://id.example/keys"),
            ],
            "provider 3 has the issuer and client_id of provider 1; remove one",
        ),
        ([{"issuer": "https://id.example", "client_id": 7}], "provider 1: client_id must be"),
    ],
)
def test_an_unusable_setting_is_explained(given: object, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        providers_of(given)
