"""A link to a database that is sometimes slow, in both directions."""

import asyncio
import contextlib
import random
import threading
from collections.abc import Iterator, Sequence

# The delays of data in each direction. Most data has no delay. Answers have longer delays than questions. Some are
# so long that a client meanwhile hears of a later change and asks about it.
THERE_SECONDS = (*(0.0,) * 20, 0.004, 0.015)
BACK_SECONDS = (*(0.0,) * 20, 0.005, 0.01, 0.02, 0.1, 0.2)
_CHUNK_BYTES = 1 << 16


@contextlib.contextmanager
def slow_link(port: int, seed: int) -> Iterator[int]:
    """Yield a port that forwards to another port of this machine while the context lasts."""
    started: list[int] = []
    ready = threading.Event()
    loop = asyncio.new_event_loop()
    stop = asyncio.Event()

    async def relay() -> None:
        link = _Link(port, random.Random(seed))
        server = await asyncio.start_server(link.carry, "127.0.0.1", 0)
        started.append(server.sockets[0].getsockname()[1])
        ready.set()
        await stop.wait()
        server.close()
        for task in link.carrying:
            task.cancel()
        await asyncio.gather(*link.carrying, return_exceptions=True)

    thread = threading.Thread(target=loop.run_until_complete, args=(relay(),), daemon=True)
    thread.start()
    try:
        assert ready.wait(5)
        yield started[0]
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(5)
        loop.close()


class _Link:
    def __init__(self, port: int, chance: random.Random) -> None:
        self._port = port
        self._chance = chance
        self.carrying: set[asyncio.Task[None]] = set()

    async def carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._port)
        for source, target, delays in (
            (reader, far_writer, THERE_SECONDS),
            (far_reader, writer, BACK_SECONDS),
        ):
            task = asyncio.create_task(self._pass_on(source, target, delays))
            self.carrying.add(task)
            task.add_done_callback(self.carrying.discard)

    async def _pass_on(
        self,
        source: asyncio.StreamReader,
        target: asyncio.StreamWriter,
        delays: Sequence[float],
    ) -> None:
        with contextlib.suppress(ConnectionError):
            while chunk := await source.read(_CHUNK_BYTES):
                await asyncio.sleep(self._chance.choice(delays))
                target.write(chunk)
                await target.drain()
        target.close()
