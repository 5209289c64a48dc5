import pytest

from session_authority.web.cookies import SessionCookie
from session_authority.web.origin import normal_origin, site_origin
from session_authority.web.site import Site


@pytest.mark.parametrize(
    ("given", "normal"),
    [
        ("https://app.example", "https://app.example"),
        ("HTTPS://App.Example", "https://app.example"),
        ("https://app.example/", "https://app.example"),
        ("https://app.example:443", "https://app.example"),
        ("https://app.example:0443", "https://app.example"),
        ("https://app.example:", "https://app.example"),
        ("http://app.example:80/", "http://app.example"),
        ("http://app.example:443", "http://app.example:443"),
        ("https://app.example:80", "https://app.example:80"),
        ("https://app.example.", "https://app.example."),
        ("http://localhost:8000", "http://localhost:8000"),
        ("http://127.0.0.1:8000", "http://127.0.0.1:8000"),
        ("https://[2001:DB8:0::5]:443", "https://[2001:db8::5]"),
        ("https://[::1]:8443", "https://[::1]:8443"),
        ("https://app_1.example", "https://app_1.example"),
        ("https://B\u00fccher.Example", "https://xn--bcher-kva.example"),
        ("https://xn--BCHER-kva.example", "https://xn--bcher-kva.example"),
    ],
)
def test_spellings_of_one_origin_have_one_normal_form(given: str, normal: str) -> None:
    assert normal_origin(given) == normal
    assert Site(origin=given).origin == normal
    assert normal_origin(normal) == normal


@pytest.mark.parametrize(
    "given",
    [
        "",
        "null",
        "*",
        "nonsense",
        "app.example",
        "//app.example",
        "https:app.example",
        "https://",
        "https://.",
        "https:///",
        "https://app.example//",
        "https://app.example/account",
        "https://app.example?x=1",
        "https://app.example#top",
        "https://ada@app.example",
        "https://ada:secret@app.example",
        "https://app.example:port",
        "https://app.example:-1",
        "https://app.example:+443",
        "https://app.example:65536",
        "https://app.example:443:443",
        "https://app.example:\u0664\u0664\u0663",
        "https://app.example:" + "9" * 5000,
        "https://*.app.example",
        "https://app.example,https://shop.example",
        "https://app.example https://shop.example",
        " https://app.example",
        "https://app.example\n",
        "https://app\t.example",
        "https://app.example\\evil.example",
        "https://app.example%2eevil.example",
        "https://::1",
        "https://[::1",
        "https://[fe80::1%25eth0]",
        "https://[app.example]",
        "https://stra\u00dfe.example",  # browsers disagree with Python about this letter
        "https://" + "\u00fc" * 70 + ".example",
        "ftp://app.example",
        "wss://app.example",
        "http\u017f://app.example",
        "file:///app",
        "javascript://app.example",
    ],
)
def test_an_invalid_origin_is_refused_at_start(given: str) -> None:
    assert normal_origin(given) is None
    with pytest.raises(ValueError, match=r'"https://app\.example"'):
        Site(origin=given)


@pytest.mark.parametrize("given", [["https://app.example"], ("https://a", "https://b"), b"x", 5])
def test_an_origin_that_is_not_a_str_is_refused(given: object) -> None:
    with pytest.raises(ValueError, match="leave it out if the site has several origins"):
        site_origin(given)


def test_a_site_needs_no_origin() -> None:
    assert Site(SessionCookie()).origin is None
