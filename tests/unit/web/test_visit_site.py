"""The scheme and origin of a site, as its browsers see them."""

import pytest

from session_authority.web.client_ip import ClientIp
from session_authority.web.site import Site
from session_authority.web.visit import Visit
from tests.unit.web.visiting import NOON, Authority, visit


@pytest.mark.parametrize(
    ("peer", "proto", "origin"),
    [
        ("10.0.0.1", "https", "https://app.example"),
        ("10.0.0.1", "http, https", "https://app.example"),
        ("10.0.0.1", "gopher", "http://app.example"),
        ("10.0.0.1", "", "http://app.example"),
        ("8.8.8.8", "https", "http://app.example"),
    ],
)
def test_only_a_trusted_proxy_can_set_the_scheme_that_browsers_see(
    peer: str, proto: str, origin: str
) -> None:
    site = Site(client_ip=ClientIp(["10.0.0.0/8"]))
    assert visit(site=site, scheme="http", peer=peer, x_forwarded_proto=proto).origin == origin


@pytest.mark.parametrize(
    ("scheme", "host", "origin"),
    [
        ("https", "app.example:443", "https://app.example"),
        ("https", "App.EXAMPLE", "https://app.example"),
        ("https", "app.example.", "https://app.example."),
        ("https", "app.example:8443", "https://app.example:8443"),
        ("http", "app.example:80", "http://app.example"),
        ("https", "[2001:DB8::0:5]:443", "https://[2001:db8::5]"),
        ("https", "", "https://"),
        ("https", "app.example, evil.example", "https://app.example, evil.example"),
    ],
)
def test_the_origin_of_a_request_is_in_its_normal_form(scheme: str, host: str, origin: str) -> None:
    assert visit(scheme=scheme, host=host).origin == origin


def test_the_origin_can_be_configured() -> None:
    assert visit(site=Site(origin="https://app.example"), host="inner").origin == (
        "https://app.example"
    )


@pytest.mark.parametrize(
    "host", ["localhost", "localhost:8000", "app.localhost", "127.0.0.1:80", "[::1]:8000"]
)
@pytest.mark.parametrize(
    ("site", "headers"),
    [
        (Site(origin="https://app.example"), {}),
        (Site(origin="HTTPS://App.Example:443/"), {}),
        (Site(origin="http://app.example"), {}),
        (Site(origin="https://localhost:8443"), {}),
        (Site(origin="https://app.example"), {"origin": "http://localhost:8000"}),
        (Site(origin="https://app.example"), {"origin": "null"}),
        (Site(), {"origin": "https://app.example"}),
        (Site(), {"x-forwarded-proto": "https"}),  # the proxy is not trusted
        (Site(), {"forwarded": "for=203.0.113.7;Proto=HTTPS"}),
        (Site(), {"forwarded": 'for=203.0.113.7;host="app.example"'}),
        (Site(), {"x-forwarded-host": "app.example"}),
        (Site(), {"x-forwarded-host": "localhost, app.example:443"}),
        (Site(), {"x-forwarded-ssl": "on"}),
        (Site(), {"front-end-https": "On"}),
        (Site(), {"x-forwarded-scheme": "https"}),
        (Site(), {"x-url-scheme": "https"}),
        (Site(), {"cf-visitor": '{"scheme":"https"}'}),
        (Site(client_ip=ClientIp(["8.8.8.8"])), {"x-forwarded-proto": "https"}),
    ],
)
def test_behind_a_proxy_that_sends_host_localhost_the_plain_cookie_is_neither_read_nor_set(
    site: Site, headers: dict[str, str], host: str
) -> None:
    planted = {"cookie": "auth_session=ses_evil"}
    it = visit(site=site, scheme="http", host=host, **planted, **headers)

    assert it.tokens == ()
    Authority().run(it.sign_in("ana"))
    assert [each.name for each in it.set_cookies] == ["__Host-auth_session"]
    assert it.set_cookies[0].secure


@pytest.mark.parametrize("origin", [None, "http://localhost:8000", "http://[::1]:8000"])
def test_a_site_in_development_uses_the_plain_cookie(origin: str | None) -> None:
    it = visit(
        site=Site(origin=origin),
        scheme="http",
        host="localhost:8000",
        cookie="auth_session=ses_a",
        **{"x-forwarded-host": "localhost:5173", "x-forwarded-proto": "http"},
    )

    assert it.tokens == ("ses_a",)


def test_a_sign_in_over_plain_http_logs_once_why_browsers_reject_the_cookie(
    caplog: pytest.LogCaptureFixture,
) -> None:
    site = Site(clock=lambda: NOON)
    for _ in range(2):
        Authority().run(visit(site=site, scheme="http", host="192.0.2.1:8000").sign_in("ana"))

    (said,) = caplog.messages
    assert "http://192.0.2.1:8000 over plain HTTP" in said


@pytest.mark.parametrize(
    "it",
    [
        visit(),
        visit(scheme="http", host="localhost:8000"),
        visit(scheme="http", site=Site(origin="https://shop.example")),
        visit(
            scheme="http",
            site=Site(client_ip=ClientIp(["8.8.8.8"])),
            **{"x-forwarded-proto": "https"},
        ),
    ],
)
def test_a_site_whose_cookie_browsers_accept_logs_no_warning(
    it: Visit, caplog: pytest.LogCaptureFixture
) -> None:
    Authority().run(it.sign_in("ana"))

    assert [said for said in caplog.messages if "plain HTTP," in said] == []


def test_a_websocket_has_the_origin_of_its_page() -> None:
    assert visit(scheme="wss").origin == "https://app.example"
