"""The actor's own session, which a second cookie keeps while the actor acts as another user.

The usual cookie then has the borrowed session, whose `actor_id` names the actor. It is valid only while the actor's own
session is live. This works for the views of django-hijack only.
"""

from collections.abc import Callable
from functools import cached_property
from typing import Any

from django.apps import apps

from session_authority.errors import SessionNotLive
from session_authority.session import Session
from session_authority.sync import SessionClient
from session_authority.web.cookies import SessionCookie, SetCookie
from session_authority.web.visit import Visit

OWN = "_session_authority_own_id"
"""The key in Django's session for the id of the actor's own session."""


class OwnSession:
    """The actor's own session, as one request presents it.

    Attributes:
        set_cookies: The cookies that the response must set or clear.
    """

    def __init__(self, cookie: SessionCookie, visit: Visit, client: SessionClient) -> None:
        self.set_cookies: tuple[SetCookie, ...] = ()
        self._cookie = cookie
        self._visit = visit
        self._client = client

    @cached_property
    def token(self) -> str | None:
        """The token of the actor's own session, if the browser presents one."""
        found = self._cookie.tokens(self._visit.cookie_header, local=self._visit.local)
        return found[0] if found else None

    def live(self) -> Session | None:
        """Return the actor's own session if the browser presents it and it is live."""
        if self.token is None:
            return None
        return self._client.validate(self.token, ip_address=self._visit.ip_address) or None

    def act(
        self,
        user_id: str,
        in_use: Session | None,
        sign_in: Callable[..., Session],
    ) -> tuple[Session, str | None]:
        """Begin to act as a user, or return to the actor's own session.

        Args:
            user_id: The user to act as, or the actor's own id to stop acting.
            in_use: The session of the request.
            sign_in: Records the sign-in. It takes `actor_id` and `replaces`.

        Returns:
            The session in use from now on, and the id of the actor's own session. The id is None after the actor
            has stopped acting.

        Raises:
            SessionNotLive: The actor's own session has ended, so the actor must sign in.
        """
        is_borrowed = in_use is not None and in_use.actor_id is not None
        own = self.live() if is_borrowed else in_use
        if own is None:
            raise SessionNotLive
        if is_borrowed and own.user_id == user_id:
            assert self.token is not None
            self._client.run_operation(self._visit.resume(self.token, own))
            self._clear()
            return own, None
        token = self.token if is_borrowed else self._visit.token
        session = sign_in(actor_id=own.user_id, replaces=is_borrowed)
        assert token is not None
        self.token = token
        self.set_cookies = (self._cookie.holding(token, local=self._visit.local),)
        return session, own.session_id

    def end(self) -> None:
        """End the actor's own session and clear its cookie.

        Raises:
            Unavailable: The session may still be live.
        """
        if self.token is not None:
            self._client.sign_out(self.token)
            self._clear()

    def forget(self) -> None:
        """Leave the browser's cookie unchanged, because the request failed."""
        self.set_cookies = ()

    def _clear(self) -> None:
        self.token = None
        self.set_cookies = self._cookie.cleared(local=self._visit.local)


def is_hijack(view: Callable[..., Any]) -> bool:
    """Say whether a view is one of django-hijack's, which start or stop acting as another user."""
    if not apps.is_installed("hijack"):
        return False
    from hijack.views import AcquireUserView, ReleaseUserView

    view_class = getattr(view, "view_class", None)
    return isinstance(view_class, type) and issubclass(
        view_class, (AcquireUserView, ReleaseUserView)
    )
