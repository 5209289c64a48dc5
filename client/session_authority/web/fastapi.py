"""Sessions for FastAPI and Starlette: look-up, cookies, sign-in and sign-out, and the page of one's own sessions.

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

from collections.abc import Iterable, Mapping
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
        f"session_authority.web.fastapi needs its extra ({error}): "
        "pip install 'session-authority[fastapi]'"
    ) from None

from session_authority.aio import AsyncSessionClient
from session_authority.errors import SessionAuthorityError, SessionNotLive
from session_authority.session import Rejection, Session
from session_authority.web.asgi import SESSIONS_KEY, AsyncVisit, SessionMiddleware, visit_key
from session_authority.web.asgi_page import PageApplication
from session_authority.web.asgi_sign_in import SignIns
from session_authority.web.cookies import SessionCookie
from session_authority.web.fastapi_answers import add_handlers, close_if_open
from session_authority.web.fastapi_openapi import CookieScheme, document
from session_authority.web.next_page import next_page
from session_authority.web.sessions_page import PageOptions, SessionsPage
from session_authority.web.site import Site, system_time, time_at
from session_authority.web.visit import one_name


class Sessions:
    """The sessions of one app's users.

    What calls the authority may raise `Unavailable`; once installed, the app answers it with 503 and Retry-After,
    and the user keeps the cookie. It answers `SessionNotLive` and `AuthenticationTooOld` with 401, and
    `ReauthenticationRequired` and `SessionLimitReached` with 403; give it exception handlers of your own to
    answer otherwise, with a redirect to your sign-in page, say.
    """

    def __init__(self, client: AsyncSessionClient, site: Site | None = None) -> None:
        """Take the client, and what is to be known of the site.

        Args:
            client: Asks the authority. It connects at the first look-up, in whatever process that is.
            site: The cookie, the trusted proxies and the origin; for a site on one host that is reached
                without a proxy unless given.
        """
        self.client = client
        self._site = site or Site()
        if self._site.clock is system_time:
            self._site = replace(self._site, clock=lambda: time_at(self.client.address))
        self.page_options = PageOptions()
        self._sign_ins = SignIns(self)

    @classmethod
    def from_env(cls, site: Site | None = None) -> Self:
        """Make the client from the environment, as `AsyncSessionClient.from_env` does.

        Raises:
            ConfigurationError: A variable has no usable value; the message names it.
        """
        return cls(AsyncSessionClient.from_env(), site)

    def install(
        self, app: Starlette, *, page: str | None = None, options: PageOptions | None = None
    ) -> None:
        """Make an app's requests know their sessions.

        Args:
            app: A FastAPI or Starlette application that has not started yet.
            page: The path of the page on which users see and end their own sessions, "/account/sessions";
                no page unless given.
            options: How the page looks and where it leads. Browsers whose proof of identity is too old
                are sent to its `reauthenticate_url`.

        Raises:
            ValueError: The path does not begin with one slash, or ends with one.
        """
        app.add_middleware(
            SessionMiddleware, site=self._site, sessions=self, take_back=self._sign_ins.take_back
        )
        add_handlers(app)
        if isinstance(app, FastAPI):
            document(app, self._site.cookie.name(local=False))
        options = self.page_options = options or PageOptions()
        if page is None:
            return
        if not page.startswith("/") or page.startswith("//") or page.endswith("/"):
            raise ValueError(f'the page\'s path is of the form "/account/sessions", not {page!r}')
        if self.client.near_cache_statistics is not None:
            options = options.with_near_cache()
        application = PageApplication(
            SessionsPage(options, now=self._site.clock),
            page,
            lambda operation: self.client.run_operation(operation),
            self._look_up,
            visit_key(self),
        )
        # First, so that an app at "/" or a route that takes every path does not hide them.
        app.router.routes[:0] = [
            Route(path, application, include_in_schema=False)
            for path in (page, page + "/{below:path}")
        ]

    async def session(
        self, connection: HTTPConnection, *, again: bool = False, passive: bool = False
    ) -> Session | Rejection:
        """Return the session of a request or WebSocket, or a rejection, which is falsy.

        Args:
            connection: The request or WebSocket.
            again: Whether to ask the authority anew, for a WebSocket that has been open for a while. `require`
                does so and cannot be overlooked.
            passive: Whether the look-up is not the user's doing and must not count as activity.
        """
        visit = self._visit(connection)
        async with visit.turn:
            if again:
                visit.ask_again()
            return await self._look_up(visit, passive=passive)

    async def require(
        self,
        connection: HTTPConnection,
        *,
        again: bool = False,
        passive: bool = False,
        maximum_age: timedelta | None = None,
    ) -> Session:
        """Return the session of a request or WebSocket.

        A WebSocket that has been accepted is closed before this raises: with 1008 if the user must sign in or
        confirm who they are, with 1013 in an outage.

        Args:
            connection: The request or WebSocket.
            again: Whether to ask the authority anew, for a WebSocket that has been open for a while.
            passive: Whether the look-up is not the user's doing and must not count as activity.
            maximum_age: How long ago the user may have proved at most who they are.

        Raises:
            SessionNotLive: There is none: the user must sign in.
            ReauthenticationRequired: The proof is older.
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
        methods: Iterable[str] | None = None,
    ) -> Session:
        """Record a sign-in that the app has just verified; the cookie goes out with the request's response.

        A session that the request's cookie held before is ended. If the request then fails without a response
        of the app's, the new one is ended too. The other arguments, and what else is raised, are those of
        `AsyncSessionClient.create`.

        Args:
            connection: The request.
            user_id: The app's own stable name for the user, 1 to 255 bytes.
            authentication_methods: How the user proved who they are, in the names of RFC 8176.
            authenticate_time: When the credential check began; when the request arrived unless given. Give it
                where the check took several requests.
            persistent: Whether the cookie outlives the browser's being closed; as for the site unless given.
            lifetime: The absolute lifetime, at most the policy's, which it is unless given.
            idle_timeout: The idle timeout, at least a minute; the policy's unless given.
            attributes: At most 16 texts to find again at each look-up.
            actor_id: Who acts as the user, where it is not the user.
            methods: Another name of `authentication_methods`.

        Raises:
            RuntimeError: The response has begun, so no cookie can go out any more.
        """
        visit = self._visit(connection)
        making = visit.create(
            user_id,
            authentication_methods=one_name(authentication_methods, methods),
            authenticate_time=authenticate_time,
            persistent=persistent,
            lifetime=lifetime,
            idle_timeout=idle_timeout,
            attributes=attributes,
            actor_id=actor_id,
        )
        return await self._sign_ins.complete(visit, making, persistent=persistent, replaces=True)

    async def sign_out(self, connection: HTTPConnection) -> None:
        """End the request's session, and clear the cookie with its response.

        Raises:
            Unavailable: The session may live on: the user keeps the cookie, and is to try again.
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
        """Record that the user has just proved again who they are; the cookie gets another token.

        Raises:
            SessionNotLive: There is no session: the user must sign in.
            RuntimeError: The response has begun, so no cookie can go out any more.
        """
        await self.require(connection)
        visit = self._visit(connection)
        making = visit.renew(
            authentication_methods=one_name(authentication_methods, methods),
            authenticate_time=authenticate_time,
        )
        persistent = visit.kept_choice(persistent)
        return await self._sign_ins.complete(visit, making, persistent=persistent, replaces=False)

    def next_page(self, request: Request, given: str | None = None, *, default: str = "/") -> str:
        """Return where to send a user who has signed in or confirmed who they are.

        That is the path that `next` names. Another site's address, or the `reauthenticate_url` itself, is
        replaced by the default.

        Args:
            request: The request.
            given: The value of `next`; the query's unless given.
            default: Where to send the user without a usable `next`.
        """
        given = request.query_params.get("next") if given is None else given
        return next_page(given, default=default, confirm_url=self.page_options.reauthenticate_url)

    async def revoke_others(self, connection: HTTPConnection) -> datetime:
        """End every session of the user but the request's, and say when no cache accepts them any more.

        Raises:
            SessionNotLive: There is no session: the user must sign in.
        """
        await self.require(connection)
        return await self.client.revoke_others(self._visit(connection).token)

    def cookie_name(self, *, local: bool = False) -> str:
        """Return the name of the cookie that holds a session token.

        Args:
            local: Whether the browser talks plain HTTP to its own machine.
        """
        return self._site.cookie.name(local=local)

    async def _look_up(self, visit: AsyncVisit, *, passive: bool = False) -> Session | Rejection:
        match visit.to_ask(passive=passive):
            case []:
                pass
            case [only]:
                answer = await self.client.validate(
                    only.token, ip_address=only.ip_address, passive=only.passive
                )
                visit.answered([answer])
            case several:
                visit.answered(await self.client.validate_many(several))
        assert visit.outcome is not None
        return visit.outcome

    def _visit(self, connection: HTTPConnection) -> AsyncVisit:
        _sessions(connection)
        visit: AsyncVisit | None = connection.scope.get(visit_key(self))
        if visit is None:
            raise RuntimeError(
                "this request has come to another Sessions object: install this one too, sessions.install(app)"
            )
        return visit


_Cookie: TypeAlias = Annotated[None, Security(CookieScheme(SessionCookie().name(local=False)))]
"""A parameter that shows the cookie in the OpenAPI document. `install` puts the site's own name there."""


