"""A decorator for views that require a recent proof of identity."""

from collections.abc import Callable
from datetime import timedelta
from functools import wraps
from typing import Any, TypeVar, cast

from asgiref.sync import iscoroutinefunction, sync_to_async
from django.contrib.auth.views import redirect_to_login
from django.http import HttpRequest, HttpResponseBase

from session_authority.errors import ReauthenticationRequired
from session_authority.web.django.answers import answer
from session_authority.web.django.requests import auth_session_of

_View = TypeVar("_View", bound=Callable[..., Any])


def recent_authentication(*, minutes: float) -> Callable[[_View], _View]:
    """Admit only users who proved their identity in the last few minutes.

    Other users are redirected to confirm their password, and then return. The page is the one in
    `session_authority.web.django.urls`, or the `reauthenticate_url` of the setting `PAGE`. Programs get 403. Visitors
    who are not logged in are redirected to `LOGIN_URL`.

    Raises:
        ValueError: The number is not positive, so no proof would be recent enough.
    """
    if not minutes > 0:
        raise ValueError(f"recent_authentication needs more than 0 minutes, not {minutes!r}")
    maximum_age = timedelta(minutes=minutes)

    def decorate(view: _View) -> _View:
        if iscoroutinefunction(view):

            @wraps(view)
            async def aguarded(request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
                refusal = await sync_to_async(_refusal)(request, maximum_age)
                return refusal or await view(request, *args, **kwargs)

            return cast("_View", aguarded)

        @wraps(view)
        def guarded(request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
            return _refusal(request, maximum_age) or view(request, *args, **kwargs)

        return cast("_View", guarded)

    return decorate


def _refusal(request: HttpRequest, maximum_age: timedelta) -> HttpResponseBase | None:
    if not request.user.is_authenticated:
        return redirect_to_login(request.get_full_path())
    try:
        auth_session_of(request).require(maximum_age=maximum_age)
    except ReauthenticationRequired as error:
        return answer(request, error)
    return None
