"""Sessions for FastAPI and Starlette: look-up, cookies, sign-in, sign-out, and the sessions page.

sessions = Sessions.from_env()
sessions.install(app, page="/account/sessions")

@app.post("/sign-in")
async def sign_in(request: Request) -> None:
    ...  # check the password
    await sessions.sign_in(request, user_id="ada", authentication_methods=["pwd"])

@app.get("/me")
async def me(session: CurrentSession) -> str:
    return session.user_id
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Annotated, Self, TypeAlias

try:
    from fastapi import Depends, FastAPI, Security, params
    from starlette.applications import Starlette
    from starlette.requests import HTTPConnection, Request
    from starlette.routing import Route
except ImportError as error:
    raise ImportError(
        f"session_authority.web.fastapi needs FastAPI ({error}); "
        "install session-authority with its extra `fastapi`"
    ) from None

from session_authority.aio import AsyncSessionClient
from session_authority.backchannel import Provider
from session_authority.errors import SessionAuthorityError, SessionNotLive
from session_authority.session import Identity, Rejection, Session
from session_authority.web.asgi import (
    SESSIONS_KEY,
    Application,
    AsyncVisit,
    SessionMiddleware,
    look_up,
    visit_key,
)
from session_authority.web.asgi_page import PageApplication, check_path
from session_authority.web.asgi_sign_in import SignIns
from session_authority.web.authentication_methods import methods_of
from session_authority.web.cookies import SessionCookie
from session_authority.web.fastapi_answers import add_handlers, close_if_open
from session_authority.web.fastapi_openapi import CookieScheme, document
from session_authority.web.next_page import next_page
from session_authority.web.sessions_page import PageOptions
from session_authority.web.site import Site, system_time, time_at


class Sessions:
    """The sessions of an app's users.

    Each method that calls the authority may raise an error. `install` adds these exception handlers to the app, unless
    it has its own, for example to redirect to a sign-in page:

    - `Unavailable`: 503 with Retry-After. The user keeps the cookie.
    - `SessionNotLive`: 401, or a redirect of a browser to the page's `sign_in_url`.
    - `AuthenticationTooOld`: 401.
    - `ReauthenticationRequired` and `SessionLimitReached`: 403.
    """

    def __init__(self, client: AsyncSessionClient, site: Site | None = None) -> None:
        """Use a client for a site.

        Args:
            client: The client of the authority. It connects at its first call, so it may be created before a fork.
            site: The cookie, the trusted proxies and the origin. The default is for a single host without a proxy.
        """
        self.client = client
        self._site = site or Site()
        if self._site.clock is system_time:
            self._site = replace(self._site, clock=lambda: time_at(self.client.address))
        self.page_options = PageOptions()
        self._sign_ins = SignIns(self)

    @classmethod
    def from_env(cls, site: Site | None = None) -> Self:
        """Create the client from the environment, as `AsyncSessionClient.from_env` does.

        Raises:
            ConfigurationError: A variable has no usable value; the message names it.
        """
        return cls(AsyncSessionClient.from_env(), site)

    def install(
        self,
        app: Starlette,
        *,
        page: str | None = None,
        options: PageOptions | None = None,
        providers: Sequence[Provider] = (),
        backchannel: str = "/backchannel",
    ) -> None:
        """Add the middleware, the exception handlers and the sessions page to an app.

        Args:
            app: A FastAPI or Starlette application that has not started yet.
            page: The path of the page on which users see and end their own sessions, for example
                "/account/sessions". The default is no page.
            options: The look and the links of the page. If they are set, browsers are redirected to
                `PageOptions.sign_in_url` without a session, and to `PageOptions.reauthenticate_url` if the user must
                confirm their identity.
            providers: The identity providers whose sign-outs end the sessions of their sign-ins.
            backchannel: The path at which they are received: logout tokens below it at `/logout`, security events at
                `/events`.

        Raises:
            ValueError: A path does not begin with exactly one slash, or ends with a slash. Or two providers have the same
                issuer and client id.
        """
        app.add_middleware(
            SessionMiddleware, site=self._site, sessions=self, take_back=self._sign_ins.take_back
        )
        add_handlers(app)
        if isinstance(app, FastAPI):
            document(app, self._site.cookie.name(local=False))
        self.page_options = options or PageOptions()
        applications: dict[str, Application] = {}
        if page is not None:
            shown = PageApplication(self, page, self.page_options, self._site)
            applications |= {page: shown, page + "/{below:path}": shown}
        if providers:
            applications |= self._backchannel(backchannel, providers)
        # The routes come first, so that no app mounted at "/" and no catch-all route hides them.
        app.router.routes[:0] = [
            Route(path, application, include_in_schema=False)
            for path, application in applications.items()
        ]

    def _backchannel(self, path: str, providers: Sequence[Provider]) -> dict[str, Application]:
        check_path(path)
        # Needs the extra `backchannel`.
        from session_authority.web.asgi_backchannel import backchannel

        received = backchannel(lambda: self.client, providers, self._site.clock)
        return {path + below: application for below, application in received.items()}

    async def session(
        self, connection: HTTPConnection, *, again: bool = False, passive: bool = False
    ) -> Session | Rejection:
        """Return the session of a request or WebSocket, or a rejection, which is falsy.

        Args:
            connection: The request or WebSocket.
            again: Whether to ask the authority again, for a WebSocket that has been open for a while. Prefer
                `require`, which raises if the session has ended.
            passive: Whether the look-up is not caused by the user. It then doesn't count as activity.
        """
        visit = self._visit(connection)
        async with visit.turn:
            if again:
                visit.ask_again()
            found = await look_up(self.client, visit, passive=passive)
            await visit.watch()
            return found

    async def require(
        self,
        connection: HTTPConnection,
        *,
        again: bool = False,
        passive: bool = False,
        maximum_age: timedelta | None = None,
    ) -> Session:
        """Return the session of a request or WebSocket.

        Before it raises, this method closes a WebSocket that has been accepted. The code is 1008 if the user must sign
        in or confirm their identity, and 1013 during an outage.

        Args:
            connection: The request or WebSocket.
            again: Whether to ask the authority again, for a WebSocket that has been open for a while.
            passive: Whether the look-up is not caused by the user. It then doesn't count as activity.
            maximum_age: The maximum age of the user's last proof of identity.

        Raises:
            SessionNotLive: There is no live session: the user must sign in.
            ReauthenticationRequired: The last proof of identity is older than `maximum_age`.
        """
        try:
            found = await self.session(connection, again=again, passive=passive)
            if isinstance(found, Rejection):
                raise SessionNotLive(found.reason, rejection=found)
            if maximum_age is not None:
                self._visit(connection).require_recent(maximum_age)
        except SessionAuthorityError as error:
            await close_if_open(self._visit(connection), error)
            raise
        return found

    async def sign_in(
        self,
        connection: HTTPConnection,
        *,
        user_id: str,
        authentication_methods: Iterable[str] = (),
        authenticate_time: datetime | None = None,
        persistent: bool | None = None,
        lifetime: timedelta | None = None,
        idle_timeout: timedelta | None = None,
        attributes: Mapping[str, str] | None = None,
        actor_id: str | None = None,
        identity: Identity | None = None,
        methods: Iterable[str] | None = None,
    ) -> Session:
        """Record a sign-in that the app has just verified. The request's response sets the cookie.

        The earlier session of the request's cookie ends. If the request then fails without a response of the app, the
        new session ends too. All errors of `AsyncSessionClient.create` are possible.

        Args:
            connection: The request.
            user_id: The app's own stable name for the user, 1 to 255 bytes.
            authentication_methods: How the user proved who they are, in the names of RFC 8176.
            authenticate_time: When the credential check began. The default is the arrival of the request. Pass it if the
                check took several requests.
            persistent: Whether the cookie stays when the browser is closed. The default is the site's.
            lifetime: The absolute lifetime, at most the policy's. The default is the policy's.
            idle_timeout: The idle timeout, at least a minute. The default is the policy's.
            attributes: At most 16 texts that each look-up returns.
            actor_id: The id of another person who acts as the user.
            identity: The user's sign-in at an identity provider, whose logout then ends the session.
            methods: Another name of `authentication_methods`.

        Raises:
            RuntimeError: The response has begun, so it can't set the cookie.
        """
        visit = self._visit(connection)
        making = visit.create(
            user_id,
            authentication_methods=methods_of(authentication_methods, methods),
            authenticate_time=authenticate_time,
            persistent=persistent,
            lifetime=lifetime,
            idle_timeout=idle_timeout,
            attributes=attributes,
            actor_id=actor_id,
            identity=identity,
        )
        return await self._sign_ins.complete(visit, making, persistent=persistent, replaces=True)

    async def sign_out(self, connection: HTTPConnection) -> None:
        """End the request's session. The request's response clears the cookie.

        Raises:
            Unavailable: The session may still be live. The user keeps the cookie and must try again.
        """
        await self.client.run_operation(self._visit(connection).sign_out())

    async def reauthenticate(
        self,
        connection: HTTPConnection,
        *,
        authentication_methods: Iterable[str] = (),
        authenticate_time: datetime | None = None,
        persistent: bool | None = None,
        methods: Iterable[str] | None = None,
    ) -> Session:
        """Record that the user has just proved their identity again. The cookie gets a new token.

        Raises:
            SessionNotLive: There is no session: the user must sign in.
            RuntimeError: The response has begun, so it can't set the cookie.
        """
        await self.require(connection)
        visit = self._visit(connection)
        making = visit.renew(
            authentication_methods=methods_of(authentication_methods, methods),
            authenticate_time=authenticate_time,
        )
        persistent = visit.kept_choice(persistent)
        return await self._sign_ins.complete(visit, making, persistent=persistent, replaces=False)

    def next_page(self, request: Request, given: str | None = None, *, default: str = "/") -> str:
        """Return the path to redirect a user to, after they signed in or confirmed their identity.

        The path is the value of `next`. If that is an address of another site or the `reauthenticate_url`, return
        `default`.

        Args:
            request: The request.
            given: The value of `next`. The default is the query's.
            default: The path if there is no usable `next`.
        """
        given = request.query_params.get("next") if given is None else given
        return next_page(given, default=default, confirm_url=self.page_options.reauthenticate_url)

    async def revoke_others(self, connection: HTTPConnection) -> datetime:
        """Revoke every session of the user except the request's. Return when no cache accepts them any more.

        Raises:
            SessionNotLive: There is no session: the user must sign in.
        """
        await self.require(connection)
        return await self.client.revoke_others(self._visit(connection).token)

    def cookie_name(self, *, local: bool = False) -> str:
        """Return the name of the cookie that holds a session token.

        Args:
            local: Whether the browser uses plain HTTP to its own machine.
        """
        return self._site.cookie.name(local=local)

    def _visit(self, connection: HTTPConnection) -> AsyncVisit:
        _sessions(connection)
        visit: AsyncVisit | None = connection.scope.get(visit_key(self))
        if visit is None:
            raise RuntimeError(
                "this request has reached another Sessions object: install this one too, with sessions.install(app)"
            )
        return visit


_Cookie: TypeAlias = Annotated[None, Security(CookieScheme(SessionCookie().name(local=False)))]
"""A parameter that shows the cookie in the OpenAPI document. `install` puts the site's own name there."""


