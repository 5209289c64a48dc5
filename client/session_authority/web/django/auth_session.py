"""`request.auth_session`: a request's session at the authority, and how Django's login belongs to it.

Django keeps its own session, for data and for who is logged in; the token is in a cookie of ours. The login
is marked with the id of its session, no secret, and counts only beside the live token of that very session.
A login without a mark may be older than Session Authority's arrival. It alone can be adopted, and the mark is
kept where browsers can't reach it, so nobody gets around a revocation by losing the token.
"""

import logging
from collections.abc import Iterable
from contextlib import suppress
from datetime import datetime, timedelta
from typing import TypeAlias

from asgiref.sync import sync_to_async
from django.contrib.auth import HASH_SESSION_KEY
from django.contrib.auth.base_user import AbstractBaseUser
from django.contrib.auth.middleware import get_user
from django.contrib.auth.models import AnonymousUser
from django.contrib.sessions.backends.base import CreateError
from django.http import HttpRequest
from django.utils.crypto import salted_hmac

from session_authority.errors import (
    AuthenticationTooOld,
    ImpersonationForbidden,
    RetryMismatch,
    RetryStale,
    SessionAuthorityError,
    SessionNotLive,
    Unavailable,
)
from session_authority.session import Rejection, RejectionReason, Session
from session_authority.web.cookies import MAX_AGE_SECONDS
from session_authority.web.django.options import Options
from session_authority.web.visit import Visit

MARK = "_session_authority_id"
"""Under which key of Django's session the id of the authority's session is."""
OWED = "_session_authority_revoke_others"
"""Under which key is noted that the user's other sessions are still to be ended."""

_MODEL_BACKEND = "django.contrib.auth.backends.ModelBackend"
_User: TypeAlias = AbstractBaseUser | AnonymousUser

_log = logging.getLogger("session_authority.web")


