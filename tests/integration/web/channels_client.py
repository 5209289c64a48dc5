"""Connections to a Channels application. The test clients of Channels need Daphne."""

import json
from typing import Any

from asgiref.testing import ApplicationCommunicator

WAIT_SECONDS = 60.0
_Communicator: Any = ApplicationCommunicator  # its methods have no types


class Socket(_Communicator):  # type: ignore[misc]
    def __init__(self, app: Any, headers: list[tuple[bytes, bytes]], **more: Any) -> None:
        scope: dict[str, Any] = {
            "type": "websocket",
            "path": "/chat",
            "query_string": b"",
            "subprotocols": [],
        }
        super().__init__(app, scope | {"headers": headers} | more)

    async def connect(self) -> dict[str, Any]:
        """Return the application's answer to a handshake."""
        await self.send_input({"type": "websocket.connect"})
        answer: dict[str, Any] = await self.receive_output(WAIT_SECONDS)
        return answer

    async def greeting(self) -> Any:
        assert (await self.connect())["type"] == "websocket.accept"
        return await self.receive()

    async def send(self, content: Any) -> None:
        await self.send_input({"type": "websocket.receive", "text": json.dumps(content)})

    async def receive(self) -> Any:
        message = await self.receive_output(WAIT_SECONDS)
        assert message["type"] == "websocket.send", message
        return json.loads(message["text"])

    async def close_code(self) -> int:
        message = await self.receive_output(WAIT_SECONDS)
        assert message["type"] == "websocket.close", message
        return int(message["code"])

    async def disconnect(self) -> None:
        await self.send_input({"type": "websocket.disconnect", "code": 1000})
        await self.wait(WAIT_SECONDS)


async def respond(app: Any, headers: list[tuple[bytes, bytes]], query: bytes = b"") -> Any:
    """Send a request and return its status and body."""
    scope: dict[str, Any] = {
        "type": "http",
        "method": "GET",
        "path": "/poll",
        "query_string": query,
    }
    request = _Communicator(app, scope | {"headers": headers})
    await request.send_input({"type": "http.request", "body": b""})
    status = (await request.receive_output(WAIT_SECONDS))["status"]
    body = b""
    while True:
        message = await request.receive_output(WAIT_SECONDS)
        body += message.get("body", b"")
        if not message.get("more_body", False):
            await request.wait(WAIT_SECONDS)
            return status, body
