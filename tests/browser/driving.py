"""What a framework's integration does with the page, for the tests that have none."""

from typing import TypeVar

from session_authority import AsyncSessionClient, SessionAuthorityError
from session_authority._core import Operation

T = TypeVar("T")


async def drive(client: AsyncSessionClient, operation: Operation[T]) -> T:
    """Make an operation's calls, telling it how they end."""
    try:
        call = next(operation)
        while True:
            try:
                payload = await client._send(call)
            except SessionAuthorityError as error:
                call = operation.throw(error)
            else:
                call = operation.send(payload)
    except StopIteration as done:
        result: T = done.value
        return result
