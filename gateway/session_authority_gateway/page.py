"""The page "Your sessions" for an app in any language.

The app's proxy sends the requests under one path of the app's own site to the gateway. The page reads the token from
the site's session cookie only, because browsers send no other token by themselves.
"""

from starlette.routing import Route

from session_authority import AsyncSessionClient
from session_authority.web.asgi import AsyncVisit, Receive, Scope, Send, visit_key
from session_authority.web.asgi_page import PageApplication
from session_authority.web.sessions_page import PageOptions
from session_authority.web.site import Site
from session_authority_gateway.settings import GatewaySettings


def page_routes(client: AsyncSessionClient, site: Site, settings: GatewaySettings) -> list[Route]:
    """Return the routes of the page and of the paths below it; none without `page_path`.

    Args:
        client: The gateway's client. Its key needs the permission `manage`.
        site: The site's cookie, trusted proxies and origin.
        settings: The path, the look and the links of the page.
    """
    path = settings.page_path
    if not path:
        return []
    page = _Page(client, site, path, settings.page_options)
    return [Route(path, page), Route(path + "/{below:path}", page)]


class _Page:
    def __init__(
        self, client: AsyncSessionClient, site: Site, path: str, options: PageOptions
    ) -> None:
        self.client = client
        self._site = site
        self._key = visit_key(self)
        self._application = PageApplication(self, path, options, site)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # The response clears the cookie of a session that has ended.
        visit = scope[self._key] = AsyncVisit(self._site, self, scope, receive, send)
        await self._application(scope, visit.receive, visit.send)
