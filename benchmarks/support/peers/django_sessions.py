"""Django's own sessions: in PostgreSQL, and with `cached_db` also in Redis. They load no user."""

import os
from urllib.parse import urlsplit

import django
from django.conf import settings
from django.core.handlers.wsgi import WSGIHandler
from django.core.management import call_command
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.urls import path

_database = urlsplit(os.environ["POSTGRES_URL"])
settings.configure(
    SECRET_KEY="a benchmark's",
    ALLOWED_HOSTS=["127.0.0.1"],
    ROOT_URLCONF=__name__,
    INSTALLED_APPS=["django.contrib.sessions"],
    MIDDLEWARE=[
        "django.contrib.sessions.middleware.SessionMiddleware",
        "django.middleware.common.CommonMiddleware",
    ],
    SESSION_ENGINE=f"django.contrib.sessions.backends.{os.environ['SESSION_ENGINE']}",
    CACHES={
        "default": {
            "BACKEND": "django.core.cache.backends.redis.RedisCache",
            "LOCATION": os.environ["REDIS_URL"],
        }
    },
    DATABASES={
        "default": {
            "ENGINE": "django.db.backends.postgresql",
            "NAME": _database.path[1:],
            "USER": _database.username,
            "HOST": _database.hostname,
            "PORT": _database.port,
            "CONN_MAX_AGE": None,
        }
    },
)
django.setup()


def login(request: HttpRequest) -> HttpResponse:
    request.session["user"] = request.GET["user"]
    request.session["device"] = "Chrome on Windows"
    return JsonResponse({})


def check(request: HttpRequest) -> HttpResponse:
    if "user" not in request.session:
        return JsonResponse({}, status=401)
    return JsonResponse(dict(request.session))


urlpatterns = [path("login", login), path("check", check)]
call_command("migrate", verbosity=0)
app = WSGIHandler()
