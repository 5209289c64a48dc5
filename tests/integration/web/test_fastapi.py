import re
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import httpx
import pytest
from fastapi import BackgroundTasks, FastAPI, Request, Response, WebSocket
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse, RedirectResponse, StreamingResponse
from starlette.routing import Route

from session_authority import AsyncSessionClient, Session, SessionNotLive, Unavailable
from session_authority.web.client_ip import ClientIp
from session_authority.web.fastapi import (
    CurrentSession,
    OptionalSession,
    RecentAuthentication,
    Sessions,
)
from session_authority.web.sessions_page import PageOptions
from session_authority.web.site import Site
from session_authority.web.visit import RETRY_AFTER_SECONDS
from session_authority_server.domain.policy import Policy
from session_authority_server.domain.token import mint
from tests.integration.web.browser_socket import Socket
from tests.support.authority import PATIENCE_SECONDS, Authority, running_authority

ORIGIN = "https://app.example"
COOKIE = "__Host-auth_session"


@dataclass
class Shop:
    """An app, the authority that it asks, and who asks it."""

    app: FastAPI
    sessions: Sessions
    authority: Authority
    calls: list[str] = field(default_factory=list)

    @asynccontextmanager
    async def browser(self, **headers: str) -> AsyncIterator[httpx.AsyncClient]:
        transport = httpx.ASGITransport(self.app, client=("203.0.113.7", 4711))
        async with httpx.AsyncClient(
            transport=transport, base_url=ORIGIN, headers=headers
        ) as browser:
            yield browser

    def go_down(self) -> None:
        self.sessions.client = AsyncSessionClient("127.0.0.1:9", deadline_seconds=1)


def shop_app(sessions: Sessions, **install: Any) -> FastAPI:  # noqa: C901 - routes
    app = FastAPI()
    sessions.install(app, **install)

    @app.get("/")
    async def public() -> str:
        return "welcome"

    @app.post("/sign-in/{user_id}")
    async def sign_in(request: Request, user_id: str, response: str = "none") -> Any:
        await sessions.sign_in(request, user_id=user_id, methods=["pwd"])
        return {
            "none": None,
            "redirect": RedirectResponse("/", 303),
            "stream": StreamingResponse(iter(["a", "b"])),
            "shared": PlainTextResponse("x", headers={"cache-control": "public"}),
        }[response]

    @app.post("/sign-out")
    async def sign_out(request: Request) -> None:
        await sessions.sign_out(request)

    @app.post("/reauthenticate")
    async def reauthenticate(request: Request) -> None:
        await sessions.reauthenticate(request, methods=["pwd", "otp"])

    @app.post("/revoke-others")
    async def revoke_others(request: Request) -> datetime:
        return await sessions.revoke_others(request)

    @app.get("/me")
    async def me(session: CurrentSession) -> dict[str, Any]:
        return {"user": session.user_id, "methods": session.authentication_methods}

    @app.get("/who")
    async def who(session: OptionalSession, again: OptionalSession) -> str | None:
        assert session is again
        return session.user_id if session else None

    @app.get("/vault", dependencies=[RecentAuthentication(minutes=10)])
    async def vault() -> str:
        return "gold"

    @app.get("/safe")
    async def safe(session: Annotated[Session, RecentAuthentication(minutes=10)]) -> str:
        return session.user_id

    @app.websocket("/socket")
    async def socket(websocket: WebSocket, session: CurrentSession) -> None:
        await websocket.accept()
        while True:
            await websocket.receive_text()
            found = await sessions.session(websocket, again=True)
            if not found:
                raise SessionNotLive
            await websocket.send_text(session.user_id)

    return app


@pytest.fixture
async def shop(tmp_path: Path) -> AsyncIterator[Shop]:
    async with running_authority(tmp_path, Policy()) as authority:
        client = AsyncSessionClient(
            authority.address, api_key=authority.key, deadline_seconds=PATIENCE_SECONDS
        )
        sessions = Sessions(client, Site(clock=authority.clock.now))
        yield Shop(shop_app(sessions, page="/account/sessions"), sessions, authority)
        await client.close()


