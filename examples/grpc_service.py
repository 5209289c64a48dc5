"""A gRPC service that knows on whose behalf it is called, and passes that on.

    session-authority serve                        # prints: export SESSION_AUTHORITY_API_KEY=...
    python examples/grpc_service.py                # with that line, in another terminal; serves on 127.0.0.1:50600

A web app calls it with the token from its user's cookie:

    greet(channel, "hello", metadata=token_metadata(token))
"""

import asyncio
import os
from typing import Any

import grpc
from google.protobuf.wrappers_pb2 import StringValue

from session_authority import AsyncSessionClient
from session_authority.grpc import AsyncSessionInterceptor, current_session

GREET = "/example.Greeter/Greet"
PING = "/example.Greeter/Ping"


class Greeter:
    """What `protoc` would make a base class for; written out, so that this example is one file."""

    async def greet(self, request: StringValue, _context: object) -> StringValue:
        """Greet the user behind the call. Without a live session it never gets here."""
        session = current_session()
        return StringValue(
            value=f"{request.value}, {session.user_id} on {session.device.display_name}"
        )

    async def ping(self, _request: StringValue, _context: object) -> StringValue:
        """Answer anybody."""
        return StringValue(value="pong")


async def greet(channel: grpc.aio.Channel, text: str, metadata: Any = ()) -> str:
    """Call the service, as another service would."""
    method: Any = channel.unary_unary(GREET, StringValue.SerializeToString, StringValue.FromString)
    answer: StringValue = await method(StringValue(value=text), metadata=metadata)
    return answer.value


async def serve(address: str) -> None:
    """Serve until told to stop."""
    async with AsyncSessionClient.from_env() as client:
        server = grpc.aio.server(
            interceptors=[AsyncSessionInterceptor(client, public_methods=[PING])]
        )
        server.add_generic_rpc_handlers((_handlers(Greeter()),))
        port = server.add_insecure_port(address)
        await server.start()
        print(f"serving on {address.rpartition(':')[0]}:{port}", flush=True)
        await server.wait_for_termination()


def _handlers(greeter: Greeter) -> grpc.GenericRpcHandler:
    def handler(behavior: Any) -> Any:
        return grpc.unary_unary_rpc_method_handler(
            behavior, StringValue.FromString, StringValue.SerializeToString
        )

    methods = {"Greet": handler(greeter.greet), "Ping": handler(greeter.ping)}
    return grpc.method_handlers_generic_handler("example.Greeter", methods)


if __name__ == "__main__":
    asyncio.run(serve(os.environ.get("LISTEN", "127.0.0.1:50600")))
