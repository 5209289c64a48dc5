"""The example shops, and browsers for them."""

import re
from dataclasses import dataclass
from html import unescape
from pathlib import Path

import httpx

from tests.integration.web.serving_apps import serving_app

PASSWORDS = {"ada": "difference engine", "grace": "nanosecond"}
COOKIE = "auth_session"  # its name on http://localhost
_HIDDEN = re.compile(r'<input type="hidden" name="(\w+)" value="([^"]*)"')


@dataclass(frozen=True, slots=True)
class Shop:
    """A running shop.

    Attributes:
        address: Where it listens.
        name_field: The field of its sign-in form for the user's name.
    """

    address: str
    name_field: str

    def browser(self) -> "ShopBrowser":
        return ShopBrowser(self)


class ShopBrowser(httpx.Client):
    """Browser that keeps cookies, follows redirects, and sends `Origin` with its forms."""

    def __init__(self, shop: Shop) -> None:
        # On localhost, the cookie needs no `Secure`.
        address = shop.address.replace("127.0.0.1", "localhost")
        super().__init__(
            base_url=address,
            follow_redirects=True,
            timeout=30,
            headers={"user-agent": "curl/8.5.0", "accept": "text/html", "origin": address},
            transport=httpx.HTTPTransport(retries=5),
        )
        self._name_field = shop.name_field

    def submit(self, page: str, target: str | None = None, **fields: str) -> httpx.Response:
        """Open a page and submit its form, with the hidden fields."""
        form = self.get(page)
        hidden = {name: unescape(value) for name, value in _HIDDEN.findall(form.text)}
        return self.post(
            target or page, data=hidden | fields, headers={"referer": str(form.request.url)}
        )

    def sign_in(
        self, name: str = "ada", password: str | None = None, page: str = "/sign-in"
    ) -> httpx.Response:
        given = PASSWORDS[name] if password is None else password
        return self.submit(page, **{self._name_field: name, "password": given})

    @property
    def token(self) -> str:
        return self.cookies[COOKIE]

    @token.setter
    def token(self, token: str) -> None:
        (cookie,) = (each for each in self.cookies.jar if each.name == COOKIE)
        cookie.value = token

    @property
    def cookie_header(self) -> str:
        return "; ".join(f"{each.name}={each.value}" for each in self.cookies.jar)


def make_django_users(folder: Path, **settings: str) -> None:
    """Create the Django shop's database in a folder, with its users."""
    with serving_app("tests.integration.web.example_shops", cwd=folder, **settings) as app:
        assert app.process.wait(60) == 0, app.output


if __name__ == "__main__":
    import django_app  # noqa: F401 - configures Django

    from django.contrib.auth.hashers import PBKDF2PasswordHasher  # isort: skip
    from django.contrib.auth.models import User  # isort: skip
    from django.core.management import call_command  # isort: skip

    PBKDF2PasswordHasher.iterations = 1  # as in the processes that check the passwords
    call_command("migrate", verbosity=0)
    for name, password in PASSWORDS.items():
        User.objects.create_user(name, password=password)
