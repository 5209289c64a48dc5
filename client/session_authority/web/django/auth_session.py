"""`request.auth_session`: the authority's session of a request, and its relation to Django's login.

Django's own session stores the login. It is marked with the id of the authority's session, which is not a secret. The
token is in a second cookie. A marked login is valid only with the live token of that session.

A login without a mark may be older than the deployment of Session Authority. Only such a login can be adopted. The mark
is stored on the server, so a browser cannot bypass a revocation by deleting the token.
"""

import logging
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import TypeAlias

from asgiref.sync import sync_to_async
from django.conf import settings
from django.contrib.auth import HASH_SESSION_KEY
from django.contrib.auth.base_user import AbstractBaseUser
from django.contrib.auth.middleware import get_user
from django.contrib.auth.models import AnonymousUser
from django.http import HttpRequest

from session_authority.errors import (
    ImpersonationForbidden,
    InvalidArgument,
    SessionAuthorityError,
    SessionNotLive,
    Unavailable,
)
from session_authority.session import Identity, Rejection, RejectionReason, Session
from session_authority.web.authentication_methods import methods_of
from session_authority.web.cookies import SetCookie
from session_authority.web.django.adopting import MARK, adopt
from session_authority.web.django.options import Options
from session_authority.web.django.own_session import OWN, OwnSession
from session_authority.web.visit import Visit

OWED = "_session_authority_revoke_others"
"""The key in Django's session that records that the user's other sessions must still be ended."""

_MODEL_BACKEND = "django.contrib.auth.backends.ModelBackend"
_User: TypeAlias = AbstractBaseUser | AnonymousUser

_log = logging.getLogger("session_authority.web")