async def _current(connection: HTTPConnection, _: _Cookie = None) -> Session:
    return await _sessions(connection).require(connection)


async def _optional(connection: HTTPConnection) -> Session | None:
    return await _sessions(connection).session(connection) or None


CurrentSession: TypeAlias = Annotated[Session, Depends(_current)]
"""A parameter of a path operation that gets the session; without one the answer is 401."""

OptionalSession: TypeAlias = Annotated[Session | None, Depends(_optional)]
"""A parameter of a path operation that gets the session, or None."""


class RecentAuthentication(params.Depends):
    """Let in only users who proved who they are that recently.

    Others get 403, and browsers are sent to the page's `reauthenticate_url` if there is one.
    `dependencies=[RecentAuthentication(minutes=10)]`, or
    `session: Annotated[Session, RecentAuthentication(minutes=10)]` to get the session too;
    `Depends(RecentAuthentication(minutes=10))` means the same.
    """

    def __init__(self, *, minutes: float) -> None:
        """Set how many minutes ago the user may have proved who they are at most.

        Raises:
            ValueError: The number is not positive: no proof would ever be recent enough.
        """
        if not minutes > 0:
            raise ValueError(f"RecentAuthentication needs more than 0 minutes, not {minutes!r}")
        maximum_age = timedelta(minutes=minutes)

        async def recent(connection: HTTPConnection, _: _Cookie = None) -> Session:
            return await _sessions(connection).require(connection, maximum_age=maximum_age)

        super().__init__(recent)

    async def __call__(self, connection: HTTPConnection, _: _Cookie = None) -> Session:
        """Return the session, as a dependency of `Depends`."""
        assert self.dependency is not None
        session: Session = await self.dependency(connection)
        return session


def _sessions(connection: HTTPConnection) -> Sessions:
    found: Sessions | None = connection.scope.get(SESSIONS_KEY)
    if found is None:
        raise RuntimeError(
            "this request has not come to sessions.install(app): call it for this app. If middleware asks here, "
            "the order is wrong: add that middleware before sessions.install(app), because the middleware that "
            "is added last runs first"
        )
    return found
