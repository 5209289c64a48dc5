"""A gRPC service that knows its user, and a caller that passes the user's token."""

import asyncio
import os
import sys
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
from google.protobuf.empty_pb2 import Empty
from google.protobuf.wrappers_pb2 import StringValue

from session_authority import AsyncSessionClient
from session_authority.grpc import AsyncSessionInterceptor, current_session, token_metadata

ADDRESS = os.environ.get("SHOP_ADDRESS", "127.0.0.1:50600")


class Shop:
    """The methods. For a service of your own, `protoc` generates the base class and the stub."""

    async def ping(self, _request: Empty, _context: object) -> StringValue:
        return StringValue(value="pong")

    async def greet(self, _request: Empty, _context: object) -> StringValue:
        session = current_session()
        return StringValue(value=f"Hello, {session.user_id} on {session.device.display_name}")

    async def pay(self, _request: Empty, context: Any) -> StringValue:
        """Pay for a user who proved who they are within the last ten minutes."""
        session = current_session()
        if datetime.now(UTC) - session.authenticate_time > timedelta(minutes=10):
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, "Confirm who you are first.")
        return StringValue(value=f"Paid by {session.user_id}")


async def serve() -> None:
    shop = Shop()
    methods = {"Ping": shop.ping, "Greet": shop.greet, "Pay": shop.pay}
    handlers = {
        name: grpc.unary_unary_rpc_method_handler(
            method, Empty.FromString, StringValue.SerializeToString
        )
        for name, method in methods.items()
    }
    async with AsyncSessionClient.from_env() as client:
        interceptor = AsyncSessionInterceptor(client, public_methods=["/example.Shop/Ping"])
        server = grpc.aio.server(interceptors=[interceptor])
        server.add_registered_method_handlers("example.Shop", handlers)
        port = server.add_insecure_port(ADDRESS)
        await server.start()
        print(f"serving on port {port}", flush=True)
        await server.wait_for_termination()


async def call() -> None:
    """Call the service for Ada, whose password this program would check first."""
    async with (
        AsyncSessionClient.from_env() as client,
        grpc.aio.insecure_channel(ADDRESS) as channel,
    ):
        greet: Any = channel.unary_unary(
            "/example.Shop/Greet", Empty.SerializeToString, StringValue.FromString
        )
        new = await client.create("ada", user_agent="curl/8.5.0", authentication_methods=["pwd"])
        print((await greet(Empty(), metadata=token_metadata(new.token))).value)
        await client.sign_out(new.token)
        try:
            await greet(Empty(), metadata=token_metadata(new.token))
        except grpc.aio.AioRpcError as error:
            print(error.code().name, error.details())


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        asyncio.run({"serve": serve, "call": call}[sys.argv[1]]())
