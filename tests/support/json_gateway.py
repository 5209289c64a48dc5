"""An authority and the gateway's JSON API in front of it, in a thread of this process."""

import base64
import json
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from session_authority import AsyncSessionClient
from session_authority_gateway.serving import serving
from session_authority_gateway.settings import load_gateway_settings
from tests.integration.web.threaded_authority import ThreadedAuthority, threaded_authority
from tests.support.transmitter import a_transmitter

SERVICE = "/session_authority.v1.SessionService/"
PATIENCE_SECONDS = 60


@dataclass
class JsonGateway:
    """A running gateway.

    Attributes:
        url: The address of the JSON API, with its scheme.
        threaded: The authority behind the gateway.
    """

    url: str
    threaded: ThreadedAuthority

    @property
    def key(self) -> str:
        return self.threaded.key

    @property
    def environment(self) -> Mapping[str, str]:
        """The variables with which the examples find this gateway and its authority."""
        return {
            "SESSION_AUTHORITY_JSON": self.url,
            "SESSION_AUTHORITY_ADDRESS": self.threaded.address,
            "SESSION_AUTHORITY_API_KEY": self.key,
        }

    def post(
        self, method: str, request: object, headers: Mapping[str, str] | None = None
    ) -> httpx.Response:
        """Call a method with the API key. The request is an object, or the body itself."""
        path = method if method.startswith("/") else SERVICE + method
        body = request if isinstance(request, bytes) else json.dumps(request).encode()
        given = {"content-type": "application/json", "authorization": f"Bearer {self.key}"}
        return httpx.post(
            self.url + path,
            content=body,
            headers=given | dict(headers or {}),
            timeout=PATIENCE_SECONDS,
            verify=False,  # without TLS, and so without its set-up
        )

    def call(self, method: str, **request: Any) -> Any:
        """Call a method that must succeed, and return its response."""
        answer = self.post(method, request)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def sign_in(self, user_id: str, **more: Any) -> Any:
        return self.call("CreateSession", userId=user_id, **more)


def details_of(answer: httpx.Response) -> list[dict[str, Any]]:
    """Return the details of an error as JSON. Their binary form must say the same."""
    details = answer.json()["details"]
    for each in details:
        assert base64.b64decode(each["value"] + "=" * (-len(each["value"]) % 4))
    return [each["debug"] for each in details]


@contextmanager
def json_gateway(folder: Path) -> Iterator[JsonGateway]:
    """Run an authority and a gateway for as long as the context lasts."""
    with threaded_authority(folder, transmitter=a_transmitter(folder)) as threaded:
        gateway = _serving(threaded)
        try:
            yield JsonGateway(f"http://{threaded.do(gateway.__aenter__())}", threaded)
        finally:
            threaded.do(gateway.__aexit__(None, None, None))


@asynccontextmanager
async def _serving(threaded: ThreadedAuthority) -> AsyncIterator[str]:
    settings = load_gateway_settings(
        listen="127.0.0.1:0", grpc_listen="", json_listen="127.0.0.1:0", drain_seconds=1
    )
    async with (
        # A key of its own, which the gateway must not add to the calls of others.
        AsyncSessionClient(threaded.address, api_key=threaded.key) as client,
        serving(settings, client=client) as running,
    ):
        yield running.json_address
