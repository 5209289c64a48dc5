"""Session requirements in the OpenAPI document of an app."""

from typing import Annotated, Any

import httpx
from fastapi import Depends, FastAPI

from session_authority import AsyncSessionClient, Session
from session_authority.web.cookies import SessionCookie
from session_authority.web.fastapi import (
    CurrentSession,
    OptionalSession,
    RecentAuthentication,
    Sessions,
)
from session_authority.web.site import Site


def an_app(site: Site | None = None) -> FastAPI:
    app = FastAPI()
    Sessions(AsyncSessionClient("127.0.0.1:9"), site).install(app, page="/account/sessions")

    @app.get("/me")
    async def me(session: CurrentSession) -> str:
        return session.user_id

    @app.get("/vault", dependencies=[RecentAuthentication(minutes=10)])
    async def vault() -> None: ...

    @app.get("/depends", dependencies=[Depends(RecentAuthentication(minutes=10))])
    async def depends() -> None: ...

    @app.get("/safe")
    async def safe(session: Annotated[Session, RecentAuthentication(minutes=10)]) -> None: ...

    @app.get("/own", responses={401: {"description": "Our own words"}})
    async def own(session: CurrentSession) -> None: ...

    @app.get("/who")
    async def who(session: OptionalSession) -> None: ...

    @app.get("/public")
    async def public() -> None: ...

    return app


async def fetched(app: FastAPI) -> dict[str, Any]:
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="https://app.example") as browser:
        document: dict[str, Any] = (await browser.get("/openapi.json")).json()
        assert (await browser.get("/openapi.json")).json() == document
    return document


async def test_operations_that_need_a_session_declare_it() -> None:
    document = await fetched(an_app())

    assert document["components"]["securitySchemes"] == {
        "session": {"type": "apiKey", "in": "cookie", "name": "__Host-auth_session"}
    }
    for path in ("/me", "/vault", "/depends", "/safe", "/own"):
        operation = document["paths"][path]["get"]
        assert operation["security"] == [{"session": []}], path
        said = "Our own words" if path == "/own" else "Not logged in"
        assert operation["responses"]["401"]["description"] == said
        assert "parameters" not in operation, path


async def test_operations_without_a_session_declare_none() -> None:
    document = await fetched(an_app())

    for path in ("/who", "/public"):
        operation = document["paths"][path]["get"]
        assert "401" not in operation["responses"]
        assert "security" not in operation
    assert "/account/sessions" not in document["paths"]


async def test_the_document_names_the_cookie_of_the_site() -> None:
    for cookie, name in (
        (SessionCookie("staff"), "__Host-staff"),
        (SessionCookie(domain="app.example"), "__Secure-auth_session"),
    ):
        document = await fetched(an_app(Site(cookie)))
        assert document["components"]["securitySchemes"]["session"]["name"] == name


async def test_an_app_without_guarded_operations_has_no_scheme() -> None:
    app = FastAPI()
    Sessions(AsyncSessionClient("127.0.0.1:9")).install(app)

    assert "components" not in await fetched(app)
