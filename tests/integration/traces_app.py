"""An app that records traces, with both clients. It prints what must not appear in any span.

python -m tests.integration.traces_app ADDRESS CLOSED_ADDRESS
"""

import asyncio
import contextlib
import os
import sys
from concurrent.futures import ThreadPoolExecutor

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from session_authority import AsyncSessionClient, InvalidArgument, SessionClient, Unavailable

VISITS = 6
USER, ADDRESS, AGENT, NOTE = "ada-lovelace", "203.0.113.77", "curl/8.5.0", "a-private-note"

tracer = trace.get_tracer("app")


async def asynchronous(address: str, key: str) -> None:
    async with AsyncSessionClient(address, api_key=key, near_cache=True, tracing=True) as client:
        with tracer.start_as_current_span("async sign-in"):
            new = await client.create(
                USER, ip_address=ADDRESS, user_agent=AGENT, attributes={"note": NOTE}
            )
        sys.stdout.write(f"{new.token.reveal()} {new.session.session_id} ")

        async def visit(number: int) -> None:
            with tracer.start_as_current_span(f"async visit {number}"):
                assert await client.validate(new.token, ip_address=f"203.0.113.{number}")

        await asyncio.gather(*map(visit, range(VISITS)))
        with tracer.start_as_current_span("async sign-out"):
            await client.sign_out(new.token)
        with tracer.start_as_current_span("async rejection"):
            assert not await client.validate(new.token)
        with tracer.start_as_current_span("async visitor without a session"):
            assert not await client.validate(None)


def threaded(address: str, closed: str, key: str) -> None:
    with (
        SessionClient(address, api_key=key, tracing=True) as client,
        SessionClient(closed, deadline_seconds=1, tracing=True) as cut_off,
    ):
        with tracer.start_as_current_span("sync sign-in"):
            token = client.create(USER).token
        sys.stdout.write(token.reveal())

        def visit(number: int) -> None:
            with tracer.start_as_current_span(f"sync visit {number}"):
                assert client.validate(token, ip_address=f"203.0.113.{number}")

        with ThreadPoolExecutor(VISITS) as threads:
            list(threads.map(visit, range(VISITS)))
        with tracer.start_as_current_span("bad argument"), contextlib.suppress(InvalidArgument):
            client.create("x" * 300)
        with tracer.start_as_current_span("outage"), contextlib.suppress(Unavailable):
            cut_off.validate(token)


def main() -> None:
    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)
    address, closed = sys.argv[1:]
    key = os.environ["SESSION_AUTHORITY_API_KEY"]
    asyncio.run(asynchronous(address, key))
    threaded(address, closed, key)
    provider.shutdown()


if __name__ == "__main__":
    main()
