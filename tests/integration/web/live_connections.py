"""Web apps with live connections on a real server and real sockets, and ways to end their sessions."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, nullcontext
from datetime import timedelta
from typing import Any

import uvicorn

from session_authority import AsyncSessionClient, NewSession, testing
from session_authority.admin import admin_calls
from session_authority.v1 import session_admin_service_pb2 as v1
from tests.support.waiting import until

PATIENCE_SECONDS = 60.0

End = Callable[[testing.Authority, NewSession], None]


@asynccontextmanager
async def serving(app: Any, **settings: Any) -> AsyncIterator[str]:
    """Run an ASGI app with uvicorn on a free port. Return its address."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        server = uvicorn.Server(
            uvicorn.Config(
                app, log_level="error", lifespan="off", timeout_graceful_shutdown=1, **settings
            )
        )
        running = asyncio.create_task(server.serve([listening]))
        await until(lambda: server.started)
        yield f"127.0.0.1:{listening.getsockname()[1]}"
        server.should_exit = True
        await running


async def connected(client: AsyncSessionClient) -> None:
    """Wait until the near cache of a client has a lease."""
    await client.validate("ses_x")

    def has_lease() -> bool:
        statistics = client.near_cache_statistics
        return statistics is not None and statistics.connected

    await until(has_lease)


def revoke(authority: testing.Authority, new: NewSession) -> None:
    with authority.client() as client:
        client.sign_out(new.token)


def revoke_others(authority: testing.Authority, new: NewSession) -> None:
    with authority.client() as client:
        client.revoke_others(authority.sign_in(new.session.user_id).token)


def sweep(authority: testing.Authority, new: NewSession) -> None:
    with admin_calls(authority.environment) as call:
        request = v1.RevokeUserSessionsRequest(user_id=new.session.user_id, reason="test")
        call("RevokeUserSessions", request)


def reauthenticate(authority: testing.Authority, new: NewSession) -> None:
    with authority.client() as client:
        client.reauthenticate(new.token)


def expire(_authority: testing.Authority, _new: NewSession) -> None:
    """Do nothing: the session of `signed_in` expires soon."""


def signed_in(authority: testing.Authority, end: End) -> NewSession:
    """Return a new session, which expires soon if that is how it ends."""
    lifetime = timedelta(seconds=2) if end is expire else None
    return authority.sign_in("ada", lifetime=lifetime)


@contextmanager
def ending(authority: testing.Authority, new: NewSession, end: End | None) -> Iterator[None]:
    """End a session; None begins an outage, which lasts until the end of the block."""
    with authority.outage() if end is None else nullcontext():
        if end is not None:
            end(authority, new)
        yield
