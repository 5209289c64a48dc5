"""The middleware that adds `auth_session` to requests, and the session cookie to responses."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, cast

from asgiref.sync import iscoroutinefunction, markcoroutinefunction, sync_to_async
from django.core.exceptions import ImproperlyConfigured
from django.http import HttpRequest, HttpResponseBase
from django.utils.cache import patch_cache_control, patch_vary_headers
from django.utils.functional import SimpleLazyObject

from session_authority.web.django.answers import answer, unavailable
from session_authority.web.django.auth_session import AuthSession
from session_authority.web.django.options import options
from session_authority.web.django.own_session import is_hijack
from session_authority.web.django.requests import arrival, auth_session_of
from session_authority.web.visit import Visit


class SessionAuthorityMiddleware:
    """Adds `auth_session` and its user to each request, and the session cookie to the response.

    In `MIDDLEWARE`, it must come directly after Django's AuthenticationMiddleware. It asks the authority only when the
    app first reads the request's user or session.
    """

    sync_capable = True
    async_capable = True

    def __init__(self, get_response: Callable[[HttpRequest], Any]) -> None:
        options()  # invalid settings must fail when the server starts
        self._get_response = get_response
        self._is_async = iscoroutinefunction(get_response)
        if self._is_async:
            markcoroutinefunction(self)

    def __call__(self, request: HttpRequest) -> HttpResponseBase | Awaitable[HttpResponseBase]:
        auth_session = _begin(request)
        if self._is_async:
            return self._respond(request, auth_session)
        return _finish(request, auth_session, self._get_response(request))

    def process_view(
        self, request: HttpRequest, view: Callable[..., Any], _args: object, _kwargs: object
    ) -> None:
        """Note whether the view is one of django-hijack's, which start or stop acting as another user."""
        auth_session_of(request).is_hijack = is_hijack(view)

    def process_exception(
        self, request: HttpRequest, exception: Exception
    ) -> HttpResponseBase | None:
        """Return the response to an error of the authority that a view raised."""
        return answer(request, exception)

    async def _respond(self, request: HttpRequest, auth_session: AuthSession) -> HttpResponseBase:
        try:
            response = await self._get_response(request)
        except BaseException:
            # If the request is cancelled, the browser has disconnected and never gets the cookie of a login.
            await asyncio.shield(asyncio.ensure_future(sync_to_async(auth_session.failed)()))
            raise
        return await sync_to_async(_finish)(request, auth_session, response)


def _begin(request: HttpRequest) -> AuthSession:
    if not hasattr(request, "user"):
        raise ImproperlyConfigured(
            "in MIDDLEWARE, put SessionAuthorityMiddleware directly after "
            "django.contrib.auth.middleware.AuthenticationMiddleware"
        )
    found = options()
    auth_session = AuthSession(request, found, Visit(found.site, arrival(request)))
    known = cast("Any", request)
    known.auth_session = auth_session
    known.user = SimpleLazyObject(auth_session.user)
    known.auser = auth_session.auser
    return auth_session


def _finish(
    request: HttpRequest, auth_session: AuthSession, response: HttpResponseBase
) -> HttpResponseBase:
    if auth_session.met_outage and response.status_code == 500:
        # Another middleware looked up the session while the authority was unavailable. Django calls
        # `process_exception` only for errors in views, so it turned this error into a 500. Send the 503 response for
        # an outage instead.
        response = unavailable(request)
    if response.status_code >= 500:
        auth_session.failed()
    auth_session.after_view()
    visit = auth_session.visit
    visit.responded = True
    for cookie in auth_session.set_cookies:
        # After `set_expiry(0)`, browsers delete Django's cookie when they are closed. They must delete this cookie too.
        kept = not cookie.value or not request.session.get_expire_at_browser_close()
        response.set_cookie(
            cookie.name,
            cookie.value,
            max_age=cookie.max_age_seconds if kept else None,
            domain=cookie.domain,
            secure=cookie.secure,
            httponly=True,
            samesite="Lax",
        )
    if auth_session.set_cookies:
        patch_cache_control(response, no_store=True)
    if visit.was_looked_up:
        patch_vary_headers(response, ("Cookie",))
    return response
