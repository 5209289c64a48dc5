"""The Django shop, with a route that returns the user and the answering process."""

import os

import django_app

from django.core.wsgi import get_wsgi_application  # isort: skip
from django.http import HttpRequest, JsonResponse  # isort: skip
from django.urls import path  # isort: skip


def who(request: HttpRequest) -> JsonResponse:
    return JsonResponse([os.getpid(), request.user.get_username()], safe=False)


django_app.urlpatterns.append(path("who", who))
application = get_wsgi_application()
