from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Annotated, Any

import httpx
import pytest
from fastapi import Depends, FastAPI, Request, Response
from fastapi.responses import RedirectResponse

from session_authority import Session, testing
from session_authority.web.cookies import SessionCookie
from session_authority.web.fastapi import RecentAuthentication, Sessions
from session_authority.web.sessions_page import PageOptions
from session_authority.web.site import Site

HOUR = timedelta(hours=1)
HTML = {"accept": "text/html,*/*;q=0.8"}


@pytest.fixture
def authority() -> Iterator[testing.Authority]:
    with testing.authority() as running:
        yield running


@asynccontextmanager
async def shop(
    authority: testing.Authority, site: Site | None = None, confirm_url: str | None = "/confirm"
) -> AsyncIterator[httpx.AsyncClient]:
    """Run an app with guarded routes, and yield a browser for it."""
    async with authority.async_client() as client:
        app = shop_app(Sessions(client, site), confirm_url)
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="https://app.example") as it:
            yield it


def shop_app(sessions: Sessions, confirm_url: str | None) -> FastAPI:
    app = FastAPI()
    sessions.install(app, options=PageOptions(reauthenticate_url=confirm_url))

    @app.post("/sign-in")
    async def sign_in(request: Request, persistent: bool | None = None) -> None:
        await sessions.sign_in(request, user_id="ada", persistent=persistent)

    @app.post("/confirm")
    async def confirm(request: Request, persistent: bool | None = None) -> Response:
        await sessions.reauthenticate(request, methods=["pwd"], persistent=persistent)
        return RedirectResponse(sessions.next_page(request, default="/home"), 303)

    @app.get("/confirm", dependencies=[RecentAuthentication(minutes=10)])
    async def confirm_page() -> None:
        """Stand for a confirming page that is guarded by mistake. It must not redirect to itself."""

    add_guarded(app, "/listed", dependencies=[RecentAuthentication(minutes=10)])
    add_guarded(app, "/depends", dependencies=[Depends(RecentAuthentication(minutes=10))])

    @app.get("/annotated")
    async def annotated(session: Annotated[Session, RecentAuthentication(minutes=10)]) -> str:
        return session.user_id

    @app.get("/annotated-depends")
    async def annotated_depends(
        session: Annotated[Session, Depends(RecentAuthentication(minutes=10))],
    ) -> str:
        return session.user_id

    @app.get("/default")
    async def default(session: Session = Depends(RecentAuthentication(minutes=10))) -> str:  # noqa: B008
        return session.user_id

    return app


def add_guarded(app: FastAPI, path: str, **options: Any) -> None:
    @app.api_route(path, methods=["GET", "POST"], **options)
    async def guarded() -> str:
        return "ada"


@pytest.mark.parametrize(
    "path", ["/listed", "/depends", "/annotated", "/annotated-depends", "/default"]
)
async def test_a_recent_proof_is_required_however_the_dependency_is_written(
    authority: testing.Authority, path: str
) -> None:
    async with shop(authority) as browser:
        assert (await browser.get(path)).status_code == 401
        await browser.post("/sign-in")
        assert (await browser.get(path)).json() == "ada"
        authority.advance(HOUR)
        refused = await browser.get(path)
        assert refused.status_code == 403
        assert refused.json()["max_authentication_age_seconds"] == "600"
        await browser.post("/confirm")
        assert (await browser.get(path)).json() == "ada"


@pytest.mark.parametrize("minutes", [0, -1, float("nan")])
def test_an_age_that_no_proof_can_have_is_refused(minutes: float) -> None:
    with pytest.raises(ValueError, match="more than 0 minutes"):
        RecentAuthentication(minutes=minutes)