class AuthSession:
    """The session of one request, looked up when something of it is first asked for.

    What calls the authority may raise `Unavailable`, which the middleware answers with 503 and Retry-After.
    The methods that begin with an "a" are for asynchronous views.

    Attributes:
        methods: How the user proves who they are, in the names of RFC 8176; to be set before `login()` where
            that is not by the password that Django's own backend asks for.
        met_outage: Whether the authority could not say whose session this is.
    """

    def __init__(self, request: HttpRequest, options: Options, visit: Visit) -> None:
        self.methods: Iterable[str] | None = None
        self.visit = visit
        self._request = request
        self._options = options
        self._user: _User | None = None
        self._hash_seen: str | None = None
        self.met_outage = False
        self._is_new = False

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
        self, *, methods: Iterable[str] = (), authenticate_time: datetime | None = None
    ) -> Session:
        """Record that the user has just proved again who they are; the cookie gets another token.

        Args:
            methods: How they did, in the names of RFC 8176.
            authenticate_time: When the check began; when the request arrived unless given.

        Raises:
            SessionNotLive: There is no session: the user must sign in.
        """
        self.require()
        return self._options.client.run_operation(
            self.visit.reauthenticate(methods=methods, authenticate_time=authenticate_time)
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
        self, *, methods: Iterable[str] = (), authenticate_time: datetime | None = None
    ) -> Session:
        """Do as `reauthenticate`, in an asynchronous view."""
        return await sync_to_async(self.reauthenticate)(
            methods=methods, authenticate_time=authenticate_time
        )

    async def arevoke_others(self) -> datetime:
        """Do as `revoke_others`, in an asynchronous view."""
        return await sync_to_async(self.revoke_others)()

    def user(self) -> _User:
        """Give who is logged in: whom Django's session names, if the authority knows the login to be live."""
        if self._user is None:
            self._user = self._authentic(get_user(self._request))
            if self._user.is_authenticated:
                self._hash_seen = self._request.session.get(HASH_SESSION_KEY)
        return self._user

    async def auser(self) -> _User:
        """Do as `user`, for `request.auser`."""
        return await sync_to_async(self.user)()

    def logged_in(self, user: AbstractBaseUser) -> None:
        """Record a login of Django's, which does not stand if the authority can't."""
        methods = self.methods
        if methods is None:
            methods = ("pwd",) if getattr(user, "backend", None) == _MODEL_BACKEND else ()
        try:
            session = self._options.client.run_operation(
                self.visit.sign_in(_user_id(user), methods=methods)
            )
        except SessionAuthorityError:
            self._forget_login()
            raise
        self._request.session[MARK] = session.session_id
        self._is_new = True
        self._user, self._hash_seen = user, self._request.session.get(HASH_SESSION_KEY)

    def logged_out(self) -> None:
        """Record a logout of Django's, which is not one if the authority can't."""
        self._options.client.run_operation(self.visit.sign_out())
        self._user = AnonymousUser()

    def signed_out_on_page(self) -> None:
        """Record that the page found or made the session to be over."""
        self._options.client.run_operation(self.visit.end())
        if MARK in self._request.session:
            self._forget_login()

    def failed(self) -> None:
        """Undo a login of this request: after a fault of the site's, Django doesn't save that there was one."""
        if self._is_new:
            self._options.client.run_operation(self.visit.take_back())
            self._user = AnonymousUser()

    def after_view(self) -> None:
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

    def _authentic(self, user: _User) -> _User:
        if not isinstance(user, AbstractBaseUser):
            return user
        mark = self._request.session.get(MARK)
        session = self.session
        if session is not None and session.user_id == _user_id(user):
            if mark == session.session_id:
                return user
            if mark is None:
                self._request.session[MARK] = session.session_id
                return user
        if mark is None and self._options.adopt_existing is not None:
            return self._adopted(user, self._options.adopt_existing)
        if session is not None or self._is_over():
            return self._over()
        return AnonymousUser()

    def _adopted(self, user: AbstractBaseUser, authenticate_time: datetime) -> _User:
        """Give a session to a login that is older than Session Authority's arrival.

        As what time it was made counts that arrival's: whatever ended all of the user's sessions since then
        covers it. Requests that come in at once get the same session, by a retry secret that they share.
        """
        authenticate_time = min(authenticate_time, self.visit.started)  # should it still lie ahead
        key = self._request.session.session_key or ""
        secret = salted_hmac("session_authority.adopt", key, algorithm="sha256").digest()
        try:
            session = self._options.client.run_operation(
                self.visit.adopt(_user_id(user), authenticate_time, secret)
            )
        except (AuthenticationTooOld, RetryStale):
            return self._over()
        except RetryMismatch:
            # Another request of this login was first, from another device it seems.
            return AnonymousUser()
        if self._first_adopted(session.session_id) != session.session_id:
            self._options.client.run_operation(self.visit.sign_out())
            return self._over()
        self._request.session[MARK] = session.session_id
        return user

    def _first_adopted(self, session_id: str) -> str:
        """Remember which session a login was given, and say which one that was the first time.

        A request that began before the login was adopted may save Django's session after that, without the mark.
        """
        key = self._request.session.session_key or ""
        record_key = salted_hmac("session_authority.adopted", key, algorithm="sha256").hexdigest()[
            :32
        ]
        store = type(self._request.session)
        recorded = store(record_key).get(MARK)
        if isinstance(recorded, str):
            return recorded
        with suppress(CreateError):  # by a request at the same time, which was given the same
            store(record_key).save(must_create=True)
        record = store(record_key)
        record[MARK] = session_id
        record.set_expiry(MAX_AGE_SECONDS)  # longer than a login that is in use can be adopted
        record.save()
        return session_id

    def _is_over(self) -> bool:
        """Say whether the login has ended, rather than that its token was replaced by a parallel request."""
        outcome = self.visit.outcome
        return isinstance(outcome, Rejection) and outcome.reason not in (
            RejectionReason.SUPERSEDED,
            RejectionReason.UNKNOWN,
        )

    def _over(self) -> AnonymousUser:
        """Forget a login that has ended, unless the answer must not clear Django's cookie either."""
        return self._forget_login() if self.visit.may_clear else AnonymousUser()

    def _forget_login(self) -> AnonymousUser:
        self._request.session.flush()
        self._user = nobody = AnonymousUser()
        self._request.user = nobody
        return nobody


def _user_id(user: AbstractBaseUser) -> str:
    # The primary key: names and addresses change, and may come to be another's.
    return str(user.pk)
