"""The sessions page in a FastAPI app."""

import re
from collections.abc import AsyncIterator, Iterable
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, Request, Response
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from session_authority import AsyncSessionClient
from session_authority.web.client_ip import ClientIp
from session_authority.web.fastapi import (
    Sessions,
)
from session_authority.web.sessions_page import PageOptions
from session_authority.web.site import Site
from tests.integration.web.fastapi_shop import COOKIE, ORIGIN, Shop, shop_app


@pytest.mark.parametrize("page", ["account", "/", "//evil.example", "/account/", ""])
def test_a_page_is_installed_at_a_path(page: str) -> None:
    with pytest.raises(ValueError, match="/account/sessions"):
        Sessions.from_env().install(FastAPI(), page=page)


async def test_the_page_shows_and_ends_sessions(shop: Shop) -> None:
    async with shop.browser() as laptop, shop.browser() as phone:
        strangers = await laptop.get("/account/sessions")
        assert "ada" not in strangers.text
        assert shop.authority.store.asked == []
        await laptop.post("/sign-in/ada")
        await phone.post("/sign-in/ada")

        page = await laptop.get("/account/sessions")
        assert page.status_code == 200
        assert (await laptop.head("/account/sessions")).content == b""
        ended = await laptop.post(
            "/account/sessions/log-out-elsewhere",
            data={"proof": proof_on(page.text), "confirmed": "1"},
            headers={"origin": ORIGIN},
        )
        assert ended.status_code in {200, 303}, ended.text
        assert (await phone.get("/me")).status_code == 401
        assert (await laptop.get("/me")).status_code == 200

        left = await laptop.post(
            "/account/sessions/sign-out",
            data={"proof": proof_on(page.text)},
            headers={"origin": ORIGIN},
        )
        assert "Max-Age=0" in left.headers["set-cookie"]
        assert (await laptop.get("/me")).status_code == 401


async def test_the_page_states_the_revocation_delay_if_its_client_has_a_near_cache(
    shop: Shop,
) -> None:
    address, key = shop.authority.address, shop.authority.key
    async with (
        AsyncSessionClient(address, api_key=key, near_cache=True) as client,
        shop.browser() as elsewhere,
        shop.browser() as browser,
    ):
        await elsewhere.post("/sign-in/ada")
        await browser.post("/sign-in/ada")
        app = shop_app(Sessions(client), page="/account/sessions")
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url=ORIGIN) as other:
            cookie = {"cookie": f"{COOKIE}={browser.cookies[COOKIE]}"}
            cached = await other.get("/account/sessions", headers=cookie)
        assert "within 2 seconds" in cached.text
        assert "within" not in (await browser.get("/account/sessions")).text


async def test_the_page_refuses_requests_that_none_of_its_forms_sends(shop: Shop) -> None:
    async with shop.browser() as browser:
        await browser.post("/sign-in/ada")
        page = await browser.get("/account/sessions")
        form = {"proof": proof_on(page.text)}
        elsewhere = await browser.post(
            "/account/sessions/sign-out", data=form, headers={"origin": "https://evil.example"}
        )
        endless = await browser.post(
            "/account/sessions/sign-out",
            data=form | {"x": "x" * 100_000},
            headers={"origin": ORIGIN},
        )
        as_json = await browser.post(
            "/account/sessions/sign-out", json=form, headers={"origin": ORIGIN}
        )
        assert elsewhere.status_code == 403
        assert endless.status_code == 413
        assert endless.headers["cache-control"] == "no-store"
        assert "frame-ancestors 'none'" in endless.headers["content-security-policy"]
        assert "text/html" in endless.headers["content-type"]
        assert as_json.status_code in {400, 403, 415}
        assert (await browser.get("/me")).status_code == 200
        assert (await browser.get("/account/sessionsx")).status_code == 404
        assert (await browser.get("/account/sessions/nothing")).status_code == 404


_END = {"type": "http.disconnect"}
_PART = {"type": "http.request", "body": b"&confirm", "more_body": True}


@pytest.mark.parametrize(
    ("rest", "states_length"),
    [
        ([_END], True),
        ([_END], False),
        ([_PART, _END], True),
        ([_PART, _END], False),
        ([{"type": "http.request", "more_body": True}, _END], False),
        ([_PART | {"more_body": False}], True),  # by a server that reports no error
    ],
)
async def test_a_form_that_was_cut_off_is_ignored(
    shop: Shop, rest: list[dict[str, Any]], states_length: bool
) -> None:
    async with shop.browser() as browser:
        await browser.post("/sign-in/ada")
        proof = proof_on((await browser.get("/account/sessions")).text)
        token = browser.cookies[COOKIE]
    first: dict[str, Any] = {
        "type": "http.request",
        "body": f"proof={proof}".encode(),
        "more_body": True,
    }
    length = [("content-length", str(len(first["body"]) + 100))] if states_length else []

    status = await _post(
        shop.app,
        "/account/sessions/sign-out",
        [first, *rest],
        (("cookie", f"{COOKIE}={token}"), *length),
    )

    assert status == 400
    assert await shop.authority.client.validate(token)


