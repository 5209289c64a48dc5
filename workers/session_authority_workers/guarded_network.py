import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from ipaddress import ip_address
from typing import Any

import httpcore

from session_authority_server.domain.webhook import Address, may_connect

# How long one address may take to accept a connection, and how many addresses of a name are tried.
CONNECT_SECONDS = 3.0
ADDRESSES_TRIED = 3
# The longest answer to a request, with its headers and everything else that the receiver sends.
ANSWER_LIMIT_BYTES = 64 * 1024
# How much is read and parsed before other tasks run. A receiver may send thousands of tiny parts at once.
_READ_BYTES = 4 * 1024

Resolve = Callable[[str, int], Awaitable[Sequence[Address]]]


class AddressRefused(Exception):
    """A host has no address to which events may be sent."""

    def __init__(self) -> None:
        super().__init__(
            "the host has no address that events may be sent to; "
            "SESSION_AUTHORITY_RECEIVERS_MAY_BE_PRIVATE allows private addresses"
        )


class AnswerTooLong(Exception):
    """A receiver sent more than ANSWER_LIMIT_BYTES in answer to one request."""

    def __init__(self) -> None:
        super().__init__(f"the answer is over {ANSWER_LIMIT_BYTES // 1024} KiB")


class _BoundedStream(httpcore.AsyncNetworkStream):
    """A connection that bounds what is read after each request."""

    def __init__(self, stream: httpcore.AsyncNetworkStream) -> None:
        self._stream = stream
        self._received = 0

    async def read(
        self,
        max_bytes: int,
        timeout: float | None = None,  # noqa: ASYNC109 - the interface has it
    ) -> bytes:
        content = await self._stream.read(min(max_bytes, _READ_BYTES), timeout)
        self._received += len(content)
        if self._received > ANSWER_LIMIT_BYTES:
            raise AnswerTooLong
        return content

    async def write(
        self,
        buffer: bytes,
        timeout: float | None = None,  # noqa: ASYNC109 - the interface has it
    ) -> None:
        self._received = 0
        await self._stream.write(buffer, timeout)

    async def aclose(self) -> None:
        await self._stream.aclose()

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109 - the interface has it
    ) -> httpcore.AsyncNetworkStream:
        stream = await self._stream.start_tls(ssl_context, server_hostname, timeout)
        return _BoundedStream(stream)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


class GuardedNetwork(httpcore.AsyncNetworkBackend):
    """Connects only to addresses to which events may be sent, and bounds the answers.

    A name is resolved once for each connection. The addresses that were checked are the addresses that are connected,
    so a name whose addresses change can't lead elsewhere.
    """

    def __init__(
        self,
        *,
        may_be_private: bool,
        resolve: Resolve,
        network: httpcore.AsyncNetworkBackend | None = None,
    ) -> None:
        """Create a network.

        Args:
            may_be_private: Whether the operator allows private addresses.
            resolve: Returns the addresses of a host.
            network: Connects to addresses. By default, the machine's network.
        """
        self._may_be_private = may_be_private
        self._resolve = resolve
        self._network = network or httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - the interface has it
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Connect to the first permitted address that answers.

        Raises:
            AddressRefused: If no address is permitted.
            httpcore.ConnectError: If the host has no address, or none accepts the connection.
            httpcore.ConnectTimeout: If the last address did not answer in time.
        """
        permitted = [
            each
            for each in await self._resolve(host, port)
            if may_connect(host, each, may_be_private=self._may_be_private)
        ]
        if not permitted:
            raise AddressRefused
        failure: Exception | None = None
        for address in permitted[:ADDRESSES_TRIED]:
            try:
                return _BoundedStream(
                    await self._network.connect_tcp(
                        str(address), port, CONNECT_SECONDS, local_address, socket_options
                    )
                )
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
        assert failure is not None
        raise failure


class Resolver:
    """Resolves names in a thread of its own, so that a name server that hangs delays no other receiver."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "resolver")

    async def __call__(self, host: str, port: int) -> Sequence[Address]:
        """Return the addresses of a host, in the order of the system's preference.

        Raises:
            httpcore.ConnectError: If the host has no address.
        """
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._thread, _look_up, host, port)
        except (OSError, UnicodeError) as error:
            raise httpcore.ConnectError("the host has no address") from error

    def close(self) -> None:
        """Let the thread end, without waiting for it."""
        self._thread.shutdown(wait=False, cancel_futures=True)


def _look_up(host: str, port: int) -> Sequence[Address]:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [ip_address(address[0]) for *_, address in found]
