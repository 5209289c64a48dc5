"""Fork twice with one client, and validate in each child and in the parent.

python forking.py sync|aio ADDRESS TOKEN
"""

import asyncio
import os
import sys
from collections.abc import Callable

from session_authority import AsyncSessionClient, SessionClient

kind, address, token = sys.argv[1:]


def fork(validate: Callable[[], bool]) -> int:
    child = os.fork()
    if child == 0:
        os._exit(0 if validate() else 1)
    return child


def succeeded(child: int) -> bool:
    return os.waitpid(child, 0)[1] == 0


def fork_after_a_call() -> None:
    client = SessionClient(address)

    def validate_and_close() -> bool:
        with client:
            return bool(client.validate(token))

    assert client.validate(token)
    for _ in range(2):
        assert succeeded(fork(validate_and_close))
        assert client.validate(token)
    client.close()


def fork_before_any_call() -> None:  # gRPC does not survive a fork once its asyncio side has run
    client = AsyncSessionClient(address)

    async def validate_and_close() -> bool:
        async with client:
            return bool(await client.validate(token))

    children = [fork(lambda: asyncio.run(validate_and_close())) for _ in range(2)]
    assert all(succeeded(child) for child in children)
    assert asyncio.run(validate_and_close())


if kind == "sync":
    fork_after_a_call()
else:
    fork_before_any_call()