@pytest.mark.parametrize("lengths", [("9" * 5000,), ("-5",), ("+5",), ("70", "71"), ("70, 70",)])
async def test_a_content_length_that_is_not_a_number_is_refused(
    shop: Shop, lengths: tuple[str, ...]
) -> None:
    async with shop.browser() as browser:
        await browser.post("/sign-in/ada")
        proof = proof_on((await browser.get("/account/sessions")).text)
        token = browser.cookies[COOKIE]
    form = {"type": "http.request", "body": f"proof={proof}".encode()}
    headers = [("cookie", f"{COOKIE}={token}"), *(("content-length", each) for each in lengths)]

    assert await _post(shop.app, "/account/sessions/sign-out", [form], headers) in {400, 413}
    assert await shop.authority.client.validate(token)


async def _post(
    app: FastAPI, path: str, messages: list[dict[str, Any]], headers: Iterable[tuple[str, str]]
) -> int:
    """Send a form as a server passes it to an app, and return the status."""
    waiting, sent = iter(messages), []

    async def receive() -> Any:
        return next(waiting)

    async def send(message: Any) -> None:
        sent.append(message)

    known = (("host", "app.example"), ("content-type", "application/x-www-form-urlencoded"))
    scope = {
        "type": "http",
        "method": "POST",
        "scheme": "https",
        "path": path,
        "root_path": "",
        "query_string": b"",
        "headers": [(key.encode(), value.encode()) for key, value in (*known, *headers)],
        "client": ("203.0.113.7", 4711),
    }
    await app(scope, receive, send)
    status: int = sent[0]["status"]
    return status


@pytest.mark.parametrize(
    ("tenant", "quoted"),
    [
        ("acme", "acme"),
        ("%5Cevil.example", "%5Cevil.example"),
        ("%5C%5Cevil.example", "%5C%5Cevil.example"),
        ("%09", "%09"),
        ("%0D%0ALocation: x", "%0D%0ALocation:%20x"),
        ("%25%32%66", "%252f"),
        ("a%3Fb%23c", "a%3Fb%23c"),
        ("b%C3%BCcher", "b%C3%BCcher"),
        ("%E3%82%BB", "%E3%82%BB"),
        ("%FF", "%EF%BF%BD"),
    ],
)
async def test_the_page_links_to_its_own_path_for_any_requested_path(
    shop: Shop, tenant: str, quoted: str
) -> None:
    outer = FastAPI()
    outer.mount("/{tenant}", shop.app)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(outer), base_url=ORIGIN) as browser:
        await browser.post("/acme/sign-in/ada")
        page = await browser.get(f"/{tenant}/account/sessions")
        left = await browser.post(
            f"/{tenant}/account/sessions/sign-out",
            data={"proof": proof_on(page.text)},
            headers={"origin": ORIGIN},
        )

    assert set(re.findall(r'action="([^"]*)/account/sessions/', page.text)) == {f"/{quoted}"}
    assert (left.status_code, left.headers["location"]) == (303, f"/{quoted}/account/sessions")
    assert "Max-Age=0" in left.headers["set-cookie"]


@pytest.mark.parametrize("path", ["//evil.example", "///evil.example", "/\\evil.example"])
async def test_no_root_path_redirects_to_another_host(shop: Shop, path: str) -> None:
    outer = FastAPI(root_path="")
    outer.mount("/{tenant:path}/shop", shop.app)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(outer), base_url=ORIGIN) as browser:
        left = await browser.post(
            httpx.URL(ORIGIN, raw_path=f"{path}/shop/account/sessions/sign-out".encode()),
            headers={"origin": ORIGIN, "content-type": "application/x-www-form-urlencoded"},
        )

    assert left.status_code == 303
    assert re.match(r"/[^/\\]", left.headers["location"])


async def test_the_paths_of_the_page_may_have_any_characters(shop: Shop) -> None:
    app = FastAPI()
    options = PageOptions(signed_out_path="/tsch\u00fc\u00df?gru\u00df=1&x=%20")
    shop.sessions.install(app, page="/konto/\u30bb\u30c3\u30b7\u30e7\u30f3", options=options)
    new = await shop.authority.client.create("ada")
    cookie = {"cookie": f"{COOKIE}={new.token.reveal()}"}
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app), base_url=ORIGIN, headers=cookie
    ) as browser:
        page = await browser.get("/konto/\u30bb\u30c3\u30b7\u30e7\u30f3")
        action = re.findall(r'action="([^"]*)/sign-out"', page.text)[0]
        left = await browser.post(
            f"{action}/sign-out", data={"proof": proof_on(page.text)}, headers={"origin": ORIGIN}
        )

    assert left.status_code == 303
    assert left.headers["location"] == "/tsch%C3%BC%C3%9F?gru%C3%9F=1&x=%20"
    assert not await shop.authority.client.validate(new.token)


