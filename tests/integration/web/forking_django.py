"""The Django example, with a route that says which process answered whom."""

import os

from django.http import HttpRequest, JsonResponse
from django.urls import path
from examples import django_app


def who(request: HttpRequest) -> JsonResponse:
    return JsonResponse([os.getpid(), request.user.get_username()], safe=False)


django_app.urlpatterns.append(path("who", who))
application = django_app.application
