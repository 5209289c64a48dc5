"""Forward-auth over HTTP: `/verify`, for nginx, Caddy, Traefik, HAProxy and other proxies."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import TypeAlias
from urllib.parse import parse_qsl

import structlog

from session_authority.web.asgi import Receive, Scope, Send
from session_authority.web.client_ip import ClientIp
from session_authority.web.site import Arrival
from session_authority_gateway import identity
from session_authority_gateway.decision import (
    CACHE_HEADERS,
    Allowed,
    Inbound,
    Refused,
    bad_option,
    forged,
)
from session_authority_gateway.gate import Gate
from session_authority_gateway.identity import Headers
from session_authority_gateway.metrics import DECISIONS, FORWARD_AUTH, outcome_of
from session_authority_gateway.options import OptionError, Options, read_options

PATH = "/verify"
NGINX_PATH = "/verify/nginx"
"""Like PATH, but a redirect has status 401, because the module auth_request of nginx accepts no 303."""

_Encoded: TypeAlias = tuple[tuple[bytes, bytes], ...]

_log = structlog.get_logger("session_authority.gateway")
_UNTRUSTED = Refused(
    403,
    "untrusted_proxy",
    "The gateway does not trust the proxy that asks. Add its address to SESSION_AUTHORITY_GATEWAY_TRUSTED_PROXIES.",
)


class ForwardAuth:
    """An ASGI application that tells a proxy whether a request may pass."""

    def __init__(self, gate: Gate, proxies: ClientIp, redirect_status: int = 303) -> None:
        """Answer proxies.

        Args:
            gate: The part that decides.
            proxies: The proxies that are answered.
            redirect_status: The status of a redirect to the sign-in page.
        """
        self._gate = gate
        self._proxies = proxies
        self._redirect_status = redirect_status

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request of a proxy."""
        answer = await self._answer(scope)
        DECISIONS.inc(FORWARD_AUTH, outcome_of(answer))
        if isinstance(answer, Allowed):
            status, body, headers = 200, b"", _headers_of(answer.identity)
            if answer.set_cookies:
                cookies = [(b"set-cookie", each.header().encode()) for each in answer.set_cookies]
                headers = (*headers, *cookies)
        else:
            status = self._redirect_status if answer.location else answer.status
            body = answer.body()
            headers = (*_encoded(answer.headers()), (b"content-length", b"%d" % len(body)))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send(
            {"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body}
        )

    async def _answer(self, scope: Scope) -> Allowed | Refused:
        client = scope.get("client")
        peer = client[0] if client else None
        if not self._proxies.trusts(peer):
            _log.warning("refused a peer that is not a trusted proxy", peer=peer)
            return _UNTRUSTED
        try:
            options = _options_of(scope["query_string"])
        except OptionError as error:
            _log.error("a proxy asked with an invalid option", why=str(error))
            return bad_option(str(error))
        headers = _by_name(scope["headers"])
        if found := identity.misspelt(headers):
            return forged(found)
        inbound = _inbound(scope, headers, peer)
        answer = self._gate.check_cached(inbound, options)
        return await self._gate.ask(inbound, options) if answer is None else answer


def surfaces(gate: Gate, proxies: ClientIp) -> Mapping[str, ForwardAuth]:
    """Return the applications of forward-auth by their paths."""
    return {
        PATH: ForwardAuth(gate, proxies),
        NGINX_PATH: ForwardAuth(gate, proxies, redirect_status=401),
    }


@lru_cache(maxsize=1024)
def _options_of(query: bytes) -> Options:
    try:
        pairs = parse_qsl(query.decode(), keep_blank_values=True, strict_parsing=bool(query))
    except ValueError:
        raise OptionError(
            "the query of /verify must have the form session=required&max_age=15m"
        ) from None
    return read_options(pairs)


@lru_cache(maxsize=1024)
def _headers_of(identity: Headers) -> _Encoded:
    """Return the headers of an answer that lets a request pass."""
    return _encoded((*CACHE_HEADERS, *identity, ("content-length", "0")))


def _encoded(headers: Headers) -> _Encoded:
    return tuple((name.encode(), value.encode("latin-1")) for name, value in headers)


def _by_name(headers: Sequence[tuple[bytes, bytes]]) -> Mapping[bytes, bytes]:
    """Return the headers by lower-case name. Repeated headers are joined by commas, cookies by semicolons."""
    found = dict(headers)
    if len(found) < len(headers):
        repeated = defaultdict(list)
        for name, value in headers:
            repeated[name].append(value)
        for name, values in repeated.items():
            found[name] = (b"; " if name == b"cookie" else b", ").join(values)
    return found


def _inbound(scope: Scope, headers: Mapping[bytes, bytes], peer: str | None) -> Inbound:
    def header(name: str) -> str:
        value = headers.get(name.encode())
        return value.decode("latin-1") if value else ""

    arrival = Arrival(
        scheme=scope.get("scheme", "http"),
        host=header("x-forwarded-host"),
        peer=peer,
        header=header,
    )
    return Inbound(
        header("x-forwarded-method") or scope["method"], header("x-forwarded-uri"), arrival
    )
