"""The addresses at which an ASGI application receives sign-outs at identity providers."""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime

from session_authority.aio import AsyncSessionClient
from session_authority.backchannel import Provider
from session_authority.backchannel.driver import run_async
from session_authority.backchannel.key_fetch import fetch_keys
from session_authority.backchannel.provider import providers_of
from session_authority.backchannel.receiver import (
    BODY_LIMIT_BYTES,
    Answer,
    Outcome,
    Posted,
    Receiver,
    Steps,
)
from session_authority.backchannel.signal import REASON, EndedIdentity
from session_authority.web.asgi import Application, Receive, Scope, Send, headers_of, read_body

Observe = Callable[[str, Outcome], None]
"""Takes the kind of a signal, `logout` or `event`, and its outcome."""


def backchannel(
    client: Callable[[], AsyncSessionClient],
    providers: Sequence[Provider],
    now: Callable[[], datetime],
    observe: Observe = lambda _kind, _outcome: None,
) -> Mapping[str, Application]:
    """Return the applications by their paths: `/logout` for logout tokens, `/events` for security events.

    Args:
        client: Returns the client of the authority.
        providers: The identity providers.
        now: Returns the current time, as an aware datetime.
        observe: Called with the outcome of each request, for metrics.

    Raises:
        ValueError: The providers are not usable.
    """
    receiver = Receiver(providers_of(providers), now, fetch_keys)
    return {
        "/logout": _Inbox(client, receiver.logout, lambda outcome: observe("logout", outcome)),
        "/events": _Inbox(client, receiver.event, lambda outcome: observe("event", outcome)),
    }


class _Inbox:
    def __init__(
        self,
        client: Callable[[], AsyncSessionClient],
        begin: Callable[[Posted], Steps],
        observe: Callable[[Outcome], None],
    ) -> None:
        self._client = client
        self._begin = begin
        self._observe = observe

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = await read_body(receive, BODY_LIMIT_BYTES)
        if body is None:
            # The provider has disconnected, but middleware may require a response.
            body = b""
        posted = Posted(
            scope["method"],
            headers_of(scope, "content-type"),
            body if len(body) <= BODY_LIMIT_BYTES else None,
        )
        answer = await run_async(self._begin(posted), self._end)
        self._observe(answer.outcome)
        await _send(answer, send)

    async def _end(self, identity: EndedIdentity) -> datetime:
        return await self._client().revoke_identity(
            identity.issuer, subject=identity.subject, sid=identity.sid, reason=REASON
        )


async def _send(answer: Answer, send: Send) -> None:
    named = (*answer.headers, ("content-length", str(len(answer.body))))
    headers = [(name.encode(), value.encode()) for name, value in named]
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    await send({"type": "http.response.body", "body": answer.body})
