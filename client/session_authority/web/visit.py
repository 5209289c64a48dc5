"""One request of a browser: the token that it presented, the authority's answer, and the cookie of the response.

This module needs no framework and does no I/O. Its calls are operations, which either client can run.
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from functools import cached_property
from typing import Any

from session_authority import _core
from session_authority.errors import ReauthenticationRequired, SessionAuthorityError
from session_authority.session import (
    Identity,
    NewSession,
    Rejection,
    RejectionReason,
    Session,
    ValidationRequest,
)
from session_authority.web.cookies import (
    SetCookie,
    is_local_origin,
    is_local_request,
    is_own_machine,
    may_clear,
)
from session_authority.web.origin import normal_origin
from session_authority.web.site import Arrival
from session_authority.web.site import Site as Site  # apps may import it from here

RETRY_AFTER_SECONDS = 5
"""The `Retry-After` of an answer during an outage."""
PERSISTENT_ATTRIBUTE = "session_authority.persistent"
"""The session attribute that records a sign-in's own choice of `persistent`: "yes" or "no"."""

# After these rejections, the cookie stays: a parallel request may already have replaced a superseded token in it.
# An unknown reason may mean the same.
_COOKIE_STAYS = frozenset((RejectionReason.SUPERSEDED, RejectionReason.UNKNOWN))
_NO_SESSION = Rejection(RejectionReason.NOT_FOUND)

_log = logging.getLogger("session_authority.web")


