"""The sessions page of the gateway: its settings, and the peers and hosts that it believes."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from session_authority import testing
from session_authority_gateway.application import new_application, new_parts
from session_authority_gateway.settings import load_gateway_settings
from session_authority_server.config import ConfigurationError
from tests.gateway.test_page import proof_on

HOST = "shop.example"
ORIGIN = f"https://{HOST}"
PROXY, STRANGER = "127.0.0.1", "203.0.113.7"
FORWARDED = {"x-forwarded-proto": "https", "x-forwarded-for": "198.51.100.5"}


@pytest.fixture(scope="module")
def authority() -> Iterator[testing.Authority]:
    with testing.authority() as running:
        yield running


@asynccontextmanager
async def browser(
    authority: testing.Authority, peer: str = PROXY, host: str = HOST, **settings: str
) -> AsyncIterator[httpx.AsyncClient]:
    """Yield a client of a gateway, as a peer of the gateway."""
    given = {"page_path": "/sessions", "sign_in_url": "/sign-in", **settings}
    async with authority.async_client() as client:
        parts = new_parts(load_gateway_settings(None, **given), client)
        transport = httpx.ASGITransport(new_application(parts, lambda: True), client=(peer, 4711))
        async with httpx.AsyncClient(transport=transport, base_url=f"http://{host}") as it:
            yield it


async def sign_out(
    browser: httpx.AsyncClient, authority: testing.Authority, **headers: str
) -> httpx.Response:
    """Sign out with a form of the page."""
    token = authority.sign_in("ada").token.reveal()
    headers = {"cookie": f"__Host-auth_session={token}", **headers}
    page = await browser.get("/sessions", headers=headers)
    return await browser.post("/sessions/sign-out", data={"proof": proof_on(page)}, headers=headers)


async def test_the_forwarded_scheme_of_a_trusted_proxy_counts(authority: testing.Authority) -> None:
    async with browser(authority) as trusted:
        done = await sign_out(trusted, authority, origin=ORIGIN, **FORWARDED)
    async with browser(authority, peer=STRANGER) as untrusted:
        refused = await sign_out(untrusted, authority, origin=ORIGIN, **FORWARDED)
    async with browser(authority, peer=STRANGER, trusted_proxies=STRANGER) as other:
        done_too = await sign_out(other, authority, origin=ORIGIN, **FORWARDED)
    assert [each.status_code for each in (done, refused, done_too)] == [303, 403, 303]


async def test_with_an_origin_the_host_does_not_matter(authority: testing.Authority) -> None:
    async with browser(authority, host="evil.example", origin=ORIGIN) as wrong:
        done = await sign_out(wrong, authority, origin=ORIGIN)
        refused = await sign_out(wrong, authority, origin="http://evil.example")
    assert (done.status_code, refused.status_code) == (303, 403)


async def test_the_plain_cookie_counts_on_localhost_only(authority: testing.Authority) -> None:
    token = authority.sign_in("ada").token.reveal()
    plain = {"cookie": f"auth_session={token}"}
    async with browser(authority, host="localhost") as local:
        assert (await local.get("/sessions", headers=plain)).status_code == 200
        proxied = await local.get("/sessions", headers=plain | FORWARDED)
        assert proxied.status_code == 401
    async with browser(authority) as site:
        assert (await site.get("/sessions", headers=plain)).status_code == 401
    async with browser(authority, host="localhost", origin=ORIGIN) as site:
        assert (await site.get("/sessions", headers=plain)).status_code == 401


async def test_the_cookie_has_the_name_and_the_domain_of_the_settings(
    authority: testing.Authority,
) -> None:
    token = authority.sign_in("ada").token.reveal()
    settings = {"cookie_name": "shop", "cookie_domain": HOST, "origin": ORIGIN}
    async with browser(authority, **settings) as site:
        named = {"cookie": f"__Secure-shop={token}"}
        page = await site.get("/sessions", headers=named)
        left = await site.post(
            "/sessions/sign-out", data={"proof": proof_on(page)}, headers=named | {"origin": ORIGIN}
        )
    cleared = left.headers["set-cookie"]
    assert cleared.startswith("__Secure-shop=; Path=/; Max-Age=0;")
    assert f"Domain={HOST}; Secure; HttpOnly; SameSite=Lax" in cleared


async def test_the_settings_give_the_page_its_look(
    authority: testing.Authority, tmp_path: Path
) -> None:
    settings = {
        "page_app_name": "Shop & Co",
        "page_home_url": "/account",
        "page_signed_out_path": "/bye",
        "page_language": "de",
        "page_catalogues": str(tmp_path),
        "page_stylesheet_path": "/look.css",
        "page_icon_path": "/icon.svg",
        "origin": ORIGIN,
    }
    async with browser(authority, **settings) as site:
        left = await sign_out(site, authority, origin=ORIGIN)
        page = await site.get("/sessions")
    assert left.headers["location"] == "/bye"
    for text in ("Shop &amp; Co", 'href="/look.css"', 'href="/icon.svg"', 'lang="de"'):
        assert text in page.text


async def test_without_a_path_there_is_no_page(authority: testing.Authority) -> None:
    async with browser(authority, page_path="") as site:
        assert (await site.get("/sessions")).status_code == 404


REFUSED = [
    ("page_path", "sessions", "give a path"),
    ("page_path", "/", "give a path"),
    ("page_path", "/sessions/", "give a path"),
    ("page_path", "//sessions", "give a path"),
    ("page_path", "/a/../b", "give a path"),
    ("page_path", "/{below:path}", "give a path"),
    ("page_path", "/sessions?x=1", "give a path"),
    ("page_path", "/sess%69ons", "give a path"),
    ("page_path", "/verify", "uses /verify"),
    ("page_path", "/verify/nginx", "uses /verify"),
    ("page_path", "/healthz", "uses /healthz"),
    ("page_path", "/session_authority.v1.SessionService/x", "uses /session_authority"),
    ("page_home_url", "javascript:alert(1)", "must be a path"),
    ("page_home_url", "//evil.example", "must be a path"),
    ("page_signed_out_path", "https://evil.example/", "must be a path"),
    ("page_stylesheet_path", "/\\evil.example/x.css", "must be a path"),
    ("page_icon_path", "icon.svg", "must be a path"),
    ("page_language", "xx", "has no catalogue"),
    ("page_catalogues", "/no/such/folder", "give a folder"),
    ("sign_in_url", "/\tevil", "give a path"),
    ("sign_in_url", "/\\evil.example", "give a path"),
    ("sign_in_url", "//evil.example", "give a path"),
]


def test_an_unusable_setting_is_refused_by_name() -> None:
    for name, value, why in REFUSED:
        with pytest.raises(ConfigurationError) as refused:
            load_gateway_settings(None, **{name: value})
        assert f"SESSION_AUTHORITY_GATEWAY_{name.upper()}" in str(refused.value)
        assert why in str(refused.value)
