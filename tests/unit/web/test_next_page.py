import pytest

from session_authority.web.next_page import confirm_address, next_page

CONFIRM = "/account/confirm"


@pytest.mark.parametrize("given", ["/", "/vault", "/vault?x=1&y=%2F", "/account/confirmed"])
def test_next_page_accepts_paths_of_this_site(given: str) -> None:
    assert next_page(given, default="/home", confirm_url=CONFIRM) == given


@pytest.mark.parametrize(
    "given",
    [
        None,
        "",
        "vault",
        "//evil.example",
        "/\\evil.example",
        "\\\\evil.example",
        "https://evil.example",
        "javascript:alert(1)",
        "/\t/evil.example",
        " //evil.example",
        "/vault\r\nSet-Cookie: a=b",
        CONFIRM,
        CONFIRM + "/",
        CONFIRM + "?next=/account/confirm",
        "/account/./confirm",
        "/account/vault/../confirm",
        "/account/%63onfirm",
    ],
)
def test_next_page_refuses_other_sites_and_the_confirming_page(given: str | None) -> None:
    assert next_page(given, default="/home", confirm_url=CONFIRM) == "/home"


def test_the_confirming_page_gets_the_path_of_the_users_page() -> None:
    assert (
        confirm_address("/prove?again=1", method="GET", path="/vault?x=1")
        == "/prove?again=1&next=%2Fvault%3Fx%3D1"
    )
    assert confirm_address(CONFIRM, method="GET", path=CONFIRM + "?next=/a") == CONFIRM


@pytest.mark.parametrize(
    ("referer", "address"),
    [
        ("https://app.example/settings?tab=2", CONFIRM + "?next=%2Fsettings%3Ftab%3D2"),
        ("https://app.example.evil/settings", CONFIRM),
        ("https://evil.example/", CONFIRM),
        ("", CONFIRM),
    ],
)
def test_after_a_refused_form_the_user_returns_to_the_page_with_the_form(
    referer: str, address: str
) -> None:
    found = confirm_address(
        CONFIRM, method="POST", path="/delete", referer=referer, origin="https://app.example"
    )
    assert found == address
