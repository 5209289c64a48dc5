"""A receiver in a process of its own: `python event_receiver.py PORT FILE`.

It appends each event to the file before it accepts the event. Now and then, it refuses an event or breaks the connection,
before or after that.
"""

import asyncio
import contextlib
import os
import random
import sys

_FAILURES = 0.02


async def _serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            headers = {
                name.strip().lower(): value.strip()
                for name, _, value in (line.partition(b":") for line in head.split(b"\r\n")[1:])
            }
            body = await reader.readexactly(int(headers[b"content-length"]))
            if random.random() < _FAILURES:
                writer.write(b"HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n")
                continue
            # The newline comes first, so that a line that a kill cuts short spoils no other line.
            os.write(_file, b"\n%s %s" % (headers[b"webhook-id"], body))
            if random.random() < _FAILURES:
                break
            writer.write(b"HTTP/1.1 204 Accepted\r\n\r\n")
    writer.close()


async def _main(port: int) -> None:
    server = await asyncio.start_server(_serve, "127.0.0.1", port)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    _file = os.open(sys.argv[2], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    asyncio.run(_main(int(sys.argv[1])))
