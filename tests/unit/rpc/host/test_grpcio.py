import asyncio
from collections.abc import Sequence
from typing import Any
from unittest.mock import Mock

import pytest

from session_authority_server.rpc.host import grpcio
from session_authority_server.rpc.methods import METHODS
from tests.support.hosts import new_dispatcher

VALIDATE = METHODS["/session_authority.v1.SessionService/ValidateSession"]


class Service:
    """Accepts every token once the test allows it."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.may_answer = asyncio.Event()

    async def validate_each(self, calls: Sequence[Any]) -> list[Any]:
        self.asked.set()
        await self.may_answer.wait()
        return [b"live" for _ in calls]


async def test_a_call_cancelled_while_its_batch_is_answered_does_not_block_the_others() -> None:
    """The task of a call notices its cancellation only in the loop's next turn, after the answer."""
    service = Service()
    handler: Any = grpcio._unary(new_dispatcher(service), VALIDATE)
    context = Mock(time_remaining=Mock(return_value=None))
    calls = [asyncio.ensure_future(handler.unary_unary(b"", context)) for _ in range(3)]
    await asyncio.wait_for(service.asked.wait(), 60)

    service.may_answer.set()
    calls[0].cancel()

    assert await asyncio.wait_for(asyncio.gather(*calls[1:]), 60) == [b"live", b"live"]
    with pytest.raises(asyncio.CancelledError):
        await calls[0]