class AuthSession:
    """The session of one request, which is looked up at its first use.

    A method that calls the authority may raise `Unavailable`. The middleware answers it with 503 and Retry-After. The
    methods that begin with "a" are for asynchronous views.

    The first eight attributes describe a sign-in. Set them before `login()`.

    Attributes:
        authentication_methods: How the user proved who they are, in the names of RFC 8176. The default is "pwd" for
            Django's own backend.
        authenticate_time: When the credential check began. The default is the arrival of the request.
        persistent: Whether the login stays when the browser is closed. If set, the login also sets the expiry of
            Django's session. By default, that expiry and the setting `COOKIE_PERSISTENT` decide.
        lifetime: The absolute lifetime, at most the policy's. The default is the policy's.
        idle_timeout: The idle timeout, at least a minute. The default is the policy's. If the policy has none and the
            login ends with the browser, the setting `BROWSER_IDLE_TIMEOUT` applies.
        attributes: At most 16 texts that each look-up returns.
        actor_id: The id of another person who acts as the user.
        identity: The user's sign-in at an identity provider, whose logout then ends the session.
        is_hijack: Whether the view is one of django-hijack's. Its logins leave the actor's own session live.
        met_outage: Whether a look-up failed because of an outage.
    """

    def __init__(self, request: HttpRequest, options: Options, visit: Visit) -> None:
        self.authentication_methods: Iterable[str] | None = None
        self.authenticate_time: datetime | None = None
        self.persistent: bool | None = None
        self.lifetime: timedelta | None = None
        self.idle_timeout: timedelta | None = None
        self.attributes: Mapping[str, str] | None = None
        self.actor_id: str | None = None
        self.identity: Identity | None = None
        self.is_hijack = False
        self.visit = visit
        self._own = OwnSession(options.own_cookie, visit, options.client)
        self._request = request
        self._options = options
        self._user: _User | None = None
        self._hash_seen: str | None = None
        self.met_outage = False
        self._is_new = False
        self._may_be_kept = False

    @property
    def methods(self) -> Iterable[str] | None:
        """Another name of `authentication_methods`."""
        return self.authentication_methods

    @methods.setter
    def methods(self, names: Iterable[str] | None) -> None:
        self.authentication_methods = names

    @property
    def session(self) -> Session | None:
        """The live session of the request's token; None if there is none."""
        client = self._options.client
        try:
            match self.visit.to_ask():
                case []:
                    pass
                case [only]:
                    answer = client.validate(only.token, ip_address=only.ip_address)
                    self.visit.answered([answer])
                case several:
                    self.visit.answered(client.validate_many(several))
        except Unavailable:
            self.met_outage = True
            raise
        return self.visit.session

    def require(self, *, maximum_age: timedelta | None = None) -> Session:
        """Return the session.

        Args:
            maximum_age: The maximum age of the user's last proof of identity.

        Raises:
            SessionNotLive: There is no live session: the user must sign in.
            ReauthenticationRequired: The last proof of identity is older than `maximum_age`.
        """
        session = self.session
        if session is None:
            raise SessionNotLive
        if maximum_age is not None:
            self.visit.require_recent(maximum_age)
        return session

    def reauthenticate(
        self,
        *,
        authentication_methods: Iterable[str] = (),
        authenticate_time: datetime | None = None,
        methods: Iterable[str] | None = None,
    ) -> Session:
        """Record that the user has just proved their identity again. The cookie gets a new token.

        Args:
            authentication_methods: How the user proved who they are, in the names of RFC 8176.
            authenticate_time: When the credential check began. The default is the arrival of the request.
            methods: Another name of `authentication_methods`.

        Raises:
            SessionNotLive: There is no session: the user must sign in.
        """
        self.require()
        return self._options.client.run_operation(
            self.visit.reauthenticate(
                authentication_methods=methods_of(authentication_methods, methods),
                authenticate_time=authenticate_time,
            )
        )

    def revoke_others(self) -> datetime:
        """Revoke every session of the user except this one. Return when no cache accepts them any more.

        Raises:
            SessionNotLive: There is no session: the user must sign in.
        """
        self.require()
        return self._options.client.revoke_others(self.visit.token)

    async def asession(self) -> Session | None:
        """Return `session`, in an asynchronous view."""
        return await sync_to_async(lambda: self.session)()

    async def areauthenticate(
        self,
        *,
        authentication_methods: Iterable[str] = (),
        authenticate_time: datetime | None = None,
        methods: Iterable[str] | None = None,
    ) -> Session:
        """Call `reauthenticate`, in an asynchronous view."""
        return await sync_to_async(self.reauthenticate)(
            authentication_methods=methods_of(authentication_methods, methods),
            authenticate_time=authenticate_time,
        )

    async def arevoke_others(self) -> datetime:
        """Call `revoke_others`, in an asynchronous view."""
        return await sync_to_async(self.revoke_others)()

    def user(self) -> _User:
        """Return the user of Django's login if the login has a live session, and otherwise an anonymous user."""
        if self._user is None:
            self._user = self._user_with_live_session(get_user(self._request))
            if self._user.is_authenticated:
                self._hash_seen = self._request.session.get(HASH_SESSION_KEY)
        return self._user

    async def auser(self) -> _User:
        """Return `user()`, for `request.auser`."""
        return await sync_to_async(self.user)()

    def logged_in(self, user: AbstractBaseUser) -> None:
        """Record a Django login at the authority. If that fails, undo the login and raise the error."""
        try:
            own_id = self._begin(user)
        except SessionAuthorityError:
            self._forget_login()
            raise
        if own_id is not None:
            self._request.session[OWN] = own_id
        self._is_new = True
        self._user, self._hash_seen = user, self._request.session.get(HASH_SESSION_KEY)

    def _begin(self, user: AbstractBaseUser) -> str | None:
        """Record the sign-in. If an actor now acts as the user, return the id of the actor's own session."""
        login = self._request.session
        if self.is_hijack:

            def act_as(*, actor_id: str, replaces: bool) -> Session:
                self.actor_id = actor_id
                return self._sign_in(user, (), replaces=replaces)

            session, own_id = self._own.act(user_id(user), self.session, act_as)
        else:
            self._own.end()
            if self.persistent is not None:
                login.set_expiry(settings.SESSION_COOKIE_AGE if self.persistent else 0)
            methods = self.authentication_methods
            if methods is None:
                by_password = getattr(user, "backend", None) == _MODEL_BACKEND
                methods = ("pwd",) if by_password and self.actor_id is None else ()
            session, own_id = self._sign_in(user, methods), None
        login[MARK] = session.session_id
        return own_id

    def _sign_in(
        self, user: AbstractBaseUser, methods: Iterable[str], *, replaces: bool = True
    ) -> Session:
        methods = tuple(methods)

        def record(idle_timeout: timedelta | None) -> Session:
            return self._options.client.run_operation(
                self.visit.sign_in(
                    user_id(user),
                    authentication_methods=methods,
                    authenticate_time=self.authenticate_time,
                    # `_begin` stores the choice False in Django's session, as the expiry 0.
                    persistent=self.persistent or None,
                    lifetime=self.lifetime,
                    idle_timeout=idle_timeout,
                    attributes=self.attributes,
                    actor_id=self.actor_id,
                    identity=self.identity,
                    replaces=replaces,
                )
            )

        self._may_be_kept = not self._ends_with_browser()
        default = self._options.browser_idle_timeout
        if self._may_be_kept or self.idle_timeout or self.lifetime or default is None:
            return record(self.idle_timeout)
        try:
            return record(default)
        except InvalidArgument:
            return record(None)  # the policy has a shorter idle timeout

    def _ends_with_browser(self) -> bool:
        if self._request.session.get_expire_at_browser_close():
            return True
        return not (self.persistent or self._options.site.cookie.persistent)

    def logged_out(self) -> None:
        """Record a Django logout at the authority. If that fails, raise the error: the user stays logged in."""
        self._own.end()
        self._options.client.run_operation(self.visit.sign_out())
        self._user = AnonymousUser()

    def signed_out_on_page(self) -> None:
        """Record that the session is over, because the sessions page ended it or found it ended."""
        self._own.end()
        self._options.client.run_operation(self.visit.end())
        if MARK in self._request.session:
            self._forget_login()

    def failed(self) -> None:
        """End the session of this request's login, because Django does not save the login of a failed request."""
        if self._is_new:
            self._options.client.run_operation(self.visit.take_back())
            self._own.forget()
            self._user = AnonymousUser()

    @property
    def set_cookies(self) -> tuple[SetCookie, ...]:
        """The cookies that the response must set or clear."""
        return self.visit.set_cookies + self._own.set_cookies

    def after_view(self) -> None:
        """Complete a login or a password change of this request."""
        if self._is_new and self._may_be_kept and self._ends_with_browser():
            self._limit_idle_time()
        self._sign_out_elsewhere()

    def _limit_idle_time(self) -> None:
        """Replace the new session by one with an idle timeout.

        After `login()`, the view called `set_expiry(0)`, so the login now ends with the browser. Such a login gets
        `browser_idle_timeout`. Do nothing if that option is off, or if the session already has an idle timeout or a
        lifetime of its own.
        """
        session = self.session
        default = self._options.browser_idle_timeout
        if (
            not isinstance(self._user, AbstractBaseUser)
            or session is None
            or session.idle_expire_time is not None
            or self.lifetime is not None
            or default is None
        ):
            return
        try:
            limited = self._sign_in(self._user, session.authentication_methods)
        except SessionAuthorityError as error:
            _log.warning("a login that ends with the browser got no idle timeout: %s", error)
            return
        self._request.session[MARK] = limited.session_id

    def _sign_out_elsewhere(self) -> None:
        """Sign the user out elsewhere after a password change. During an outage, a later request does so."""
        if self._user is None or not self._user.is_authenticated:
            return
        session = self._request.session
        changed = session.get(HASH_SESSION_KEY) != self._hash_seen
        if changed and self._options.revoke_others_on_password_change:
            session[OWED] = True
        if OWED not in session:
            return
        try:
            self.revoke_others()
        except (SessionNotLive, ImpersonationForbidden):
            pass  # this login has no right to end the other sessions
        except SessionAuthorityError as error:
            _log.error("the other sessions after a password change are not ended yet: %s", error)
            return
        del session[OWED]

    def _user_with_live_session(self, user: _User) -> _User:
        if not isinstance(user, AbstractBaseUser):
            return user
        mark = self._request.session.get(MARK)
        session = self.session
        if session is not None and session.user_id == user_id(user):
            if mark == session.session_id:
                return user if self._actor_is_live() else self._log_out_ended()
            if mark is None:
                self._request.session[MARK] = session.session_id
                return user
        deployed = self._options.adopt_existing
        if mark is None and deployed is not None:
            login, client = self._request.session, self._options.client
            adopted = adopt(self.visit, client, login, user_id(user), deployed, self._log_out_ended)
            return AnonymousUser() if adopted is None else user
        ended = session is not None or self._has_ended()
        return self._log_out_ended() if ended else AnonymousUser()

    def _actor_is_live(self) -> bool:
        """Say whether the actor's own session is live, and end the borrowed session if it is not.

        Return True if there is no actor.
        """
        own_id = self._request.session.get(OWN)
        if own_id is None:
            return True
        own = self._own.live()
        if own is not None and own.session_id == own_id:
            return True
        self._options.client.run_operation(self.visit.sign_out())
        return False

    def _has_ended(self) -> bool:
        """Say whether the login has ended. A superseded token or an unknown reason does not prove it."""
        outcome = self.visit.outcome
        return isinstance(outcome, Rejection) and outcome.reason not in (
            RejectionReason.SUPERSEDED,
            RejectionReason.UNKNOWN,
        )

    def _log_out_ended(self) -> AnonymousUser:
        """Forget a login that has ended. If the response must not clear cookies, leave the login to a later request."""
        return self._forget_login() if self.visit.may_clear else AnonymousUser()

    def _forget_login(self) -> AnonymousUser:
        self._request.session.flush()
        self._user = anonymous = AnonymousUser()
        self._request.user = anonymous
        return anonymous


def user_id(user: AbstractBaseUser) -> str:
    """Return the `user_id` of a user: the primary key, because a name or an address can pass to another user."""
    return str(user.pk)
