"""A browser's WebSocket, as a web server passes it to an app."""

import asyncio
from typing import Any


class Socket:
    """A browser's WebSocket, without a network."""

    def __init__(self, app: Any, cookie: str, path: str = "/socket", **more: Any) -> None:
        self._incoming: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._outgoing: asyncio.Queue[Any] = asyncio.Queue()
        scope = {
            "type": "websocket",
            "scheme": "wss",
            "path": path,
            "raw_path": path.encode(),
            "root_path": "",
            "query_string": b"",
            "headers": [(b"host", b"app.example"), (b"cookie", cookie.encode())],
            "client": ("203.0.113.7", 4711),
            "subprotocols": [],
            "extensions": {"websocket.http.response": {}},
            **more,
        }
        self._running = asyncio.create_task(app(scope, self._incoming.get, self._outgoing.put))

    async def send(self, **message: Any) -> None:
        await self._incoming.put(message)

    async def receive(self) -> Any:
        return await asyncio.wait_for(self._outgoing.get(), 60)

    async def end(self) -> None:
        await asyncio.wait_for(self._running, 60)

    @property
    def is_silent(self) -> bool:
        """Return whether the app has sent no message that was not received yet."""
        return self._outgoing.empty()