async def test_a_body_without_a_length_is_not_read_to_its_end(shop: Shop) -> None:
    sent: list[int] = []

    async def body() -> AsyncIterator[bytes]:
        for number in range(1000):
            sent.append(number)
            yield b"x" * 1024

    async with shop.browser() as browser:
        form = {"content-type": "application/x-www-form-urlencoded", "origin": ORIGIN}
        answer = await browser.post("/account/sessions/sign-out", content=body(), headers=form)

    assert answer.status_code == 413
    assert answer.headers["cache-control"] == "no-store"
    assert len(sent) <= 6


async def test_the_page_survives_an_outage_and_keeps_the_cookie(shop: Shop) -> None:
    async with shop.browser() as browser:
        await browser.post("/sign-in/ada")
        token = browser.cookies[COOKIE]
        down = AsyncSessionClient("127.0.0.1:9", deadline_seconds=1)
        app = shop_app(Sessions(down), page="/account/sessions")
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url=ORIGIN) as other:
            for cookie in (f"{COOKIE}={token}", f"{COOKIE}={token}; {COOKIE}=ses_b"):
                answer = await other.get("/account/sessions", headers={"cookie": cookie})
                assert answer.status_code == 503
                assert "retry-after" in answer.headers
                assert "set-cookie" not in answer.headers
        await down.close()


@pytest.mark.parametrize("earlier", ["mount", "route"])
async def test_the_page_is_reachable_in_an_app_that_handles_every_path(
    shop: Shop, earlier: str
) -> None:
    """A single-page app mounts its files at "/", often before it installs its sessions."""
    app = FastAPI()

    async def everything(request: Request) -> Response:
        return PlainTextResponse("every path")

    if earlier == "mount":
        app.mount("/", Starlette(routes=[Route("/{path:path}", everything)]))
    else:
        app.get("/{path:path}")(everything)
    shop.sessions.install(app, page="/account/sessions")
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url=ORIGIN) as browser:
        assert (await browser.get("/account/sessions")).status_code == 401
        assert (await browser.get("/account/sessions/sessions.json")).status_code == 401
        assert (await browser.get("/account")).text == "every path"


async def test_the_page_finds_its_path_below_a_mount(shop: Shop) -> None:
    outer = FastAPI()
    outer.mount("/shop", shop.app)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(outer), base_url=ORIGIN) as browser:
        await browser.post("/shop/sign-in/ada")
        page = await browser.get("/shop/account/sessions")
        assert 'action="/shop/account/sessions/' in page.text


async def test_the_page_works_with_starlette_alone(shop: Shop) -> None:
    async def me(request: Request) -> Response:
        session = await shop.sessions.require(request)
        return PlainTextResponse(session.user_id)

    async def sign_in(request: Request) -> Response:
        await shop.sessions.sign_in(request, user_id="ada", persistent=False)
        return PlainTextResponse("in")

    app = Starlette(routes=[Route("/me", me), Route("/in", sign_in, methods=["POST"])])
    shop.sessions.install(app, page="/sessions", options=PageOptions(app_name="Shop"))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=ORIGIN) as browser:
        assert (await browser.get("/me")).status_code == 401
        assert "Max-Age" not in (await browser.post("/in")).headers["set-cookie"]
        assert (await browser.get("/me")).text == "ada"
        assert "Shop" in (await browser.get("/sessions")).text


async def test_behind_a_trusted_proxy_the_page_uses_the_browsers_scheme_and_address(
    shop: Shop,
) -> None:
    site = Site(client_ip=ClientIp(["203.0.113.7"]), clock=shop.authority.clock.now)
    shop.app = shop_app(Sessions(shop.authority.client, site), page="/account/sessions")
    transport = httpx.ASGITransport(shop.app, client=("203.0.113.7", 4711))
    forwarded = {"x-forwarded-for": "198.51.100.9", "x-forwarded-proto": "https"}
    async with httpx.AsyncClient(
        transport=transport, base_url="http://app.example", headers=forwarded
    ) as browser:
        signed_in = await browser.post("/sign-in/ada")
        token = signed_in.headers["set-cookie"].partition("=")[2].partition(";")[0]
        cookie = {"cookie": f"{COOKIE}={token}"}
        (session,) = await shop.authority.client.list(token)
        assert session.ip_address == "198.51.100.9"

        page = await browser.get("/account/sessions", headers=cookie)
        left = await browser.post(
            "/account/sessions/sign-out",
            data={"proof": proof_on(page.text)},
            headers=cookie | {"origin": "https://app.example"},
        )
        assert "Max-Age=0" in left.headers["set-cookie"]


def proof_on(page: str) -> str:
    found = re.search(r'name="proof" value="([^"]+)"', page)
    assert found, page
    return found[1]