async def test_signing_in_lets_in_and_signing_out_does_not(shop: Shop) -> None:
    async with shop.browser(**{"user-agent": "curl/8.5.0"}) as browser:
        assert (await browser.get("/me")).status_code == 401

        signed_in = await browser.post("/sign-in/ada")
        assert signed_in.status_code == 200
        assert signed_in.headers["cache-control"] == "no-store"

        me = await browser.get("/me")
        assert me.json() == {"user": "ada", "methods": ["pwd"]}
        assert me.headers["vary"] == "Cookie"
        token = browser.cookies[COOKIE]
        (session,) = await shop.authority.client.list(token)
        assert session.ip_address == "203.0.113.7"
        assert session.device.display_name == "curl"

        signed_out = await browser.post("/sign-out")
        assert "Max-Age=0" in signed_out.headers["set-cookie"]
        assert COOKIE not in browser.cookies
        assert (await browser.get("/me")).status_code == 401
    assert not await shop.authority.client.validate(token)


@pytest.mark.parametrize("response", ["none", "redirect", "stream", "shared"])
async def test_the_cookie_goes_out_with_whatever_is_answered(shop: Shop, response: str) -> None:
    async with shop.browser() as browser:
        signed_in = await browser.post(f"/sign-in/ada?response={response}")

        assert signed_in.headers["set-cookie"].startswith(f"{COOKIE}=ses_")
        assert "no-store" in signed_in.headers["cache-control"]
        assert (await browser.get("/me")).status_code == 200


@pytest.mark.parametrize("path", ["sign-in/ada", "reauthenticate"])
async def test_a_session_whose_request_fails_is_left_to_nobody(shop: Shop, path: str) -> None:
    """The server's answer to a fault is made further outside, and has no cookie."""

    @shop.app.post("/stumble/sign-in/ada")
    async def sign_in(request: Request) -> None:
        await shop.sessions.sign_in(request, user_id="ada")
        raise ZeroDivisionError

    @shop.app.post("/stumble/reauthenticate")
    async def reauthenticate(request: Request) -> None:
        await shop.sessions.reauthenticate(request)
        raise ZeroDivisionError

    other = await shop.authority.client.create("ada")
    async with shop.browser() as browser:
        await browser.post("/sign-in/ada")
        with pytest.raises(ZeroDivisionError):
            await browser.post("/stumble/" + path)

    assert [each.current for each in await shop.authority.client.list(other.token)] == [True]


@pytest.mark.parametrize("when", ["stream", "task"])
async def test_a_sign_in_after_the_response_has_begun_is_refused(shop: Shop, when: str) -> None:
    @shop.app.post("/late")
    async def late(request: Request, tasks: BackgroundTasks) -> Any:
        async def sign_in() -> AsyncIterator[str]:
            await shop.sessions.sign_in(request, user_id="ada")
            yield ""

        async def run() -> None:
            await anext(sign_in())

        if when == "stream":
            return StreamingResponse(sign_in())
        tasks.add_task(run)
        return None

    other = await shop.authority.client.create("ada")
    async with shop.browser() as browser:
        with pytest.raises(RuntimeError, match="the response has begun"):
            await browser.post("/late")

    assert len(await shop.authority.client.list(other.token)) == 1


async def test_authentication_methods_have_a_second_name(shop: Shop) -> None:
    @shop.app.post("/both/{name}")
    async def both(request: Request, name: str) -> list[str]:
        other: dict[str, Any] = {"user_id": "ada"} if name == "sign_in" else {}
        call = getattr(shop.sessions, name)
        with pytest.raises(TypeError, match="another name"):
            await call(request, methods=["pwd"], authentication_methods=["pwd"], **other)
        first = await call(request, authentication_methods=["pwd", "otp"], **other)
        second = await call(request, methods=("hwk",), **other)
        return [*first.authentication_methods, *second.authentication_methods]

    async with shop.browser() as browser:
        for name in ("sign_in", "reauthenticate"):
            assert (await browser.post(f"/both/{name}")).json() == ["pwd", "otp", "hwk"]


async def test_the_answer_to_strangers_asks_them_to_sign_in(shop: Shop) -> None:
    async with shop.browser() as browser:
        answer = await browser.get("/me")

    assert answer.status_code == 401
    assert answer.json() == {"detail": "Not signed in"}
    assert answer.headers["www-authenticate"] == "Cookie"
    assert answer.headers["cache-control"] == "no-store"
    assert "set-cookie" not in answer.headers