async def test_a_browser_is_sent_to_the_confirming_page_and_back(
    authority: testing.Authority,
) -> None:
    async with shop(authority) as browser:
        await browser.post("/sign-in")
        authority.advance(HOUR)
        sent = await browser.get("/listed?x=1", headers=HTML)
        assert sent.status_code == 303
        assert sent.headers["location"] == "/confirm?next=%2Flisted%3Fx%3D1"
        assert sent.headers["cache-control"] == "no-store"
        back = await browser.post(sent.headers["location"])
        assert back.headers["location"] == "/listed?x=1"
        assert (await browser.get("/listed?x=1", headers=HTML)).json() == "ada"


async def test_after_a_refused_form_fastapi_returns_to_the_page_with_the_form(
    authority: testing.Authority,
) -> None:
    async with shop(authority) as browser:
        await browser.post("/sign-in")
        authority.advance(HOUR)
        referer = {"referer": "https://app.example/settings"}
        sent = await browser.post("/listed", headers=HTML | referer)
        assert sent.headers["location"] == "/confirm?next=%2Fsettings"


async def test_the_redirect_leads_neither_to_another_site_nor_to_the_confirming_page(
    authority: testing.Authority,
) -> None:
    async with shop(authority) as browser:
        await browser.post("/sign-in")
        for given in ("//evil.example", "https://evil.example", "/confirm?next=/confirm", ""):
            back = await browser.post("/confirm", params={"next": given})
            assert back.headers["location"] == "/home"
        authority.advance(HOUR)
        assert (await browser.get("/confirm", headers=HTML)).status_code == 403


async def test_without_a_confirming_page_browsers_get_403(
    authority: testing.Authority,
) -> None:
    async with shop(authority, confirm_url=None) as browser:
        await browser.post("/sign-in")
        authority.advance(HOUR)
        assert (await browser.get("/listed", headers=HTML)).status_code == 403


@pytest.mark.parametrize("site_default", [True, False])
@pytest.mark.parametrize("chosen", [True, False, None])
async def test_the_new_cookie_is_as_persistent_as_the_sign_in_chose(
    authority: testing.Authority, site_default: bool, chosen: bool | None
) -> None:
    stays = site_default if chosen is None else chosen
    site = Site(SessionCookie(persistent=site_default))
    choice = {} if chosen is None else {"persistent": chosen}
    async with shop(authority, site) as browser:
        signed_in = await browser.post("/sign-in", params=choice)
        again = await browser.post("/confirm")
        once_more = await browser.post("/confirm")
        for answer in (signed_in, again, once_more):
            assert ("Max-Age" in answer.headers["set-cookie"]) is stays
        other = await browser.post("/confirm", params={"persistent": not stays})
        assert ("Max-Age" in other.headers["set-cookie"]) is not stays


async def test_a_site_keeps_its_own_clock(authority: testing.Authority) -> None:
    moment = authority.now
    async with shop(authority, Site(clock=lambda: moment)) as browser:
        await browser.post("/sign-in")
        authority.advance(HOUR)
        assert (await browser.get("/listed")).status_code == 200


@pytest.mark.parametrize("root_path", ["", "/api"])
@pytest.mark.parametrize("name", ["a", "a%20b", "%C3%A4", "a%3Fb", "a%25b", "a?x=1&y=%20"])
async def test_the_browser_returns_to_the_path_that_it_requested(
    authority: testing.Authority, root_path: str, name: str
) -> None:
    """A proxy may serve the app below a root path and strip that path."""
    async with authority.async_client() as client:
        app = shop_app(Sessions(client), f"{root_path}/confirm")
        add_guarded(app, "/vaults/{name}", dependencies=[RecentAuthentication(minutes=10)])
        transport = httpx.ASGITransport(app, root_path=root_path)
        async with httpx.AsyncClient(transport=transport, base_url="https://app.example") as it:
            await it.post("/sign-in")
            authority.advance(HOUR)
            sent = (await it.get(f"/vaults/{name}", headers=HTML)).headers["location"]
            back = await it.post(sent.removeprefix(root_path))
    assert back.headers["location"] == f"{root_path}/vaults/{name}"
