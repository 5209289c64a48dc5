"""The types of the integrations' names. This file is type-checked and never run."""

from datetime import datetime, timedelta
from typing import Annotated, assert_type

from django.http import HttpRequest, HttpResponse
from django.urls import path
from fastapi import Depends, FastAPI
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.websockets import WebSocket

from session_authority import AsyncSessionClient, Rejection, Session, SessionClient
from session_authority.backchannel import Provider
from session_authority.grpc import (
    AsyncSessionInterceptor,
    SessionInterceptor,
    current_session,
    token_metadata,
)
from session_authority.web.client_ip import ClientIp
from session_authority.web.cookies import SessionCookie
from session_authority.web.django.auth_session import AuthSession
from session_authority.web.django.decorators import recent_authentication
from session_authority.web.django.requests import SessionRequest
from session_authority.web.fastapi import (
    CurrentSession,
    OptionalSession,
    RecentAuthentication,
    Sessions,
)
from session_authority.web.sessions_page import PageOptions
from session_authority.web.site import Site


def an_app_installs_sessions(app: FastAPI, other: Starlette) -> None:
    site = Site(
        SessionCookie(domain="shop.example"), ClientIp(["10.0.0.0/8"]), "https://shop.example"
    )
    sessions = Sessions.from_env(site)
    assert_type(sessions, Sessions)
    sessions.install(app, page="/account/sessions", options=PageOptions(app_name="Shop"))
    sessions.install(
        other, providers=[Provider("https://id.example", "shop")], backchannel="/backchannel"
    )


async def handlers_get_sessions(sessions: Sessions, request: Request, socket: WebSocket) -> None:
    signed_in = await sessions.sign_in(
        request, user_id="ada", methods=["pwd"], persistent=False, lifetime=timedelta(days=1)
    )
    assert_type(signed_in, Session)
    assert_type(await sessions.session(socket, again=True), Session | Rejection)
    assert_type(await sessions.require(request, maximum_age=timedelta(minutes=5)), Session)
    assert_type(await sessions.require(socket, again=True, passive=True), Session)
    assert_type(await sessions.reauthenticate(request, methods=["otp"]), Session)
    assert_type(await sessions.reauthenticate(request, authentication_methods=["otp"]), Session)
    assert_type(await sessions.revoke_others(request), datetime)
    await sessions.sign_out(request)


async def me(session: CurrentSession, maybe: OptionalSession) -> None:
    assert_type(session, Session)
    assert_type(maybe, Session | None)


async def safe(session: Annotated[Session, RecentAuthentication(minutes=10)]) -> None:
    assert_type(session, Session)


async def safe_too(
    session: Annotated[Session, Depends(RecentAuthentication(minutes=10))], request: Request
) -> None:
    assert_type(session, Session)


def a_request_has_a_session(request: SessionRequest) -> None:
    assert_type(request.auth_session, AuthSession)
    request.auth_session.idle_timeout = timedelta(hours=1)
    request.auth_session.idle_timeout = 3600  # type: ignore[assignment]
    path("", a_view)
    path("", a_typed_view)


@recent_authentication(minutes=10)
def a_typed_view(request: SessionRequest) -> HttpResponse:
    return HttpResponse(request.auth_session.require().user_id)


@recent_authentication(minutes=10)
def a_view(request: HttpRequest, number: int) -> HttpResponse:
    return HttpResponse(number)


def a_view_keeps_its_type(request: HttpRequest, auth_session: AuthSession) -> None:
    assert_type(a_view(request, 1), HttpResponse)
    a_view(request, "1")  # type: ignore[arg-type]
    assert_type(auth_session.session, Session | None)
    assert_type(auth_session.revoke_others(), datetime)


def a_service_gets_the_session_of_its_caller(
    client: SessionClient, aclient: AsyncSessionClient
) -> None:
    SessionInterceptor(client, public_methods=["/a.B/*"])
    AsyncSessionInterceptor(aclient)
    SessionInterceptor(aclient)  # type: ignore[arg-type]
    assert_type(current_session(), Session)
    assert_type(token_metadata(), tuple[tuple[str, str], ...])
