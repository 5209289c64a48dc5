"""A gRPC server whose accept loop no call can end."""

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Any

import grpc
from grpc._cython import cygrpc  # type: ignore[attr-defined]  # it is compiled, and has no types

from session_authority_server.metrics import RPC_ERRORS

_UNKNOWN_METHOD = "there is no such method"

_refused = RPC_ERRORS.labels(method="unknown", reason="UNIMPLEMENTED")


class _Acceptor(cygrpc.AioServer):  # type: ignore[misc]
    """Takes calls on, as gRPC's loop asks for them.

    The loop decodes the path of a call for a method that it does not know, and one that is not UTF-8 ends the
    loop, and with it the server. All our methods are known to it beforehand. So any other call is refused in
    here, by its kind alone, and the loop never sees one.
    """

    _refusing: set[asyncio.Task[None]]

    async def _request_call(self) -> Any:
        """Wait for the calls of methods that nobody registered, and refuse each; ends when the server stops."""
        self._refusing = set()
        while True:
            call = await self._taken_on(super()._request_call)
            refusing = asyncio.create_task(_refuse(call))
            self._refusing.add(refusing)  # or else nothing would hold it
            refusing.add_done_callback(self._refusing.discard)

    async def _request_registered_call(self, method: bytes) -> Any:
        return await self._taken_on(super()._request_registered_call, method)

    async def _taken_on(self, request: Any, *arguments: Any) -> Any:
        """Return the next call; one that broke off while it was taken on is none of the loop's business."""
        while True:
            try:
                return await request(*arguments)
            except cygrpc._RequestCallError:
                if not self.is_running():
                    raise


async def _refuse(call: Any) -> None:
    _refused.inc()
    context = cygrpc._ServicerContext(call, None, None, asyncio.get_running_loop())
    with contextlib.suppress(
        cygrpc.AbortError, cygrpc.ExecuteBatchError
    ):  # it was told, or has gone
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, _UNKNOWN_METHOD)


def server(
    interceptors: Sequence[grpc.aio.ServerInterceptor] = (),
    options: Sequence[tuple[str, Any]] = (),
) -> grpc.aio.Server:
    """Return a server that serves registered methods alone, as all generated code registers its own.

    Args:
        interceptors: What sees each call of such a method.
        options: gRPC's.
    """
    # gRPC asks nobody which class to take, and this one's arguments change from release to release.
    original, cygrpc.AioServer = cygrpc.AioServer, _Acceptor
    try:
        return grpc.aio.server(interceptors=interceptors, options=options)
    finally:
        cygrpc.AioServer = original
