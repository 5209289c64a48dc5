"""Network links that tests can delay, hold and cut.

A separate process carries them, and tests can stop that process. As with TCP, no byte is lost, duplicated or
reordered while a connection lasts.
"""

import asyncio
import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import IO

_CHUNK_BYTES = 1 << 16


class Links:
    """The links that one process carries.

    Attributes:
        pid: Id of that process.
        ports: The port at which each link begins, in the order of the targets.
    """

    def __init__(self, pid: int, ports: Sequence[int], commands: IO[bytes]) -> None:
        self.pid = pid
        self.ports = ports
        self._commands = commands

    def delay(self, link: int, there_seconds: float, back_seconds: float) -> None:
        """Delay all data of a link from now on, by a time for each direction."""
        self._tell("delay", link, there_seconds, back_seconds)

    def hold(self, link: int, there: bool, back: bool) -> None:
        """Hold or release the data of each direction."""
        self._tell("hold", link, there, back)

    def cut(self, link: int, refuses: bool) -> None:
        """Close the connections of a link. If `refuses`, refuse new ones until the link is healed."""
        self._tell("cut", link, refuses)

    def heal(self, link: int) -> None:
        """Release all data at once."""
        self._tell("heal", link)

    def _tell(self, *command: object) -> None:
        self._commands.write(json.dumps(command).encode() + b"\n")
        self._commands.flush()


@contextlib.contextmanager
def unruly_links(*target_ports: int) -> Iterator[Links]:
    """Carry links to ports of this machine while the context lasts."""
    process = subprocess.Popen(
        [sys.executable, "-S", __file__, *map(str, target_ports)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield Links(process.pid, json.loads(process.stdout.readline()), process.stdin)
    finally:
        process.kill()
        process.communicate()


async def _carry_all(target_ports: Sequence[int]) -> None:
    links = [_Link(port) for port in target_ports]
    servers = [await asyncio.start_server(link.carry, "127.0.0.1", 0) for link in links]
    sys.stdout.write(json.dumps([server.sockets[0].getsockname()[1] for server in servers]) + "\n")
    sys.stdout.flush()
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        name, number, *arguments = json.loads(line)
        getattr(links[number], name)(*arguments)


@dataclass(eq=False)
class _Way:
    """One direction of a link."""

    delay_seconds: float = 0.0
    open: asyncio.Event = field(default_factory=asyncio.Event)

    async def take(
        self, source: asyncio.StreamReader, queue: "asyncio.Queue[tuple[float, bytes]]"
    ) -> None:
        loop = asyncio.get_running_loop()
        chunk = b"-"
        while chunk:
            chunk = b""  # also if the connection was reset
            with contextlib.suppress(ConnectionError):
                chunk = await source.read(_CHUNK_BYTES)
            await queue.put((loop.time() + self.delay_seconds, chunk))

    async def give(
        self, queue: "asyncio.Queue[tuple[float, bytes]]", target: asyncio.StreamWriter
    ) -> None:
        loop = asyncio.get_running_loop()
        with contextlib.suppress(ConnectionError):
            while True:
                due, chunk = await queue.get()
                # Healing the link does not shorten the delay of data that is already on the way.
                await asyncio.sleep(max(min(due - loop.time(), self.delay_seconds), 0))
                await self.open.wait()
                if not chunk:
                    break
                target.write(chunk)
                await target.drain()
        target.close()


class _Link:
    def __init__(self, port: int) -> None:
        self._port = port
        self._there, self._back = _Way(), _Way()
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._refuses = False
        self.heal()

    def delay(self, there_seconds: float, back_seconds: float) -> None:
        self._there.delay_seconds, self._back.delay_seconds = there_seconds, back_seconds

    def hold(self, there: bool, back: bool) -> None:
        for way, held in ((self._there, there), (self._back, back)):
            if held:
                way.open.clear()
            else:
                way.open.set()

    def cut(self, refuses: bool) -> None:
        self._refuses = refuses
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()

    def heal(self) -> None:
        self._refuses = False
        self.delay(0.0, 0.0)
        self.hold(there=False, back=False)

    async def carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._refuses:
            writer.transport.abort()
            return
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._port)
        except OSError:
            writer.transport.abort()
            return
        self._writers |= {writer, far_writer}
        for way, source, target in (
            (self._there, reader, far_writer),
            (self._back, far_reader, writer),
        ):
            queue: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(64)
            for work in (way.take(source, queue), way.give(queue, target)):
                task = asyncio.create_task(work)
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)


if __name__ == "__main__":
    asyncio.run(_carry_all([int(port) for port in sys.argv[1:]]))
