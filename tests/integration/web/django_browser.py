"""A browser that uses the Django test site over HTTPS."""

from typing import Any

from tests.integration.web.django_site import FOLDER  # noqa: F401 - configures Django before its imports

from django.contrib.auth.models import User  # isort: skip
from django.test import Client  # isort: skip

COOKIE = "__Host-auth_session"


class Browser(Client):
    """Test client that uses HTTPS. If the site raises an exception, the client gets a response with status 500."""

    def __init__(self, **headers: str) -> None:
        super().__init__(
            raise_request_exception=False,
            headers={"host": "app.example", "user-agent": "curl/8.5.0"} | headers,
        )

    def request(self, **request: Any) -> Any:
        return super().request(
            **request | {"wsgi.url_scheme": "https", "REMOTE_ADDR": "203.0.113.7"}
        )

    @property
    def token(self) -> str | None:
        return self.cookies[COOKIE].value if COOKIE in self.cookies else None

    def sign_in(self, user: str = "ada") -> None:
        assert self.get("/sign-in", {"user": user}).content == b"in"

    def who(self) -> str | None:
        name: str | None = self.get("/me").json()["user"]
        return name


def user_id(name: str = "ada") -> str:
    return str(User.objects.get(username=name).pk)
