"""A Django shop with a password check, the sessions page and revocable logins."""

import sys

import django
from django.conf import settings
from django.core.management import execute_from_command_line

HEAD = """<!doctype html><html lang="en"><meta name="viewport" content="width=device-width">
<title>Shop</title><style>body { font: 1rem/1.5 system-ui; max-width: 20rem; margin: 2rem auto }
input { display: block; margin-bottom: 1rem }</style>"""
SIGN_IN = """<h1>Log in</h1>
<form method="post">{% csrf_token %}{{ form.as_p }}<button>Log in</button></form>"""
HOME = """<h1>Hello, {{ user }}</h1><p><a href="/account/sessions">Your sessions</a></p>
<form method="post">{% csrf_token %}<button formaction="/sign-out">Log out</button>
<button formaction="/close-account">Close my account</button></form>"""
LOADERS = [
    ("django.template.loaders.locmem.Loader", {"sign_in": HEAD + SIGN_IN, "home": HEAD + HOME}),
    "django.template.loaders.app_directories.Loader",
]

settings.configure(
    DEBUG=True,
    SECRET_KEY="for this example only",
    ROOT_URLCONF=__name__,
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": "shop.sqlite"}},
    INSTALLED_APPS=[
        "django.contrib.auth",
        "django.contrib.contenttypes",
        "django.contrib.sessions",
        "session_authority.web.django",
    ],
    MIDDLEWARE=[
        "django.contrib.sessions.middleware.SessionMiddleware",
        "django.middleware.csrf.CsrfViewMiddleware",
        "django.contrib.auth.middleware.AuthenticationMiddleware",
        "session_authority.web.django.middleware.SessionAuthorityMiddleware",
    ],
    TEMPLATES=[
        {
            "BACKEND": "django.template.backends.django.DjangoTemplates",
            "OPTIONS": {"loaders": LOADERS},
        }
    ],
    LOGIN_URL="/sign-in",
    LOGIN_REDIRECT_URL="/",
    LOGOUT_REDIRECT_URL="/sign-in",
    SESSION_AUTHORITY={"PAGE": {"home_url": "/"}},
)
django.setup()

from django.contrib.auth import logout
from django.contrib.auth.decorators import login_required
from django.contrib.auth.models import User
from django.contrib.auth.views import LoginView, LogoutView
from django.http import HttpResponse
from django.shortcuts import redirect, render
from django.urls import include, path
from django.views.decorators.http import require_POST

from session_authority.web.django.decorators import recent_authentication
from session_authority.web.django.requests import SessionRequest


@login_required
def home(request: SessionRequest) -> HttpResponse:
    return render(request, "home", {"user": request.user})


@require_POST
@recent_authentication(minutes=10)
def close_account(request: SessionRequest) -> HttpResponse:
    """Delete the user, and end all of the user's sessions."""
    request.auth_session.revoke_others()
    User.objects.filter(pk=request.user.pk).delete()
    logout(request)
    return redirect("/sign-in")


urlpatterns = [
    path("", home),
    path("sign-in", LoginView.as_view(template_name="sign_in")),
    path("sign-out", LogoutView.as_view()),
    path("close-account", close_account),
    path("account/sessions", include("session_authority.web.django.urls")),
]

if __name__ == "__main__":
    execute_from_command_line(sys.argv)
