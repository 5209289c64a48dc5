"""A Django site in one file, whose users see their own sessions, and end them.

    session-authority serve                        # prints: export SESSION_AUTHORITY_API_KEY=...
    python examples/django_app.py migrate          # with that line, in another terminal
    python examples/django_app.py runserver

Then open http://localhost:8000. It signs in whoever asks; your site has its own sign-in, and keeps it.
"""

import os
import sys
from pathlib import Path

import django
from django.conf import settings
from django.core.management import execute_from_command_line

if not settings.configured:
    settings.configure(
        DEBUG=True,
        SECRET_KEY=os.environ.get("SECRET_KEY", "for this example only"),
        ALLOWED_HOSTS=["localhost", "127.0.0.1"],
        DATABASES={
            "default": {
                "ENGINE": "django.db.backends.sqlite3",
                "NAME": os.environ.get("DJANGO_DATABASE", "django-example.sqlite"),
            }
        },
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
        SESSION_AUTHORITY={
            "PAGE": {"app_name": "Shop", "home_url": "/", "signed_out_path": "/"},
        },
        LOGIN_URL="/",
        LOGOUT_REDIRECT_URL="/",
        ROOT_URLCONF=__name__,
        TEMPLATES=[
            {"BACKEND": "django.template.backends.django.DjangoTemplates", "APP_DIRS": True}
        ],
        DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
        USE_TZ=True,
    )
    django.setup()

from django.contrib.auth import get_user_model, login
from django.contrib.auth.views import LogoutView
from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.template import engines
from django.urls import include, path
from django.views.decorators.http import require_POST

from session_authority.web.django.decorators import recent_authentication
from session_authority.web.django.requests import SessionRequest

_HOME = """<!doctype html><title>Shop</title>
{% if user.is_authenticated %}<h1>Hello, {{ user }}</h1>
<p>You are signed in on {{ auth_session.session.device.display_name }}.
<p><a href="{% url 'session_authority:sessions' %}">Your sessions</a>
<form method="post" action="/sign-out">{% csrf_token %}<button>Sign out</button></form>
{% else %}<h1>Shop</h1><form method="post" action="/sign-in">{% csrf_token %}
<label>Your name <input name="name" value="ada" required></label> <button>Sign in</button></form>{% endif %}"""


def home(request: SessionRequest) -> HttpResponse:
    """Greet the user."""
    context = {"user": request.user, "auth_session": request.auth_session}
    return HttpResponse(engines["django"].from_string(_HOME).render(context, request))


@require_POST
def sign_in(request: HttpRequest) -> HttpResponse:
    """Log somebody in, as Django does. A site checks a password here first, with `authenticate`."""
    user, _ = get_user_model().objects.get_or_create(username=request.POST["name"])
    login(request, user, "django.contrib.auth.backends.ModelBackend")
    return redirect("/")


@require_POST
@recent_authentication(minutes=10)
def delete_account(_request: HttpRequest) -> HttpResponse:
    """Do what only a user may who signed in within the last ten minutes."""
    return HttpResponse("deleted")


urlpatterns = [
    path("", home),
    path("sign-in", sign_in),
    path("sign-out", LogoutView.as_view()),
    path("delete-account", delete_account),
    path("account/sessions", include("session_authority.web.django.urls")),
]
application = get_wsgi_application()

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    execute_from_command_line(sys.argv)
