"""A test client for FastAPI and Starlette apps that can sign users in.

def test_a_profile_needs_a_session(authority):
    browser = SessionTestClient(app, authority, user_id="ada")
    assert browser.get("/profile").status_code == 200
    authority.advance(timedelta(days=90))
    assert browser.get("/profile").status_code == 401
"""

from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.testclient import TestClient

from session_authority.session import Session
from session_authority.testing._authority import Authority
from session_authority.web.fastapi import Sessions


class SessionTestClient(TestClient):
    """Starlette's `TestClient` over HTTPS, for an app that calls a test authority.

    The app's `Sessions`, and those of mounted apps, call the test authority until it stops. Then they use their own
    client again.
    """

    def __init__(
        self,
        app: Starlette,
        authority: Authority,
        *,
        user_id: str | None = None,
        base_url: str = "https://testserver",
        **options: Any,
    ) -> None:
        """Connect an app to a test authority.

        Args:
            app: The app, with sessions installed.
            authority: The test authority.
            user_id: The user to sign in. The default is none.
            base_url: The app's URL in requests. It must be HTTPS for a Secure cookie.
            options: The other arguments of `TestClient`.

        Raises:
            ValueError: The app has no sessions.
        """
        super().__init__(app, base_url=base_url, **options)
        self._authority = authority
        self._sessions = list(_installed(app))
        if not self._sessions:
            raise ValueError("this app has no sessions: call sessions.install(app) first")
        for sessions in self._sessions:
            connect(sessions, authority)
        if user_id is not None:
            self.sign_in(user_id)

    def sign_in(self, user_id: str, **details: Any) -> Session:
        """Sign a user in without the app. The details are the arguments of `Authority.sign_in`."""
        details.setdefault("user_agent", self.headers.get("user-agent"))
        new = self._authority.sign_in(user_id, **details)
        url = urlsplit(str(self.base_url))
        host = url.hostname or ""
        is_local = url.scheme == "http" and (host == "localhost" or host.startswith("127."))
        name = self._sessions[0].cookie_name(local=is_local)
        # Cookie jars store a response's cookie under this domain.
        self.cookies.set(name, new.token.reveal(), host if "." in host else f"{host}.local")
        return new.session


def connect(sessions: Sessions, authority: Authority) -> None:
    """Make an app's `Sessions` call a test authority until it stops."""
    own = sessions.client
    sessions.client = authority.async_client()

    def give_back() -> None:
        sessions.client = own

    authority.at_stop(give_back)


def _installed(app: Any) -> Iterator[Sessions]:
    for middleware in getattr(app, "user_middleware", ()):
        sessions = middleware.kwargs.get("sessions")
        if isinstance(sessions, Sessions):
            yield sessions
    for route in getattr(app, "routes", ()):
        if isinstance(route, Mount):
            yield from _installed(route.app)