async def test_a_request_without_a_cookie_touches_nothing(shop: Shop) -> None:
    async with shop.browser() as browser:
        assert (await browser.get("/who")).json() is None
        assert (await browser.get("/")).json() == "welcome"

    assert shop.authority.store.asked == []
    assert shop.sessions.client._connections == {}


async def test_a_public_page_asks_nothing_even_of_a_cookie(shop: Shop) -> None:
    async with shop.browser() as browser:
        await browser.post("/sign-in/ada")
        shop.authority.store.asked.clear()

        public = await browser.get("/")

    assert public.json() == "welcome"
    assert "vary" not in public.headers
    assert shop.authority.store.asked == []


async def test_the_authority_is_asked_once_a_request(shop: Shop) -> None:
    async with shop.browser() as browser:
        await browser.post("/sign-in/ada")
        shop.authority.store.asked.clear()
        assert (await browser.get("/who")).json() == "ada"

    assert shop.authority.store.asked == ["read_sessions"]


async def test_a_revoked_session_is_out_at_its_next_request_and_its_cookie_goes(shop: Shop) -> None:
    async with shop.browser() as laptop, shop.browser() as phone:
        await laptop.post("/sign-in/ada")
        await phone.post("/sign-in/ada")

        assert (await laptop.post("/revoke-others")).status_code == 200

        refused = await phone.get("/me")
        assert refused.status_code == 401
        assert "Max-Age=0" in refused.headers["set-cookie"]
        assert (await laptop.get("/me")).status_code == 200


async def test_an_outage_is_a_503_that_keeps_the_cookie(shop: Shop) -> None:
    async with shop.browser() as browser:
        await browser.post("/sign-in/ada")
        shop.go_down()
        for answer in (
            await browser.get("/me"),
            await browser.get("/who"),
            await browser.post("/sign-in/ada"),
            await browser.post("/sign-out"),
            await browser.post("/reauthenticate"),
        ):
            assert answer.status_code == 503
            assert answer.headers["retry-after"] == str(RETRY_AFTER_SECONDS)
            assert "set-cookie" not in answer.headers
        assert (await browser.get("/")).status_code == 200
        shop.sessions.client = shop.authority.client
        assert (await browser.get("/me")).json()["user"] == "ada"


async def test_a_superseded_token_does_not_clear_its_successor(shop: Shop) -> None:
    async with shop.browser() as browser, shop.browser() as slow:
        await browser.post("/sign-in/ada")
        old = browser.cookies[COOKIE]
        assert (await browser.post("/reauthenticate")).status_code == 200
        assert browser.cookies[COOKIE] != old

        late = await slow.get("/me", headers={"cookie": f"{COOKIE}={old}"})

        assert late.status_code == 401
        assert "set-cookie" not in late.headers
        assert (await browser.get("/me")).json()["methods"] == ["pwd", "otp"]


async def test_a_new_sign_in_in_the_same_browser_ends_the_session_before_it(shop: Shop) -> None:
    async with shop.browser() as browser:
        await browser.post("/sign-in/ada")
        await browser.post("/sign-in/ada")
        assert len(await shop.authority.client.list(browser.cookies[COOKIE])) == 1

        await browser.post("/sign-in/grace")
        assert (await browser.get("/me")).json()["user"] == "grace"


async def test_a_sign_in_begun_before_everything_was_ended_is_shut_out(shop: Shop) -> None:
    began = shop.authority.clock.now()

    @shop.app.post("/slow-sign-in")
    async def slow_sign_in(request: Request) -> None:
        shop.authority.pass_time(seconds=2)
        other = await shop.authority.client.create("ada")
        await shop.authority.client.revoke_others(other.token)
        shop.authority.pass_time(seconds=2)
        await shop.sessions.sign_in(request, user_id="ada")

    @shop.app.post("/two-step-sign-in")
    async def two_step_sign_in(request: Request) -> None:
        await shop.sessions.sign_in(request, user_id="ada", authenticate_time=began)

    async with shop.browser() as browser:
        for path in ("/slow-sign-in", "/two-step-sign-in"):
            answer = await browser.post(path)
            assert answer.status_code == 401
            assert answer.json()["detail"].startswith("Signed out everywhere")
            assert "set-cookie" not in answer.headers


