"""Looks up the session of a request, and decides."""

import structlog

from session_authority import AsyncSessionClient
from session_authority.errors import SessionAuthorityError, Unavailable
from session_authority.session import Rejection, Session
from session_authority.web.asgi import look_up
from session_authority.web.site import Site
from session_authority.web.visit import Visit
from session_authority_gateway.credentials import token_of_headers
from session_authority_gateway.decision import UNAVAILABLE, Allowed, Inbound, Pages, Refused, decide
from session_authority_gateway.options import Options

_log = structlog.get_logger("session_authority.gateway")


class Gate:
    """Decides about requests, for every surface of the gateway."""

    def __init__(self, client: AsyncSessionClient, site: Site, pages: Pages) -> None:
        """Use a client for a site.

        Args:
            client: The client of the authority, with a near cache.
            site: The cookie, the trusted proxies, the origin and the clock.
            pages: Where browsers go to sign in.
        """
        self._client = client
        self._site = site
        self._pages = pages

    def check_cached(self, inbound: Inbound, options: Options) -> Allowed | Refused | None:
        """Return what happens to a request, without waiting; None if only the authority can tell."""
        visit = Visit(self._site, inbound.arrival)
        token = token_of_headers(inbound.arrival.header)
        if token is not None:
            outcome = self._client.validate_cached(token, ip_address=visit.ip_address)
        else:
            if len(visit.tokens) == 1:
                [only] = visit.tokens
                found = self._client.validate_cached(only, ip_address=visit.ip_address)
                if found is not None:
                    visit.answered([found])
            elif not visit.tokens:
                visit.to_ask()
            outcome = visit.outcome
        return None if outcome is None else self._decide(outcome, options, inbound, visit)

    async def ask(self, inbound: Inbound, options: Options) -> Allowed | Refused:
        """Ask the authority about a request. During an outage, the request is refused."""
        visit = Visit(self._site, inbound.arrival)
        token = token_of_headers(inbound.arrival.header)
        try:
            if token is not None:
                outcome = await self._client.validate(token, ip_address=visit.ip_address)
            else:
                outcome = await look_up(self._client, visit)
        except SessionAuthorityError as error:
            if not isinstance(error, Unavailable):  # the client logs an outage itself
                _log.error("a call of the gateway to the authority failed", error=str(error))
            return UNAVAILABLE
        return self._decide(outcome, options, inbound, visit)

    def _decide(
        self, outcome: Session | Rejection, options: Options, inbound: Inbound, visit: Visit
    ) -> Allowed | Refused:
        return decide(outcome, options, inbound, self._pages, visit.started, visit.set_cookies)
