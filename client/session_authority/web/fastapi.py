"""Sessions for FastAPI and Starlette: look-up, cookies, sign-in and sign-out, and the page of one's own sessions.

sessions = Sessions.from_env()
sessions.install(app, page="/account/sessions")

@app.post("/sign-in")
async def sign_in(request: Request) -> None:
    ...  # check the password
    await sessions.sign_in(request, user_id="ada", methods=["pwd"])

@app.get("/me")
async def me(session: CurrentSession) -> str:
    return session.user_id
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Annotated, Any, Self, TypeAlias

try:
    from fastapi import Depends, params
    from starlette.applications import Starlette
    from starlette.requests import HTTPConnection, Request
    from starlette.responses import JSONResponse, RedirectResponse, Response
    from starlette.routing import Route
    from starlette.websockets import WebSocket, WebSocketState
except ImportError as error:
    raise ImportError(
        f"session_authority.web.fastapi needs its extra ({error}): "
        "pip install 'session-authority[fastapi]'"
    ) from None

from session_authority.aio import AsyncSessionClient
from session_authority.errors import (
    AuthenticationTooOld,
    ReauthenticationRequired,
    SessionAuthorityError,
    SessionLimitReached,
    SessionNotLive,
    Unavailable,
)
from session_authority.session import Rejection, Session
from session_authority.web.asgi import SESSIONS_KEY, VISIT_KEY, SessionMiddleware
from session_authority.web.asgi_page import PageApplication
from session_authority.web.clock import system_time, time_at
from session_authority.web.next_page import confirm_address, next_page
from session_authority.web.sessions_page import PageOptions, SessionsPage
from session_authority.web.visit import RETRY_AFTER_SECONDS, Site, Visit

_POLICY_VIOLATION, _TRY_AGAIN_LATER = 1008, 1013  # RFC 6455, section 7.4.1, and its registry

_ANSWERS: Mapping[type[SessionAuthorityError], tuple[int, str]] = {
    SessionNotLive: (401, "Not signed in"),
    AuthenticationTooOld: (401, "Signed out everywhere meanwhile: sign in again"),
    ReauthenticationRequired: (403, "Reauthentication required"),
    SessionLimitReached: (403, "Signed in on too many devices: sign out on one first"),
    Unavailable: (503, "Sign-in is unavailable for the moment: try again soon"),
}


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
        self._options = PageOptions()

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
            SessionMiddleware, site=self._site, sessions=self, take_back=self._take_back
        )
        for kind in _ANSWERS:
            app.exception_handlers.setdefault(kind, _answer)
        options = self._options = options or PageOptions()
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
        )
        for path in (page, page + "/{below:path}"):
            app.router.routes.append(Route(path, application, include_in_schema=False))

    async def session(
        self, connection: HTTPConnection, *, again: bool = False
    ) -> Session | Rejection:
        """Say whose session a request or WebSocket belongs to, asking the authority once.

        Args:
            connection: The request or WebSocket.
            again: Whether to ask anew, of a WebSocket that has been open for a while.
        """
        visit = _visit(connection)
        if again:
            visit.ask_again()
        return await self._look_up(visit)

    async def require(
        self, connection: HTTPConnection, *, maximum_age: timedelta | None = None
    ) -> Session:
        """Give the session of a request.

        Args:
            connection: The request or WebSocket.
            maximum_age: How long ago the user may have proved at most who they are.

        Raises:
            SessionNotLive: There is none: the user must sign in.
            ReauthenticationRequired: The proof is older.
        """
        found = await self.session(connection)
        if isinstance(found, Rejection):
            raise SessionNotLive(found.reason, rejection=found)
        if maximum_age is not None:
            _visit(connection).require_recent(maximum_age)
        return found

    async def sign_in(
        self,
        connection: HTTPConnection,
        *,
        user_id: str,
        methods: Iterable[str] = (),
        authenticate_time: datetime | None = None,
        persistent: bool | None = None,
        lifetime: timedelta | None = None,
        idle_timeout: timedelta | None = None,
        attributes: Mapping[str, str] | None = None,
        actor_id: str | None = None,
    ) -> Session:
        """Record a sign-in that the app has just verified; the cookie goes out with the request's response.

        A session that the request's cookie held before is ended. If the request then fails without a response
        of the app's, the new one is ended too. The other arguments, and what else is raised, are those of
        `AsyncSessionClient.create`.

        Args:
            connection: The request.
            user_id: The app's own stable name for the user, 1 to 255 bytes.
            methods: How the user proved who they are, in the names of RFC 8176.
            authenticate_time: When the credential check began; when the request arrived unless given. Give it
                where the check took several requests.
            persistent: Whether the cookie outlives the browser's being closed; as for the site unless given.
            lifetime: The absolute lifetime, at most the policy's, which it is unless given.
            idle_timeout: The idle timeout, at least a minute; the policy's unless given.
            attributes: At most 16 texts to find again at each look-up.
            actor_id: Who acts as the user, where it is not the user.

        Raises:
            RuntimeError: The response has begun, so no cookie can go out any more.
        """
        return await self.client.run_operation(
            _visit(connection).sign_in(
                user_id,
                methods=methods,
                authenticate_time=authenticate_time,
                persistent=persistent,
                lifetime=lifetime,
                idle_timeout=idle_timeout,
                attributes=attributes,
                actor_id=actor_id,
            )
        )

    async def sign_out(self, connection: HTTPConnection) -> None:
        """End the request's session, and clear the cookie with its response.

        Raises:
            Unavailable: The session may live on: the user keeps the cookie, and is to try again.
        """
        await self.client.run_operation(_visit(connection).sign_out())

    async def reauthenticate(
        self,
        connection: HTTPConnection,
        *,
        methods: Iterable[str] = (),
        authenticate_time: datetime | None = None,
        persistent: bool | None = None,
    ) -> Session:
        """Record that the user has just proved again who they are; the cookie gets another token.

        Raises:
            SessionNotLive: There is no session: the user must sign in.
            RuntimeError: The response has begun, so no cookie can go out any more.
        """
        await self.require(connection)
        return await self.client.run_operation(
            _visit(connection).reauthenticate(
                methods=methods, authenticate_time=authenticate_time, persistent=persistent
            )
        )

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
        return next_page(given, default=default, confirm_url=self._options.reauthenticate_url)

    async def revoke_others(self, connection: HTTPConnection) -> datetime:
        """End every session of the user but the request's, and say when no cache accepts them any more.

        Raises:
            SessionNotLive: There is no session: the user must sign in.
        """
        await self.require(connection)
        return await self.client.revoke_others(_visit(connection).token)

    def cookie_name(self, *, local: bool = False) -> str:
        """Return the name of the cookie that holds a session token.

        Args:
            local: Whether the browser talks plain HTTP to its own machine.
        """
        return self._site.cookie.name(local=local)

    async def _look_up(self, visit: Visit) -> Session | Rejection:
        match visit.to_ask():
            case []:
                pass
            case [only]:
                answer = await self.client.validate(only.token, ip_address=only.ip_address)
                visit.answered([answer])
            case several:
                visit.answered(await self.client.validate_many(several))
        assert visit.outcome is not None
        return visit.outcome

    async def _take_back(self, visit: Visit) -> None:
        await self.client.run_operation(visit.take_back())


async def _current(connection: HTTPConnection) -> Session:
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

        async def recent(connection: HTTPConnection) -> Session:
            return await _sessions(connection).require(connection, maximum_age=maximum_age)

        super().__init__(recent)

    async def __call__(self, connection: HTTPConnection) -> Session:
        """Return the session, as a dependency of `Depends`."""
        assert self.dependency is not None
        session: Session = await self.dependency(connection)
        return session


def _sessions(connection: HTTPConnection) -> Sessions:
    found: Sessions = _installed(connection, SESSIONS_KEY)
    return found


def _visit(connection: HTTPConnection) -> Visit:
    visit: Visit = _installed(connection, VISIT_KEY)
    return visit


def _installed(connection: HTTPConnection, key: str) -> Any:
    if key not in connection.scope:
        raise RuntimeError("sessions are not installed in this app: sessions.install(app)")
    return connection.scope[key]


async def _answer(connection: HTTPConnection, error: Exception) -> Response | None:
    status, detail = next(each for kind, each in _ANSWERS.items() if isinstance(error, kind))
    if isinstance(connection, WebSocket) and (
        connection.application_state is not WebSocketState.CONNECTING
    ):
        await connection.close(_TRY_AGAIN_LATER if status == 503 else _POLICY_VIOLATION)
        return None
    if isinstance(error, ReauthenticationRequired) and (address := _confirm_address(connection)):
        return RedirectResponse(address, 303, {"cache-control": "no-store"})
    content, headers = {"detail": detail}, {"cache-control": "no-store"}
    if status == 503:
        headers["retry-after"] = str(RETRY_AFTER_SECONDS)
    if status == 401:
        headers["www-authenticate"] = "Cookie"  # RFC 9110 asks for a challenge
    if isinstance(error, ReauthenticationRequired):
        content |= error.metadata
    return JSONResponse(content, status, headers)


def _confirm_address(connection: HTTPConnection) -> str | None:
    """Return where a browser can confirm who its user is; None for a program, and on that page itself."""
    confirm_url = _sessions(connection)._options.reauthenticate_url
    if confirm_url is None or "text/html" not in connection.headers.get("accept", ""):
        return None
    path, query = connection.url.path, connection.url.query
    if next_page(path, default="", confirm_url=confirm_url) == "":
        return None
    return confirm_address(
        confirm_url,
        method=connection.scope.get("method", "GET"),
        path=f"{path}?{query}" if query else path,
        referer=connection.headers.get("referer", ""),
        origin=_visit(connection).origin,
    )
