from pathlib import Path
from typing import Any

import pytest

from session_authority import ConfigurationError
from session_authority.web.sessions_page import PageOptions

ADDRESSES = ["home_url", "sign_in_url", "reauthenticate_url"]
PATHS = ["signed_out_path", "stylesheet_path", "icon_path"]


def options(**values: Any) -> PageOptions:
    return PageOptions(**values)


@pytest.mark.parametrize("option", ADDRESSES)
@pytest.mark.parametrize(
    "address", ["/", "/sign-in?a=b#c", "https://login.example/x", "http://localhost:8000/in"]
)
def test_a_url_option_is_a_path_or_a_web_address(option: str, address: str) -> None:
    assert getattr(options(**{option: address}), option) == address


@pytest.mark.parametrize("option", ADDRESSES + PATHS)
@pytest.mark.parametrize(
    "address",
    [
        "",
        "sign-in",
        "//evil.example",
        "/\\evil.example",
        "/\t/evil.example",
        "javascript:alert(1)",
        "data:text/html,x",
        "https://",
        "https://[bad",
        "https://a b",
        " /sign-in",
    ],
)
def test_an_unsafe_url_is_refused_at_start(option: str, address: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        options(**{option: address})
    assert caught.value.setting == option


@pytest.mark.parametrize("option", PATHS)
def test_a_path_option_must_be_a_path_of_the_site(option: str) -> None:
    assert getattr(options(**{option: "/x"}), option) == "/x"
    with pytest.raises(ConfigurationError, match="path of this site"):
        options(**{option: "https://app.example/x"})


def test_the_page_states_the_delay_of_a_near_cache_unless_the_app_sets_another() -> None:
    assert options().with_near_cache().effective_within_seconds == 2
    assert options(effective_within_seconds=0).with_near_cache().effective_within_seconds == 0


@pytest.mark.parametrize(
    "values", [{"effective_within_seconds": -1}, {"effective_within_seconds": 3601}]
)
def test_the_announced_delay_is_limited(values: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="from 0 to 3600"):
        options(**values)


def test_the_folder_of_catalogues_must_exist(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="is not a folder"):
        PageOptions(catalogues=tmp_path / "missing")
