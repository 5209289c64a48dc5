import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from session_authority_server.app.serving import _flushing_activity_at_end


async def test_uses_are_written_at_the_end_even_if_the_wait_for_endings_is_interrupted() -> None:
    written = []

    async def interrupted() -> None:
        raise asyncio.CancelledError

    async def flush() -> None:
        written.append("uses")

    context = SimpleNamespace(
        superseded=SimpleNamespace(settle=interrupted), activity=SimpleNamespace(flush=flush)
    )
    server: Any = SimpleNamespace(context=context)
    with pytest.raises(asyncio.CancelledError):
        async with _flushing_activity_at_end(server):
            pass
    assert written == ["uses"]
