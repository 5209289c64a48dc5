"""Django add-ons that use `request.user`, beside Session Authority. A module for `ROOT_URLCONF`."""

from typing import Any

from tests.integration.web import django_site  # configures Django before its imports

from django.contrib.auth import authenticate, login  # isort: skip
from django.contrib.auth.decorators import login_required  # isort: skip
from django.http import HttpRequest, HttpResponse, JsonResponse  # isort: skip
from django.contrib.auth.middleware import AuthenticationMiddleware  # isort: skip
from django.urls import include, path  # isort: skip
from django_otp import login as otp_login  # isort: skip
from django_otp.decorators import otp_required  # isort: skip
from django_otp.plugins.otp_static.models import StaticDevice  # isort: skip
from rest_framework.authentication import SessionAuthentication  # isort: skip
from rest_framework.permissions import IsAuthenticated  # isort: skip
from rest_framework.response import Response  # isort: skip
from rest_framework.views import APIView  # isort: skip
from session_authority.web.django.middleware import SessionAuthorityMiddleware  # isort: skip

SESSION = "django.contrib.sessions.middleware.SessionMiddleware"
AUTHENTICATION = "django.contrib.auth.middleware.AuthenticationMiddleware"
OURS = "session_authority.web.django.middleware.SessionAuthorityMiddleware"
OTP = "django_otp.middleware.OTPMiddleware"
HIJACK = "hijack.middleware.HijackUserMiddleware"
REMOTE_USER = "django.contrib.auth.middleware.RemoteUserMiddleware"
PERSISTENT_REMOTE_USER = "django.contrib.auth.middleware.PersistentRemoteUserMiddleware"
LOGIN_REQUIRED = "django.contrib.auth.middleware.LoginRequiredMiddleware"


class OwnAuthentication(AuthenticationMiddleware):
    """A subclass that a site may write."""


class Ours(SessionAuthorityMiddleware):
    """A subclass that a site may write."""


def wrapping(get_response: Any) -> Any:
    """Replace `request.user`, as a middleware of a site may do."""

    def wrap(request: Any) -> Any:
        request.user.is_wrapped = True
        return get_response(request)

    return wrap


def me(request: Any) -> JsonResponse:
    session = request.auth_session.session
    return JsonResponse(
        {
            "user": request.user.get_username() or None,
            "verified": hasattr(request.user, "is_verified") and request.user.is_verified(),
            "hijacked": getattr(request.user, "is_hijacked", None),
            "actor": session and session.actor_id,
        }
    )


def enter_code(request: HttpRequest) -> HttpResponse:
    """Verify the user with a second factor."""
    user: Any = request.user
    otp_login(request, StaticDevice.objects.get(user_id=user.pk))
    return HttpResponse("verified")


def sign_in_to_stay(request: Any) -> HttpResponse:
    request.auth_session.persistent = True
    return django_site.sign_in(request)


def sign_in_with_code(request: Any) -> HttpResponse:
    """Log in with both factors at once, as django-otp's form does."""
    user: Any = authenticate(request, username="ada", password="pass")
    user.otp_device = StaticDevice.objects.get(user_id=user.pk)
    request.auth_session.methods = ["pwd", "otp"]
    login(request, user)
    return HttpResponse("in")


class Profile(APIView):  # type: ignore[misc]
    authentication_classes = (SessionAuthentication,)
    permission_classes = (IsAuthenticated,)

    def get(self, request: Any) -> Response:
        return Response({"user": request.user.get_username()})


urlpatterns = [
    path("sign-in", django_site.sign_in),
    path("sign-in-to-stay", sign_in_to_stay),
    path("sign-out", django_site.sign_out),
    path("me", me),
    path("code", enter_code),
    path("sign-in-with-code", sign_in_with_code),
    path("vault", otp_required(lambda _request: HttpResponse("gold"))),
    path("private", login_required(me)),
    path("api/profile", Profile.as_view()),
    path("hijack/", include("hijack.urls")),
    path("account/sessions", include("session_authority.web.django.urls")),
]