@pytest.mark.parametrize("path", ["/vault", "/safe"])
async def test_what_needs_a_recent_proof_is_shut_until_it_is_given(shop: Shop, path: str) -> None:
    async with shop.browser() as browser:
        assert (await browser.get(path)).status_code == 401
        await browser.post("/sign-in/ada")
        assert (await browser.get(path)).status_code == 200

        shop.authority.pass_time(minutes=11)
        refused = await browser.get(path)
        assert refused.status_code == 403
        assert refused.json() == {
            "detail": "Reauthentication required",
            "max_authentication_age_seconds": "600",
        }
        assert "set-cookie" not in refused.headers

        await browser.post("/reauthenticate")
        assert (await browser.get(path)).status_code == 200


async def test_who_is_not_signed_in_has_nothing_to_prove_again_or_revoke(shop: Shop) -> None:
    async with shop.browser() as browser:
        assert (await browser.post("/reauthenticate")).status_code == 401
        assert (await browser.post("/revoke-others")).status_code == 401


async def test_an_app_can_answer_in_its_own_way(shop: Shop) -> None:
    @shop.app.exception_handler(SessionNotLive)
    async def to_sign_in(_request: Request, _error: Exception) -> Response:
        return RedirectResponse("/sign-in", 303)

    async with shop.browser() as browser:
        assert (await browser.get("/me")).headers["location"] == "/sign-in"


async def test_what_an_app_answers_already_stays(shop: Shop) -> None:
    async def own(_request: Request, _error: Exception) -> Response:
        return PlainTextResponse("own", 503)

    app = FastAPI(exception_handlers={Unavailable: own})
    shop.sessions.install(app)

    @app.get("/down")
    async def down() -> None:
        raise Unavailable

    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=ORIGIN) as browser:
        assert (await browser.get("/down")).text == "own"


@pytest.mark.parametrize("near_cache", [False, True])
async def test_made_up_cookies_lock_out_nobody_who_is_signed_in(
    tmp_path: Path, near_cache: bool
) -> None:
    def made_up() -> str:
        return "; ".join(f"{COOKIE}={mint(datetime.now(UTC)).encode()}" for _ in range(4))

    async with (
        running_authority(tmp_path, Policy(), rejected_tokens_per_minute=2) as authority,
        AsyncSessionClient(
            authority.address, api_key=authority.key, near_cache=near_cache
        ) as client,
    ):
        sessions = Sessions(client, Site(clock=authority.clock.now))
        shop = Shop(shop_app(sessions), sessions, authority)
        async with shop.browser() as browser, shop.browser() as attacker:
            await browser.post("/sign-in/ada")
            for number in range(5):
                answer = await attacker.get("/me", headers={"cookie": made_up()})
                assert answer.status_code == 401
                # Each request counts once. The first two are rejections; a refusal keeps the cookie.
                assert ("set-cookie" in answer.headers) == (number < 2)
                assert (await browser.get("/me")).json()["user"] == "ada"
            good = browser.cookies[COOKIE]
            mixed = await attacker.get(
                "/me", headers={"cookie": f"{made_up()[:240]}; {COOKIE}={good}"}
            )
            assert mixed.json()["user"] == "ada"
            assert (await attacker.post("/sign-in/eve")).status_code == 200


async def test_two_tokens_in_one_cookie_header_are_one_session(shop: Shop) -> None:
    async with shop.browser() as browser:
        await browser.post("/sign-in/ada")
        token = browser.cookies[COOKIE]
    async with shop.browser() as browser:
        stale = await shop.authority.client.create("ada")
        await shop.authority.client.sign_out(stale.token)
        both = f"{COOKIE}={stale.token.reveal()}; {COOKIE}={token}"

        answer = await browser.get("/me", headers={"cookie": both})
        page = await browser.get("/account/sessions", headers={"cookie": both})

        assert answer.json()["user"] == "ada"
        assert "set-cookie" not in answer.headers
        assert page.status_code == 200


