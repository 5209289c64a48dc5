"""Runs the requests of providers: waits for keys, and ends sessions."""

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import Future, wait
from datetime import datetime

from session_authority.backchannel.key_fetch import FETCH_SECONDS
from session_authority.backchannel.receiver import Answer, Steps
from session_authority.backchannel.signal import EndedIdentity
from session_authority.errors import SessionAuthorityError

# A fetch that takes longer has failed for this request, and may still help the next one.
_WAIT_SECONDS = FETCH_SECONDS + 1


async def run_async(steps: Steps, end: Callable[[EndedIdentity], Awaitable[datetime]]) -> Answer:
    """Run a request, and return its answer.

    Args:
        steps: The request.
        end: Ends the sessions of an identity. Returns the time after which no service accepts them.
    """
    given: datetime | SessionAuthorityError | None = None
    while True:
        try:
            step = _advance(steps, given)
        except StopIteration as done:
            answer: Answer = done.value
            return answer
        if isinstance(step, Future):
            await asyncio.wait([asyncio.wrap_future(step)], timeout=_WAIT_SECONDS)
            given = None
        else:
            try:
                given = await end(step)
            except SessionAuthorityError as error:
                given = error


def run(steps: Steps, end: Callable[[EndedIdentity], datetime]) -> Answer:
    """Run a request in the calling thread, which blocks. The arguments are those of `run_async`."""
    given: datetime | SessionAuthorityError | None = None
    while True:
        try:
            step = _advance(steps, given)
        except StopIteration as done:
            answer: Answer = done.value
            return answer
        if isinstance(step, Future):
            wait([step], timeout=_WAIT_SECONDS)
            given = None
        else:
            try:
                given = end(step)
            except SessionAuthorityError as error:
                given = error


def _advance(
    steps: Steps, given: datetime | SessionAuthorityError | None
) -> "Future[None] | EndedIdentity":
    if isinstance(given, SessionAuthorityError):
        return steps.throw(given)
    return steps.send(given)