class Visit:
    """The session of one request, and the cookies of its response.

    Attributes:
        started: When the request arrived. It is the earliest time at which its credential check can have begun.
        outcome: The authority's answer about the token; None before the look-up.
        responded: Whether the response has begun. It can then carry no further cookie.
    """

    def __init__(self, site: Site, arrival: Arrival) -> None:
        self.started = site.clock()
        self.outcome: Session | Rejection | None = None
        self._site = site
        self._arrival = arrival
        self._in_use: str | None = None
        self._answer: tuple[SetCookie, ...] = ()
        self.responded = False
        self._handed_out: str | None = None
        self._keeps_earlier = False

    @cached_property
    def local(self) -> bool:
        """Whether the browser talks plain HTTP to its own machine.

        A proxy may put "localhost" into `Host`. So the site's origin, the request's origin, and the scheme and host
        that any proxy forwards, trusted or not, must all be local too.
        """
        arrival = self._arrival
        if not is_own_machine(arrival.host):  # the usual case, without reading the other headers
            return False
        is_local = is_local_request(self._scheme, arrival.host, arrival.header)
        return is_local and is_local_origin(self._site.origin)

    @cached_property
    def tokens(self) -> tuple[str, ...]:
        """The tokens of the request's cookies, usually one or none."""
        return self._site.cookie.tokens(self.cookie_header, local=self.local)

    @property
    def cookie_header(self) -> str:
        """The request's `Cookie` header."""
        return self._arrival.header("cookie")

    @property
    def token(self) -> str | None:
        """The token in use: the live one if it is known, and otherwise the first one of the cookies, if any."""
        if self._in_use is not None:
            return self._in_use
        return self.tokens[0] if self.tokens else None

    @property
    def ip_address(self) -> str | None:
        """The user's IP address, if known."""
        client_ip = self._site.client_ip
        return client_ip.find(self._arrival.peer, self._arrival.header(client_ip.header))

    @property
    def origin(self) -> str:
        """The origin that the browser sees, in its normal form if the request names a host."""
        if self._site.origin is not None:
            return self._site.origin
        named = f"{self._scheme}://{self._arrival.host}"
        return normal_origin(named) or named

    @property
    def session(self) -> Session | None:
        """The live session, if one has been found."""
        return self.outcome if isinstance(self.outcome, Session) else None

    @property
    def may_clear(self) -> bool:
        """Whether the response may clear the cookie (`cookies.may_clear` explains when)."""
        return may_clear(self._arrival.header)

    def to_ask(self, *, passive: bool = False) -> Sequence[ValidationRequest]:
        """Return the requests to send to the authority in one call. None are needed if the outcome is known."""
        if self.outcome is None and not self.tokens:
            self.outcome = _NO_SESSION
        if self.outcome is not None:
            return ()
        address = self.ip_address
        return [
            ValidationRequest(token, ip_address=address, passive=passive) for token in self.tokens
        ]

    def answered(self, answers: Sequence[Session | Rejection]) -> None:
        """Take the answers to the requests of `to_ask`. The first live session counts.

        Only rejections clear the cookie. During an outage there are no answers, so the cookie stays. A background
        request does not clear it either: `may_clear` says why.
        """
        if self.outcome is not None:
            return  # this request has signed in or out during the look-up
        for token, answer in zip(self.tokens, answers, strict=True):
            if isinstance(answer, Session):
                self.outcome, self._in_use = answer, token
                return
        self.outcome = answers[0]
        stays = any(not answer and answer.reason in _COOKIE_STAYS for answer in answers)
        if not stays and self.may_clear:
            self._answer = self._site.cookie.cleared(local=self.local)

    def ask_again(self) -> None:
        """Forget the outcome, so that a long-lived connection asks the authority again."""
        self.outcome, self._in_use = None, None

    def create(
        self,
        user_id: str,
        *,
        authentication_methods: Iterable[str] = (),
        authenticate_time: datetime | None = None,
        persistent: bool | None = None,
        lifetime: timedelta | None = None,
        idle_timeout: timedelta | None = None,
        attributes: Mapping[str, str] | None = None,
        actor_id: str | None = None,
        identity: Identity | None = None,
    ) -> _core.Operation[NewSession]:
        """Record a sign-in. `hand_out` then puts its token into the cookie."""
        return _core.create(
            user_id,
            ip_address=self.ip_address,
            user_agent=self._user_agent,
            authenticate_time=authenticate_time or self.started,
            authentication_methods=authentication_methods,
            lifetime=lifetime,
            idle_timeout=idle_timeout,
            attributes=self._with_choice(attributes, persistent),
            actor_id=actor_id,
            identity=identity,
            retry_secret=None,
        )

    def hand_out(self, new: NewSession, persistent: bool | None) -> tuple[str, ...]:
        """Put a token into the cookie, and return the earlier tokens of the cookie."""
        replaced = self.tokens
        token = new.token.reveal()
        cookie = self._site.cookie
        if self._site.origin is None and not self.local and self._scheme in ("http", "ws"):
            cookie.warn_of_plain_http(self.origin)
        self._answer = (cookie.holding(token, local=self.local, persistent=persistent),)
        self.tokens, self._in_use = (token,), token
        self.outcome, self._handed_out = new.session, token
        return replaced

    def sign_in(
        self,
        user_id: str,
        *,
        persistent: bool | None = None,
        replaces: bool = True,
        **how: Any,
    ) -> _core.Operation[Session]:
        """Record a sign-in and put its token into the cookie.

        The cookie's earlier session ends, unless `replaces` is False. The other arguments are those of `create`.

        Raises:
            RuntimeError: The response has begun.
        """
        self.refuse_if_too_late()
        new = yield from self.create(user_id, persistent=persistent, **how)
        replaced = self.hand_out(new, persistent)
        self._keeps_earlier = not replaces
        yield from end_if_possible(replaced if replaces else ())
        return new.session

    def resume(self, token: str, session: Session) -> _core.Operation[None]:
        """Put the token of an earlier session of this browser into the cookie, and end the session in use."""
        self.refuse_if_too_late()
        replaced = self.tokens
        self.tokens, self._in_use = (token,), token
        self.outcome, self._handed_out = session, None
        cookie, persistent = self._site.cookie, self.kept_choice(None)
        self._answer = (cookie.holding(token, local=self.local, persistent=persistent),)
        yield from end_if_possible(replaced)

    def adopt(
        self, user_id: str, authenticate_time: datetime, retry_secret: bytes
    ) -> _core.Operation[Session]:
        """Record a login that is older than Session Authority, and put its token into the cookie.

        Concurrent requests share the session, because they send the same parameters and the same secret.
        """
        new = yield from _core.create(
            user_id,
            ip_address=None,
            user_agent=self._user_agent,
            authenticate_time=authenticate_time,
            authentication_methods=(),
            lifetime=None,
            idle_timeout=None,
            attributes=None,
            actor_id=None,
            identity=None,
            retry_secret=retry_secret,
        )
        self.hand_out(new, None)
        return new.session

    def renew(
        self,
        *,
        authentication_methods: Iterable[str] = (),
        authenticate_time: datetime | None = None,
    ) -> _core.Operation[NewSession]:
        """Record that the user proved their identity again. `hand_out` then puts the new token into the cookie."""
        return _core.reauthenticate(
            self.token,
            authentication_methods=authentication_methods,
            authenticate_time=authenticate_time or self.started,
            retry_secret=None,
        )

    def reauthenticate(
        self,
        *,
        authentication_methods: Iterable[str] = (),
        authenticate_time: datetime | None = None,
        persistent: bool | None = None,
    ) -> _core.Operation[Session]:
        """Record that the user proved their identity again, and put the new token into the cookie.

        The cookie keeps the `persistent` choice of the sign-in, unless this call makes another choice.

        Raises:
            RuntimeError: The response has begun.
        """
        self.refuse_if_too_late()
        new = yield from self.renew(
            authentication_methods=authentication_methods, authenticate_time=authenticate_time
        )
        self.hand_out(new, self.kept_choice(persistent))
        return new.session

    def kept_choice(self, persistent: bool | None) -> bool | None:
        """Return the `persistent` choice for a renewed cookie: the given one, or else the sign-in's."""
        if persistent is None and self.session is not None:
            chosen = self.session.attributes.get(PERSISTENT_ATTRIBUTE)
            return {"yes": True, "no": False}.get(chosen or "")
        return persistent

    def sign_out(self) -> _core.Operation[None]:
        """End the session in use, then clear the cookie.

        An outage raises `Unavailable` and keeps the cookie, because the session may still be live.
        """
        yield from _core.sign_out(self.token)
        yield from self.end()

    def end(self) -> _core.Operation[None]:
        """Clear the cookie of a session that has ended. Return an operation that ends the other tokens' sessions.

        A request may carry several session cookies, each with a different token.
        """
        others = tuple(token for token in self.tokens if token != self.token)
        if self.tokens:
            self._answer = self._site.cookie.cleared(local=self.local)
        self.tokens, self._in_use = (), None
        self.outcome = Rejection(RejectionReason.SIGNED_OUT)
        return end_if_possible(others)

    @property
    def made_session(self) -> bool:
        """Whether the response will put a new token from the authority into the cookie."""
        return self._handed_out is not None

    def take_back(self) -> _core.Operation[None]:
        """Drop the token that this request got. Return an operation that ends the token's session.

        The request failed, so the browser never gets the token. If the session stayed live, the user's list would
        show a session that no browser can use.
        """
        if self._handed_out is None:
            return end_if_possible(())
        ended, self._handed_out = self._handed_out, None
        if self._keeps_earlier:
            self._answer = ()  # the browser keeps the cookie of its earlier session
        else:
            self.end()
        return end_if_possible((ended,))

    def refuse_if_too_late(self) -> None:
        """Raise if the response has begun, because no cookie can carry a new token any more.

        Raises:
            RuntimeError: The response has begun.
        """
        if self.responded:
            raise RuntimeError(
                "the response has begun, so it can't set the cookie: sign in and reauthenticate before the "
                "response, not while it streams, in a background task or on an open WebSocket"
            )

    def require_recent(self, maximum_age: timedelta) -> None:
        """Raise if the user's last proof of identity is too old.

        Raises:
            ReauthenticationRequired: The proof is older than `maximum_age`.
                `metadata["max_authentication_age_seconds"]` is that limit.
        """
        session = self.session
        if session is None or self._site.clock() - session.authenticate_time > maximum_age:
            seconds = str(int(maximum_age.total_seconds()))
            raise ReauthenticationRequired(
                reason="REAUTHENTICATION_REQUIRED",
                metadata={"max_authentication_age_seconds": seconds},
            )

    @property
    def set_cookies(self) -> tuple[SetCookie, ...]:
        """The cookies that the response must set or clear."""
        return self._answer

    @property
    def was_looked_up(self) -> bool:
        """Whether the session was looked up, so that the response may depend on the cookie."""
        return self.outcome is not None

    @property
    def _user_agent(self) -> str | bytes:
        """The header's bytes as the browser sent them. Web servers decode them as Latin-1, but apps send UTF-8."""
        header = self._arrival.header("user-agent")
        try:
            return header.encode("latin-1")
        except UnicodeEncodeError:
            return header

    @property
    def _scheme(self) -> str:
        forwarded_scheme = self._site.client_ip.scheme(self._arrival.peer, self._arrival.header)
        if forwarded_scheme is not None:
            return forwarded_scheme
        return {"ws": "http", "wss": "https"}.get(self._arrival.scheme, self._arrival.scheme)

    def _with_choice(
        self, attributes: Mapping[str, str] | None, persistent: bool | None
    ) -> Mapping[str, str] | None:
        """Add the `persistent` choice to the attributes, if it differs from the site's default."""
        if persistent is None or persistent == self._site.cookie.persistent:
            return attributes
        return {**(attributes or {}), PERSISTENT_ATTRIBUTE: "yes" if persistent else "no"}


def end_if_possible(tokens: Iterable[str]) -> _core.Operation[None]:
    """End sessions that no browser uses any more. A failure is only logged, because the request has succeeded."""
    for token in tokens:
        try:
            yield from _core.sign_out(token)
        except SessionAuthorityError as error:
            _log.warning("a session that no browser uses any more was not ended: %s", error)