@pytest.mark.parametrize("value", ["x" * 300, "ses_" + "0" * 70, "\xff\xfe", "%00", '"quoted"'])
async def test_whatever_a_visitor_puts_into_the_cookie_is_nobody(shop: Shop, value: str) -> None:
    async with shop.browser() as browser:
        header = f"{COOKIE}={value}".encode("latin-1")
        answer = await browser.get("/me", headers=[(b"cookie", header)])

    assert answer.status_code == 401
    assert "Max-Age=0" in answer.headers["set-cookie"]


async def test_a_cookie_split_over_headers_is_read(shop: Shop) -> None:
    async with shop.browser() as browser:
        await browser.post("/sign-in/ada")
        token = browser.cookies[COOKIE]
    async with shop.browser() as browser:
        answer = await browser.get(
            "/me", headers=[("cookie", "a=1"), ("cookie", f"{COOKIE}={token}")]
        )
    assert answer.status_code == 200


async def test_an_app_without_sessions_is_told_to_install_them() -> None:
    app = FastAPI()

    @app.get("/me")
    async def me(session: CurrentSession) -> None: ...

    @app.get("/out")
    async def out(request: Request) -> None:
        await Sessions.from_env().sign_out(request)

    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=ORIGIN) as browser:
        for path in ("/me", "/out"):
            with pytest.raises(RuntimeError, match=r"sessions\.install\(app\)"):
                await browser.get(path)


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
            data={"proof": _proof(page.text), "confirmed": "1"},
            headers={"origin": ORIGIN},
        )
        assert ended.status_code in {200, 303}, ended.text
        assert (await phone.get("/me")).status_code == 401
        assert (await laptop.get("/me")).status_code == 200

        left = await laptop.post(
            "/account/sessions/sign-out",
            data={"proof": _proof(page.text)},
            headers={"origin": ORIGIN},
        )
        assert "Max-Age=0" in left.headers["set-cookie"]
        assert (await laptop.get("/me")).status_code == 401


async def test_the_page_tells_how_long_an_ending_takes_where_its_client_has_a_near_cache(
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


async def test_the_page_refuses_what_no_form_of_its_own_sends(shop: Shop) -> None:
    async with shop.browser() as browser:
        await browser.post("/sign-in/ada")
        page = await browser.get("/account/sessions")
        form = {"proof": _proof(page.text)}
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
        ([_PART | {"more_body": False}], True),  # by a server that does not say so
    ],
)
async def test_a_form_that_is_cut_off_is_not_carried_out(
    shop: Shop, rest: list[dict[str, Any]], states_length: bool
) -> None:
    async with shop.browser() as browser:
        await browser.post("/sign-in/ada")
        proof = _proof((await browser.get("/account/sessions")).text)
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
async def test_a_length_that_is_no_number_of_bytes_is_refused(
    shop: Shop, lengths: tuple[str, ...]
) -> None:
    async with shop.browser() as browser:
        await browser.post("/sign-in/ada")
        proof = _proof((await browser.get("/account/sessions")).text)
        token = browser.cookies[COOKIE]
    form = {"type": "http.request", "body": f"proof={proof}".encode()}
    headers = [("cookie", f"{COOKIE}={token}"), *(("content-length", each) for each in lengths)]

    assert await _post(shop.app, "/account/sessions/sign-out", [form], headers) in {400, 413}
    assert await shop.authority.client.validate(token)


async def _post(
    app: FastAPI, path: str, messages: list[dict[str, Any]], headers: Iterable[tuple[str, str]]
) -> int:
    """Send a form as a server would hand it on, and return the status."""
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
async def test_the_page_leads_to_its_own_path_whatever_a_visitor_makes_of_it(
    shop: Shop, tenant: str, quoted: str
) -> None:
    outer = FastAPI()
    outer.mount("/{tenant}", shop.app)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(outer), base_url=ORIGIN) as browser:
        await browser.post("/acme/sign-in/ada")
        page = await browser.get(f"/{tenant}/account/sessions")
        left = await browser.post(
            f"/{tenant}/account/sessions/sign-out",
            data={"proof": _proof(page.text)},
            headers={"origin": ORIGIN},
        )

    assert set(re.findall(r'action="([^"]*)/account/sessions/', page.text)) == {f"/{quoted}"}
    assert (left.status_code, left.headers["location"]) == (303, f"/{quoted}/account/sessions")
    assert "Max-Age=0" in left.headers["set-cookie"]


