"""One request of a browser: the token it presented, what the authority said of it, and the cookie to answer with.

Knows no framework and does no I/O: what asks the authority is an operation, for either client to run.
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from functools import cached_property
from typing import Any

from session_authority import _core
from session_authority.errors import ReauthenticationRequired, SessionAuthorityError
from session_authority.session import (
    NewSession,
    Rejection,
    RejectionReason,
    Session,
    ValidationRequest,
)
from session_authority.web.cookies import SetCookie, is_local_origin, is_local_request, may_clear
from session_authority.web.origin import normal_origin
from session_authority.web.site import Arrival
from session_authority.web.site import Site as Site  # apps may import it from here

RETRY_AFTER_SECONDS = 5
"""When a user who met an outage may try again."""
PERSISTENT_ATTRIBUTE = "session_authority.persistent"
"""The session attribute that records a sign-in's own choice of `persistent`: "yes" or "no"."""

# A superseded token has a successor, which a parallel request may have put into the cookie already. An unknown
# reason may mean the same.
_KEEPING = frozenset((RejectionReason.SUPERSEDED, RejectionReason.UNKNOWN))
_NOBODY = Rejection(RejectionReason.NOT_FOUND)

_log = logging.getLogger("session_authority.web")


class Visit:
    """What is known of one request, and what its response must say.

    Attributes:
        started: When it arrived: no credential check of it began earlier.
        outcome: What the authority said of its token; None as long as nobody has asked.
        responded: Whether the response has begun, so that no cookie can go out any more.
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

        A proxy may put "localhost" into `Host`. So each of the other signs must agree: the site's origin, the
        request's origin, and what any proxy says of the scheme and the host, whether trusted or not.
        """
        arrival = self._arrival
        is_local = is_local_request(self._scheme, arrival.host, arrival.header)
        return is_local and is_local_origin(self._site.origin)

    @cached_property
    def tokens(self) -> tuple[str, ...]:
        """What the cookie presented, usually one token or none."""
        return self._site.cookie.tokens(self.cookie_header, local=self.local)

    @property
    def cookie_header(self) -> str:
        """The request's `Cookie` header."""
        return self._arrival.header("cookie")

    @property
    def token(self) -> str | None:
        """The token in use: the live one, once that is known; until then the only candidate, if any."""
        if self._in_use is not None:
            return self._in_use
        return self.tokens[0] if self.tokens else None

    @cached_property
    def ip_address(self) -> str | None:
        """The user's IP address, where it is known."""
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
        """The live session, where one has been found."""
        return self.outcome if isinstance(self.outcome, Session) else None

    @property
    def may_clear(self) -> bool:
        """Whether the answer may clear a cookie that the request presented."""
        return may_clear(self._arrival.header)

    def to_ask(self, *, passive: bool = False) -> Sequence[ValidationRequest]:
        """Return what to ask the authority, in one call; nothing if the outcome is known."""
        if self.outcome is None and not self.tokens:
            self.outcome = _NOBODY
        if self.outcome is not None:
            return ()
        return [
            ValidationRequest(token, ip_address=self.ip_address, passive=passive)
            for token in self.tokens
        ]

    def answered(self, answers: Sequence[Session | Rejection]) -> None:
        """Take the answers to what `to_ask` returned. The first live session counts.

        Only rejections clear the cookie. Without an answer, in an outage, the cookie stays.

        A request in the background clears nothing either; `may_clear` says why.
        """
        if self.outcome is not None:
            return  # a sign-in or sign-out of this request came first
        for token, answer in zip(self.tokens, answers, strict=True):
            if isinstance(answer, Session):
                self.outcome, self._in_use = answer, token
                return
        self.outcome = answers[0]
        keeps = any(not answer and answer.reason in _KEEPING for answer in answers)
        if not keeps and self.may_clear:
            self._answer = self._site.cookie.cleared(local=self.local)

    def ask_again(self) -> None:
        """Forget the outcome, for a connection that has been open for long."""
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
            retry_secret=None,
        )

    def hand_out(self, new: NewSession, persistent: bool | None) -> tuple[str, ...]:
        """Put a token into the cookie, and return the tokens that the cookie held before."""
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

        The session that the cookie held before ends, unless `replaces` is False. The other arguments are those
        of `create`.

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
        """Put the token of an earlier session of this browser into the cookie; end the session in use."""
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
        """Record a sign-in of before there were sessions, wherever it was made, and put its token into the cookie.

        Requests that do so at once share the session, because they tell the same, and the same secret.
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
        """Record that the user has proved again who they are. `hand_out` then puts the new token into the cookie."""
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
        """Record that the user has proved again who they are, and put the new token into the cookie.

        The cookie keeps the sign-in's choice of `persistent` unless this call makes another.

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
        """Return the choice of `persistent` for a renewed cookie: a new one, or else the sign-in's own."""
        if persistent is None and self.session is not None:
            chosen = self.session.attributes.get(PERSISTENT_ATTRIBUTE)
            return {"yes": True, "no": False}.get(chosen or "")
        return persistent

    def sign_out(self) -> _core.Operation[None]:
        """End the session in use, then clear the cookie.

        An outage is raised, and keeps the cookie: the session would live on without it.
        """
        yield from _core.sign_out(self.token)
        yield from self.end()

    def end(self) -> _core.Operation[None]:
        """Note that the session in use is over, and clear the cookie. The operation ends the cookie's other sessions."""
        others = tuple(token for token in self.tokens if token != self.token)
        if self.tokens:
            self._answer = self._site.cookie.cleared(local=self.local)
        self.tokens, self._in_use = (), None
        self.outcome = Rejection(RejectionReason.SIGNED_OUT)
        return end_if_possible(others)

    @property
    def made_session(self) -> bool:
        """Whether this request got a token for the cookie."""
        return self._handed_out is not None

    def take_back(self) -> _core.Operation[None]:
        """Forget the token that this request got. The operation ends its session.

        The browser never gets the token, because the request failed. The session would stay in the user's list,
        live, and nobody could use it.
        """
        if self._handed_out is None:
            return end_if_possible(())
        ended, self._handed_out = self._handed_out, None
        if self._keeps_earlier:
            self._answer = ()  # the browser keeps the token of the session that was not replaced
        else:
            self.end()  # It presents no other token than this one.
        return end_if_possible((ended,))

    def refuse_if_too_late(self) -> None:
        """Refuse to make a token that no cookie can carry any more."""
        if self.responded:
            raise RuntimeError(
                "the response has begun, so the token can't go out in its cookie: sign in and reauthenticate "
                "before it, not in what it streams, in a background task or on an open WebSocket"
            )

    def require_recent(self, maximum_age: timedelta) -> None:
        """Refuse a session whose user last proved who they are too long ago.

        Raises:
            ReauthenticationRequired: It is older; `metadata["max_authentication_age_seconds"]` says how old
                it may be.
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
        """What the response must do to the cookie."""
        return self._answer

    @property
    def was_looked_up(self) -> bool:
        """Whether the response may differ by the cookie."""
        return self.outcome is not None

    @property
    def _user_agent(self) -> str | bytes:
        """The header as the browser sent it: web servers decode its bytes as Latin-1, and apps send UTF-8."""
        header = self._arrival.header("user-agent")
        try:
            return header.encode("latin-1")
        except UnicodeEncodeError:
            return header

    @cached_property
    def _scheme(self) -> str:
        forwarded_scheme = self._site.client_ip.scheme(self._arrival.peer, self._arrival.header)
        if forwarded_scheme is not None:
            return forwarded_scheme
        return {"ws": "http", "wss": "https"}.get(self._arrival.scheme, self._arrival.scheme)

    def _with_choice(
        self, attributes: Mapping[str, str] | None, persistent: bool | None
    ) -> Mapping[str, str] | None:
        """Add the choice of `persistent` to the attributes. The site's default needs no record."""
        if persistent is None or persistent == self._site.cookie.persistent:
            return attributes
        return {**(attributes or {}), PERSISTENT_ATTRIBUTE: "yes" if persistent else "no"}


def one_name(authentication_methods: Iterable[str], methods: Iterable[str] | None) -> Iterable[str]:
    """Return the authentication methods, whichever of their two names the app uses for them.

    Raises:
        TypeError: Both are given.
    """
    if methods is None:
        return authentication_methods
    if authentication_methods:
        raise TypeError("methods is another name of authentication_methods: give one of them")
    return methods


def end_if_possible(tokens: Iterable[str]) -> _core.Operation[None]:
    """End sessions that no browser uses any more. A failure is logged: what was done before stands."""
    for token in tokens:
        try:
            yield from _core.sign_out(token)
        except SessionAuthorityError as error:
            _log.warning("a session that no browser uses any more was not ended: %s", error)
