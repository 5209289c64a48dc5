"""Makes a client, forks twice, and validates in each child and in the parent; on asyncio."""

import asyncio
import os
import sys

from session_authority import AsyncSessionClient

address, token = sys.argv[1:]
client = AsyncSessionClient(address)


async def validate() -> bool:
    async with client:
        return bool(await client.validate(token))


children = []
for _ in range(2):
    child = os.fork()
    if child == 0:
        os._exit(0 if asyncio.run(validate()) else 1)
    children.append(child)
for child in children:
    assert os.waitpid(child, 0)[1] == 0
assert asyncio.run(validate())
