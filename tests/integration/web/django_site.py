"""A usual Django site to which Session Authority was added."""

import asyncio
import tempfile
import threading
from pathlib import Path
from typing import Any, cast

import django
from django.conf import settings

FOLDER = Path(tempfile.mkdtemp(prefix="django-site-"))

if not settings.configured:
    settings.configure(
        SECRET_KEY="a secret of the tests",
        ALLOWED_HOSTS=["app.example", "testserver"],
        DATABASES={
            "default": {"ENGINE": "django.db.backends.sqlite3", "NAME": FOLDER / "site.sqlite"}
        },
        INSTALLED_APPS=[
            "django.contrib.auth",
            "django.contrib.contenttypes",
            "django.contrib.sessions",
            "django_otp",
            "django_otp.plugins.otp_static",
            "hijack",
            "session_authority.web.django",
        ],
        MIDDLEWARE=[
            "django.contrib.sessions.middleware.SessionMiddleware",
            "django.middleware.common.CommonMiddleware",
            "django.middleware.csrf.CsrfViewMiddleware",
            "django.contrib.auth.middleware.AuthenticationMiddleware",
            "session_authority.web.django.middleware.SessionAuthorityMiddleware",
            "tests.integration.web.django_site.greeting",
        ],
        PASSWORD_HASHERS=["django.contrib.auth.hashers.MD5PasswordHasher"],
        TEMPLATES=[
            {"BACKEND": "django.template.backends.django.DjangoTemplates", "APP_DIRS": True}
        ],
        ROOT_URLCONF="tests.integration.web.django_site",
        LOGIN_URL="/login/",
        USE_TZ=True,
    )
    django.setup()

from asgiref.sync import iscoroutinefunction  # noqa: E402
from django.contrib.auth import (  # noqa: E402
    alogin,
    alogout,
    authenticate,
    login,
    logout,
    update_session_auth_hash,
)
from django.contrib.auth.decorators import login_required  # noqa: E402
from django.contrib.auth.models import User  # noqa: E402
from django.http import HttpRequest, HttpResponse, HttpResponseBase, JsonResponse  # noqa: E402
from django.urls import include, path  # noqa: E402
from django.utils.decorators import sync_and_async_middleware  # noqa: E402

from session_authority import SessionAuthorityError  # noqa: E402
from session_authority.web.django.decorators import recent_authentication  # noqa: E402

SIGNED_IN = threading.Event()
"""Set by the view that signs in and then never answers."""


@sync_and_async_middleware
def greeting(get_response: Any) -> Any:
    """Read the user outside of any view, if the request asks for it."""
    if iscoroutinefunction(get_response):

        async def agreet(request: HttpRequest) -> Any:
            return await get_response(request)

        return agreet

    def greet(request: HttpRequest) -> Any:
        if "greet" in request.GET:
            _ = request.user.is_authenticated
        return get_response(request)

    return greet


def public(_request: HttpRequest) -> HttpResponse:
    return HttpResponse("welcome")


def sign_in(request: HttpRequest) -> HttpResponse:
    user = authenticate(request, username=request.GET["user"], password="pass")
    login(request, cast("Any", user))
    if "shared" in request.GET:
        request.session.set_expiry(0)
    return HttpResponse("in")


def sign_in_anyway(request: HttpRequest) -> HttpResponse:
    try:
        return sign_in(request)
    except SessionAuthorityError:
        return HttpResponse(request.user.get_username() or "anonymous")


def sign_in_and_raise(request: HttpRequest) -> HttpResponse:
    sign_in(request)
    raise ZeroDivisionError


async def asign_in_and_wait(request: HttpRequest) -> HttpResponse:
    await asign_in(request)
    SIGNED_IN.set()
    await asyncio.Event().wait()
    raise AssertionError


async def asign_in_and_raise(request: HttpRequest) -> HttpResponse:
    await asign_in(request)
    raise ZeroDivisionError


def sign_out(request: HttpRequest) -> HttpResponse:
    logout(request)
    return HttpResponse("out")


def me(request: HttpRequest) -> JsonResponse:
    session = _known(request).auth_session.session
    return JsonResponse(
        {
            "user": request.user.get_username() or None,
            "session": session and session.session_id,
            "methods": session and session.authentication_methods,
        }
    )


def change_password(request: HttpRequest) -> HttpResponse:
    user = cast("User", request.user)
    user.set_password("pass")  # the same password, with a new salt
    user.save()
    update_session_auth_hash(request, user)
    return HttpResponse("changed")


def revoke_others(request: HttpRequest) -> HttpResponse:
    return HttpResponse(str(_known(request).auth_session.revoke_others()))


def reauthenticate(request: HttpRequest) -> HttpResponse:
    _known(request).auth_session.reauthenticate(methods=["pwd", "otp"])
    return HttpResponse("again")


@recent_authentication(minutes=10)
def vault(request: HttpRequest) -> HttpResponse:
    return HttpResponse("gold")


async def ame(request: HttpRequest) -> JsonResponse:
    user = await request.auser()
    session = await _known(request).auth_session.asession()
    return JsonResponse({"user": user.get_username() or None, "session": bool(session)})


async def asign_in(request: HttpRequest) -> HttpResponse:
    user = await User.objects.aget(username=request.GET["user"])
    await alogin(request, user, "django.contrib.auth.backends.ModelBackend")
    return HttpResponse("in")


async def asign_out(request: HttpRequest) -> HttpResponse:
    await alogout(request)
    return HttpResponse("out")


async def again(request: HttpRequest) -> HttpResponse:
    await _known(request).auth_session.areauthenticate(methods=["pwd"])
    await _known(request).auth_session.arevoke_others()
    return HttpResponse("again")


@recent_authentication(minutes=10)
async def avault(request: HttpRequest) -> HttpResponseBase:
    return HttpResponse("gold")


def _known(request: HttpRequest) -> Any:
    return request


urlpatterns = [
    path("", public),
    path("sign-in", sign_in),
    path("sign-in-anyway", sign_in_anyway),
    path("stumble", sign_in_and_raise),
    path("sign-out", sign_out),
    path("me", me),
    path("private", login_required(me)),
    path("change-password", change_password),
    path("revoke-others", revoke_others),
    path("reauthenticate", reauthenticate),
    path("vault", vault),
    path("async/me", ame),
    path("async/sign-in", asign_in),
    path("async/stumble", asign_in_and_raise),
    path("async/wait", asign_in_and_wait),
    path("async/sign-out", asign_out),
    path("async/again", again),
    path("async/vault", avault),
    path("backchannel/", include("session_authority.web.django.backchannel")),
    path("account/sessions", include("session_authority.web.django.urls")),
    path("konto/sitz\u00fcngen", include("session_authority.web.django.urls", namespace="konto")),
    path("elsewhere/", include("session_authority.web.django.urls", namespace="elsewhere")),
]
