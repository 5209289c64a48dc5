"""A gateway that serves security events, its authority, and receivers with keys of their own."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import jwt
from starlette.types import ASGIApp

from session_authority_gateway import ssf_documents as documents
from session_authority_gateway.application import new_application, new_parts
from session_authority_gateway.settings import load_gateway_settings
from session_authority_gateway.ssf import SharedSignals
from session_authority_server.domain.api_key import Permission
from session_authority_server.domain.policy import Policy
from session_authority_server.store.keys import SqlKeyStore
from session_authority_server.usecases.api_keys import ApiKeys
from tests.support.authority import Authority, running_authority
from tests.support.transmitter import ISSUER, a_transmitter

CAEP = "https://schemas.openid.net/secevent/caep/event-type/"
REVOKED = CAEP + "session-revoked"
VERIFICATION = "https://schemas.openid.net/secevent/ssf/event-type/verification"


@dataclass
class Receiver:
    """A receiver of events, which knows the framework and not the authority.

    Attributes:
        application: The gateway.
        key: Its API key, which it presents as its access token.
    """

    application: ASGIApp
    key: str = field(repr=False)

    async def ask(
        self,
        method: str,
        url: str,
        body: Any = None,
        *,
        headers: Mapping[str, str] | None = None,
    ) -> httpx.Response:
        """Send a request. The body is an object, or the bytes themselves."""
        given = {"authorization": f"Bearer {self.key}"} if self.key else {}
        content = {"json": body} if isinstance(body, dict) else {"content": body}
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(self.application), base_url=ISSUER
        ) as client:
            return await client.request(
                method,
                url,
                **(content if body is not None else {}),
                headers=given | dict(headers or {}),
            )

    async def metadata(self) -> Any:
        return (await self.ask("GET", documents.CONFIGURATION_PATH)).json()

    async def create(self, **config: Any) -> Any:
        """Create a stream, and return its configuration."""
        answer = await self.ask("POST", documents.STREAM_PATH, config)
        assert answer.status_code == 201, answer.text
        return answer.json()

    async def poll(self, stream: Any, **request: Any) -> Any:
        """Poll, and return the answer."""
        answer = await self.ask(
            "POST", stream["delivery"]["endpoint_url"], {"returnImmediately": True, **request}
        )
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def verify(self, stream: Any, state: str | None = None) -> httpx.Response:
        given = {"stream_id": stream["stream_id"]} | ({} if state is None else {"state": state})
        return await self.ask("POST", documents.VERIFICATION_PATH, given)

    async def set_status(self, stream: Any, status: str, **more: Any) -> httpx.Response:
        given = {"stream_id": stream["stream_id"], "status": status, **more}
        return await self.ask("POST", documents.STATUS_PATH, given)

    async def claims(self, token: str, audience: str = "crm") -> Any:
        """Verify a token with the published keys, as a receiver does, and return its claims."""
        keys = jwt.PyJWKSet.from_dict((await self.ask("GET", documents.JWKS_PATH)).json())
        header = jwt.get_unverified_header(token)
        assert header["typ"] == "secevent+jwt"
        return jwt.decode(token, keys[header["kid"]], ["RS256"], audience=audience, issuer=ISSUER)

    async def received(self, stream: Any, **request: Any) -> list[Any]:
        """Poll, acknowledge, and return the claims of the tokens."""
        sets = (await self.poll(stream, **request))["sets"]
        await self.poll(stream, ack=list(sets), maxEvents=0)
        return [await self.claims(each, stream["aud"]) for each in sets.values()]


@dataclass
class Signals:
    """The gateway, its authority, and a receiver whose API key is named crm."""

    authority: Authority
    application: ASGIApp
    crm: Receiver

    async def receiver(self, name: str, *permissions: Permission) -> Receiver:
        """Return another receiver, whose key the authority knows."""
        keys = ApiKeys(SqlKeyStore(self.authority.database), self.authority.clock)
        _, key = await keys.create(name, frozenset(permissions or {Permission.RECEIVE}))
        await self.authority.keyring.refresh()
        return Receiver(self.application, key)


@asynccontextmanager
async def signals_running(folder: Path, *, on: bool = True) -> AsyncIterator[Signals]:
    """Run an authority and a gateway in front of it, without sockets between receiver and gateway."""
    transmitter = a_transmitter(folder) if on else None
    async with (
        running_authority(folder, Policy(), transmitter=transmitter) as authority,
        authority.client.new_channel() as channel,
    ):
        parts = new_parts(load_gateway_settings(), authority.client)
        shared = SharedSignals(channel, authority.client.caller_metadata, lambda: True)
        signals = Signals(
            authority, new_application(parts, lambda: True, shared), Receiver(_none, "")
        )
        signals.crm = await signals.receiver("crm")
        yield signals


async def _none(*_: Any) -> None: ...
