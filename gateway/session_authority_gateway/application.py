"""The ASGI application: what the gateway serves over HTTP."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from session_authority import AsyncSessionClient
from session_authority.web.site import Site, time_at
from session_authority_gateway import forward_auth
from session_authority_gateway.backchannel import backchannel_routes
from session_authority_gateway.decision import Pages
from session_authority_gateway.gate import Gate
from session_authority_gateway.page import page_routes
from session_authority_gateway.settings import GatewaySettings
from session_authority_gateway.ssf import SharedSignals

HEALTH_PATH = "/healthz"


@dataclass(frozen=True, slots=True)
class Parts:
    """The parts that the surfaces of the gateway share.

    Attributes:
        settings: The operator's settings.
        client: The client of the authority, with its near cache.
        site: The cookie, the trusted proxies, the origin and the clock.
        gate: The part that decides about requests.
    """

    settings: GatewaySettings
    client: AsyncSessionClient
    site: Site
    gate: Gate


def new_parts(
    settings: GatewaySettings,
    client: AsyncSessionClient,
    clock: Callable[[], datetime] | None = None,
) -> Parts:
    """Return the parts for some settings.

    Args:
        settings: The operator's settings.
        client: The client of the authority.
        clock: Returns the current time. The default is the system's, or that of a test's authority.
    """
    site = Site(
        cookie=settings.cookie,
        client_ip=settings.proxies,
        origin=settings.origin or None,
        clock=clock or (lambda: time_at(client.address)),
    )
    pages = Pages(sign_in=settings.sign_in_url, reauthenticate=settings.reauthenticate_url)
    return Parts(settings, client, site, Gate(client, site, pages))


def new_application(
    parts: Parts, is_serving: Callable[[], bool], signals: SharedSignals | None = None
) -> ASGIApp:
    """Return the application.

    Args:
        parts: The parts that the surfaces share.
        is_serving: Returns False once the gateway drains.
        signals: The endpoints for receivers of security events; None for none.
    """

    async def health(_request: Request) -> PlainTextResponse:
        serving = is_serving()
        return PlainTextResponse("serving" if serving else "draining", 200 if serving else 503)

    pages = page_routes(parts.client, parts.site, parts.settings)
    logouts = backchannel_routes(parts.client, parts.site.clock, parts.settings)
    for_receivers = signals.routes() if signals is not None else []
    routed = Starlette(routes=[Route(HEALTH_PATH, health), *for_receivers, *pages, *logouts])
    direct = forward_auth.surfaces(parts.gate, parts.site.client_ip)

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        # Proxies ask about every request, so these paths skip the router.
        await direct.get(scope["path"], routed)(scope, receive, send)

    return application
