"""What a view can ask of the login."""

from collections.abc import Callable
from datetime import timedelta
from functools import wraps
from typing import Any, TypeVar, cast

from asgiref.sync import iscoroutinefunction, sync_to_async
from django.contrib.auth.views import redirect_to_login
from django.http import HttpRequest, HttpResponseBase

from session_authority.errors import ReauthenticationRequired
from session_authority.web.django.answers import answer

_View = TypeVar("_View", bound=Callable[..., Any])


def recent_authentication(*, minutes: float) -> Callable[[_View], _View]:
    """Let a view be reached only by users who proved who they are that recently.

    Others are sent to the page's `reauthenticate_url`, with `next`, or refused where there is none; visitors
    who are not logged in are sent to `LOGIN_URL`. After the proof, call `request.auth_session.reauthenticate`.
    """
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
        cast("Any", request).auth_session.require(maximum_age=maximum_age)
    except ReauthenticationRequired as error:
        return answer(request, error)
    return None