async def _current(connection: HTTPConnection, _: _Cookie = None) -> Session:
    return await _sessions(connection).require(connection)


async def _optional(connection: HTTPConnection) -> Session | None:
    return await _sessions(connection).session(connection) or None


CurrentSession: TypeAlias = Annotated[Session, Depends(_current)]
"""A parameter of a path operation that receives the session. Without a session, the response is 401."""

OptionalSession: TypeAlias = Annotated[Session | None, Depends(_optional)]
"""A parameter of a path operation that receives the session or None."""


class RecentAuthentication(params.Depends):
    """Admit only users who proved their identity in the last few minutes.

    Other users get 403, or a redirect to the page's `reauthenticate_url` in a browser.

    - `dependencies=[RecentAuthentication(minutes=10)]` guards an operation.
    - `session: Annotated[Session, RecentAuthentication(minutes=10)]` also passes the session.
    - `Depends(RecentAuthentication(minutes=10))` works too.
    """

    def __init__(self, *, minutes: float) -> None:
        """Set the maximum age of the proof of identity, in minutes.

        Raises:
            ValueError: The number is not positive, so no proof would be recent enough.
        """
        if not minutes > 0:
            raise ValueError(f"RecentAuthentication needs more than 0 minutes, not {minutes!r}")
        maximum_age = timedelta(minutes=minutes)

        async def recent(connection: HTTPConnection, _: _Cookie = None) -> Session:
            return await _sessions(connection).require(connection, maximum_age=maximum_age)

        super().__init__(recent)

    async def __call__(self, connection: HTTPConnection, _: _Cookie = None) -> Session:
        """Return the session.

        FastAPI calls this method if the object is wrapped: `Depends(RecentAuthentication(minutes=10))`.
        """
        assert self.dependency is not None
        session: Session = await self.dependency(connection)
        return session


def _sessions(connection: HTTPConnection) -> Sessions:
    found: Sessions | None = connection.scope.get(SESSIONS_KEY)
    if found is None:
        raise RuntimeError(
            "this request has not reached the middleware of sessions.install(app): call install for this app. If "
            "other middleware needs the session, add it before sessions.install(app), because the middleware "
            "that is added last runs first"
        )
    return found
