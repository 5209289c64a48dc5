"""The addresses at which the gateway receives sign-outs at identity providers."""

from collections.abc import Callable
from datetime import datetime

from starlette.routing import Route

from session_authority import AsyncSessionClient
from session_authority.web.asgi_backchannel import backchannel
from session_authority_gateway.metrics import SIGNALS
from session_authority_gateway.settings import BACKCHANNEL_PATH, GatewaySettings


def backchannel_routes(
    client: AsyncSessionClient, now: Callable[[], datetime], settings: GatewaySettings
) -> list[Route]:
    """Return the routes for logout tokens and security events; none without `providers`.

    Args:
        client: The gateway's client. Its key needs the permission `terminate`.
        now: Returns the current time, as an aware datetime.
        settings: The providers.
    """
    if not settings.providers:
        return []
    applications = backchannel(
        lambda: client,
        settings.providers,
        now,
        lambda kind, outcome: SIGNALS.inc(kind, outcome),
    )
    return [Route(BACKCHANNEL_PATH + path, each) for path, each in applications.items()]
