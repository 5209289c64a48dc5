"""`request.auth_session`: a request's session at the authority, and how Django's login belongs to it.

Django keeps its own session, for data and for who is logged in; the token is in a cookie of ours. The login
is marked with the id of its session, no secret, and counts only beside the live token of that very session.
A login without a mark may be older than Session Authority's arrival. It alone can be adopted, and the mark is
kept where browsers can't reach it, so nobody gets around a revocation by losing the token.
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
from session_authority.session import Rejection, RejectionReason, Session
from session_authority.web.cookies import SetCookie
from session_authority.web.django.adopting import MARK, adopt
from session_authority.web.django.options import Options
from session_authority.web.django.own_session import OWN, OwnSession
from session_authority.web.visit import Visit, one_name

OWED = "_session_authority_revoke_others"
"""The key of Django's session that records that the user's other sessions must still be ended."""

_MODEL_BACKEND = "django.contrib.auth.backends.ModelBackend"
_User: TypeAlias = AbstractBaseUser | AnonymousUser

_log = logging.getLogger("session_authority.web")


class AuthSession:
    """The session of one request, looked up when something of it is first asked for.

    What calls the authority may raise `Unavailable`, which the middleware answers with 503 and Retry-After.
    The methods that begin with an "a" are for asynchronous views.

    The first seven attributes describe a sign-in. Set them before `login()`.

    Attributes:
        authentication_methods: How the user proves who they are, in the names of RFC 8176; the password unless set, if
            Django's own backend asked for it.
        authenticate_time: When the check of the credentials began; when the request arrived unless set.
        persistent: Whether the login outlives the browser's being closed; as Django's session unless set. It
            sets the expiry of Django's session too.
        lifetime: The absolute lifetime, at most the policy's, which it is unless set.
        idle_timeout: The idle timeout, from one minute up to the policy's, which it is unless set. A login that
            goes with the browser gets the setting `BROWSER_IDLE_TIMEOUT` if the policy has none.
        attributes: At most 16 texts to find again at each request.
        actor_id: Who acts as the user, if it is not the user.
        is_hijack: Whether the view is one of django-hijack's. Its logins leave the actor's own session live.
        met_outage: Whether the authority could not say whose session this is.
    """

    def __init__(self, request: HttpRequest, options: Options, visit: Visit) -> None:
        self.authentication_methods: Iterable[str] | None = None
        self.authenticate_time: datetime | None = None
        self.persistent: bool | None = None
        self.lifetime: timedelta | None = None
        self.idle_timeout: timedelta | None = None
        self.attributes: Mapping[str, str] | None = None
        self.actor_id: str | None = None
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
        """The live session of the request's token; None where there is none."""
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
        """Give the session.

        Args:
            maximum_age: How long ago the user may have proved at most who they are.

        Raises:
            SessionNotLive: There is none: the user must sign in.
            ReauthenticationRequired: The proof is older.
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
        """Record that the user has just proved again who they are; the cookie gets another token.

        Args:
            authentication_methods: How they did, in the names of RFC 8176.
            authenticate_time: When the check began; when the request arrived unless given.
            methods: Another name of `authentication_methods`.

        Raises:
            SessionNotLive: There is no session: the user must sign in.
        """
        self.require()
        return self._options.client.run_operation(
            self.visit.reauthenticate(
                authentication_methods=one_name(authentication_methods, methods),
                authenticate_time=authenticate_time,
            )
        )

    def revoke_others(self) -> datetime:
        """End every session of the user but this one, and say when no cache accepts them any more.

        Raises:
            SessionNotLive: There is no session: the user must sign in.
        """
        self.require()
        return self._options.client.revoke_others(self.visit.token)

    async def asession(self) -> Session | None:
        """Do as `session`, in an asynchronous view."""
        return await sync_to_async(lambda: self.session)()

    async def areauthenticate(
        self,
        *,
        authentication_methods: Iterable[str] = (),
        authenticate_time: datetime | None = None,
        methods: Iterable[str] | None = None,
    ) -> Session:
        """Do as `reauthenticate`, in an asynchronous view."""
        return await sync_to_async(self.reauthenticate)(
            authentication_methods=one_name(authentication_methods, methods),
            authenticate_time=authenticate_time,
        )

    async def arevoke_others(self) -> datetime:
        """Do as `revoke_others`, in an asynchronous view."""
        return await sync_to_async(self.revoke_others)()

    def user(self) -> _User:
        """Give who is logged in: whom Django's session names, if the authority knows the login to be live."""
        if self._user is None:
            self._user = self._user_with_live_session(get_user(self._request))
            if self._user.is_authenticated:
                self._hash_seen = self._request.session.get(HASH_SESSION_KEY)
        return self._user

    async def auser(self) -> _User:
        """Do as `user`, for `request.auser`."""
        return await sync_to_async(self.user)()

    def logged_in(self, user: AbstractBaseUser) -> None:
        """Record a login of Django's. It does not stand if the authority can't record it."""
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
        """Record the sign-in; return the id of the own session that the actor keeps, if any."""
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
                    persistent=self.persistent or None,  # False is in Django's session
                    lifetime=self.lifetime,
                    idle_timeout=idle_timeout,
                    attributes=self.attributes,
                    actor_id=self.actor_id,
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
            return record(None)  # The policy has a shorter one, which counts.

    def _ends_with_browser(self) -> bool:
        if self._request.session.get_expire_at_browser_close():
            return True
        return not (self.persistent or self._options.site.cookie.persistent)

    def logged_out(self) -> None:
        """Record a logout of Django's, which is not one if the authority can't."""
        self._own.end()
        self._options.client.run_operation(self.visit.sign_out())
        self._user = AnonymousUser()

    def signed_out_on_page(self) -> None:
        """Record that the page found or made the session to be over."""
        self._own.end()
        self._options.client.run_operation(self.visit.end())
        if MARK in self._request.session:
            self._forget_login()

    def failed(self) -> None:
        """Undo a login of this request: after a fault of the site's, Django doesn't save that there was one."""
        if self._is_new:
            self._options.client.run_operation(self.visit.take_back())
            self._own.forget()
            self._user = AnonymousUser()

    @property
    def set_cookies(self) -> tuple[SetCookie, ...]:
        """What the response must do to the cookies."""
        return self.visit.set_cookies + self._own.set_cookies

    def after_view(self) -> None:
        """Do what a login or a change of password in this request still needs."""
        if self._is_new and self._may_be_kept and self._ends_with_browser():
            self._limit_idle_time()
        self._sign_out_elsewhere()

    def _limit_idle_time(self) -> None:
        """Replace the session with one that has an idle timeout: the view called `set_expiry(0)` after `login()`."""
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
            anew = self._sign_in(self._user, session.authentication_methods)
        except SessionAuthorityError as error:
            _log.warning("a login that goes with the browser got no idle timeout: %s", error)
            return
        self._request.session[MARK] = anew.session_id

    def _sign_out_elsewhere(self) -> None:
        """Sign the user out elsewhere, if the password was changed, now or once the authority is back."""
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
            pass  # Not this login's to do.
        except SessionAuthorityError as error:
            _log.error("the other sessions after a change of password are not ended yet: %s", error)
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
        arrival = self._options.adopt_existing
        if mark is None and arrival is not None:
            login, client = self._request.session, self._options.client
            adopted = adopt(self.visit, client, login, user_id(user), arrival, self._log_out_ended)
            return AnonymousUser() if adopted is None else user
        if session is not None or self._has_ended():
            return self._log_out_ended()
        return AnonymousUser()

    def _actor_is_live(self) -> bool:
        """Say whether a borrowed session still stands, and end it if the actor's own session is over."""
        own_id = self._request.session.get(OWN)
        if own_id is None:
            return True
        own = self._own.live()
        if own is not None and own.session_id == own_id:
            return True
        self._options.client.run_operation(self.visit.sign_out())
        return False

    def _has_ended(self) -> bool:
        """Say whether the login has ended, rather than that its token was replaced by a parallel request."""
        outcome = self.visit.outcome
        return isinstance(outcome, Rejection) and outcome.reason not in (
            RejectionReason.SUPERSEDED,
            RejectionReason.UNKNOWN,
        )

    def _log_out_ended(self) -> AnonymousUser:
        """Forget a login that has ended, unless the answer must not clear Django's cookie either."""
        return self._forget_login() if self.visit.may_clear else AnonymousUser()

    def _forget_login(self) -> AnonymousUser:
        self._request.session.flush()
        self._user = nobody = AnonymousUser()
        self._request.user = nobody
        return nobody


def user_id(user: AbstractBaseUser) -> str:
    """Return the authority's name for a user: the primary key. Names and addresses can pass to another user."""
    return str(user.pk)