@pytest.mark.parametrize("path", ["//evil.example", "///evil.example", "/\\evil.example"])
async def test_no_root_path_leads_to_another_host(shop: Shop, path: str) -> None:
    outer = FastAPI(root_path="")
    outer.mount("/{tenant:path}/shop", shop.app)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(outer), base_url=ORIGIN) as browser:
        left = await browser.post(
            httpx.URL(ORIGIN, raw_path=f"{path}/shop/account/sessions/sign-out".encode()),
            headers={"origin": ORIGIN, "content-type": "application/x-www-form-urlencoded"},
        )

    assert left.status_code == 303
    assert re.match(r"/[^/\\]", left.headers["location"])


async def test_a_page_and_a_way_out_may_have_any_letters(shop: Shop) -> None:
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
            f"{action}/sign-out", data={"proof": _proof(page.text)}, headers={"origin": ORIGIN}
        )

    assert left.status_code == 303
    assert left.headers["location"] == "/tsch%C3%BC%C3%9F?gru%C3%9F=1&x=%20"
    assert not await shop.authority.client.validate(new.token)


async def test_a_body_that_never_says_how_long_it_is_is_not_read_to_its_end(shop: Shop) -> None:
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
        shop.authority.store.failure = ZeroDivisionError()
        shop.sessions.client._connections.clear()
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
async def test_the_page_is_found_in_an_app_that_takes_every_path(shop: Shop, earlier: str) -> None:
    """An app of one page mounts its files at "/", often before it installs its sessions."""
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


async def test_the_page_knows_its_place_below_a_mount(shop: Shop) -> None:
    outer = FastAPI()
    outer.mount("/shop", shop.app)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(outer), base_url=ORIGIN) as browser:
        await browser.post("/shop/sign-in/ada")
        page = await browser.get("/shop/account/sessions")
        assert 'action="/shop/account/sessions/' in page.text


async def test_starlette_alone_will_do(shop: Shop) -> None:
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


async def test_behind_a_trusted_proxy_the_page_and_the_list_see_what_the_browser_does(
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
            data={"proof": _proof(page.text)},
            headers=cookie | {"origin": "https://app.example"},
        )
        assert "Max-Age=0" in left.headers["set-cookie"]


async def test_a_websocket_knows_whose_it_is_for_as_long_as_it_asks(shop: Shop) -> None:
    new = await shop.authority.client.create("ada")
    socket = Socket(shop.app, f"{COOKIE}={new.token.reveal()}")
    await socket.send(type="websocket.connect")
    accepted = await socket.receive()
    assert accepted["type"] == "websocket.accept"

    await socket.send(type="websocket.receive", text="hello")
    assert (await socket.receive())["text"] == "ada"
    await shop.authority.client.sign_out(new.token)
    await socket.send(type="websocket.receive", text="still there?")

    closed = await socket.receive()
    assert (closed["type"], closed["code"]) == ("websocket.close", 1008)
    await socket.end()


async def test_an_open_websocket_is_told_to_try_again_after_an_outage(shop: Shop) -> None:
    new = await shop.authority.client.create("ada")
    socket = Socket(shop.app, f"{COOKIE}={new.token.reveal()}")
    await socket.send(type="websocket.connect")
    assert (await socket.receive())["type"] == "websocket.accept"

    shop.go_down()
    await socket.send(type="websocket.receive", text="hello")

    assert (await socket.receive())["code"] == 1013
    await socket.end()


@pytest.mark.parametrize(
    ("is_down", "status"), [(False, 401), (True, 503)], ids=["rejected", "outage"]
)
async def test_a_websocket_of_nobody_known_is_refused_at_the_handshake(
    shop: Shop, is_down: bool, status: int
) -> None:
    if is_down:
        shop.go_down()
    socket = Socket(shop.app, f"{COOKIE}=ses_{'0' * 70}")
    await socket.send(type="websocket.connect")

    refused = await socket.receive()

    assert (refused["type"], refused["status"]) == ("websocket.http.response.start", status)
    assert (b"set-cookie" in dict(refused["headers"])) is not is_down
    assert (await socket.receive())["type"] == "websocket.http.response.body"
    await socket.end()


def _proof(page: str) -> str:
    found = re.search(r'name="proof" value="([^"]+)"', page)
    assert found, page
    return found[1]
