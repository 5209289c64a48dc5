"""The sessions page as an ASGI application, which an app installs as a route."""

from contextlib import suppress

from session_authority.errors import SessionAuthorityError
from session_authority.web.asgi import (
    AsyncVisit,
    HasClient,
    Receive,
    Scope,
    Send,
    look_up,
    read_body,
    visit_key,
)
from session_authority.web.exchange import PageRequest, PageResponse, fields, is_form
from session_authority.web.sessions_page import FORM_LIMIT_BYTES, PageOptions, SessionsPage
from session_authority.web.site import Site


def check_path(path: str) -> None:
    """Raise ValueError for a path that does not begin with exactly one slash, or ends with a slash."""
    if not path.startswith("/") or path.startswith("//") or path.endswith("/"):
        raise ValueError(f'the path must have the form "/account/sessions", not {path!r}')


class PageApplication:
    """Passes requests to the page, and returns its responses.

    A router passes the rest of the path as the path parameter `below`. The scope contains the visit of `sessions`.
    """

    def __init__(self, sessions: HasClient, path: str, options: PageOptions, site: Site) -> None:
        """Serve the page of a site.

        Args:
            sessions: The object that has the client, and that the visits belong to.
            path: The path of the page, for example "/account/sessions".
            options: The look and the links of the page.
            site: The site's settings.

        Raises:
            ValueError: The path does not begin with exactly one slash, or ends with a slash.
        """
        check_path(path)
        if sessions.client.near_cache_statistics is not None:
            options = options.with_near_cache()
        self._sessions = sessions
        self._page = SessionsPage(options, now=site.clock)
        self._path = path
        self._visit_key = visit_key(sessions)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = await read_body(receive, FORM_LIMIT_BYTES)
        if body is None:
            # The browser has disconnected, but middleware may require a response.
            await send({"type": "http.response.start", "status": 400, "headers": []})
            await send({"type": "http.response.body", "body": b""})
            return
        response = await self._respond(scope, body)
        headers = [
            (name.lower().encode("latin-1"), value.encode("latin-1"))
            for name, value in (*response.headers, ("content-length", str(len(response.body))))
        ]
        shown = b"" if scope["method"] == "HEAD" else response.body
        await send({"type": "http.response.start", "status": response.status, "headers": headers})
        await send({"type": "http.response.body", "body": shown})

    async def _respond(self, scope: Scope, body: bytes) -> PageResponse:
        visit: AsyncVisit = scope[self._visit_key]
        if len(visit.tokens) > 1:
            with suppress(SessionAuthorityError):  # the page gets the same error and shows it
                await look_up(self._sessions.client, visit)
        request = self._request(scope, visit, body)
        response = await self._sessions.client.run_operation(self._page.handle(request))
        if response.signed_out:
            await self._sessions.client.run_operation(visit.end())
        return response

    def _request(self, scope: Scope, visit: AsyncVisit, body: bytes) -> PageRequest:
        headers: dict[str, str] = {}
        for key, value in scope["headers"]:
            name, earlier = key.decode("latin-1"), headers.get(key.decode("latin-1"))
            headers[name] = ", ".join(filter(None, (earlier, value.decode("latin-1"))))
        below = scope["path_params"].get("below", "")
        form: dict[str, str] = {}
        if len(body) <= FORM_LIMIT_BYTES and is_form(headers.get("content-type", "")):
            form = fields(body.decode("latin-1"))
        return PageRequest(
            method=scope["method"],
            root=scope.get("root_path", "") + self._path,
            below="/" + below if below else "",
            origin=visit.origin,
            headers=headers,
            query=fields(scope.get("query_string", b"").decode("latin-1")),
            form=form,
            body_bytes=len(body),
            token=visit.token,
        )
