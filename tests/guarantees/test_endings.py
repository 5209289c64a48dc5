"""Ten ways to end a session times seven surfaces. Each surface accepts nothing after its bound.

`docs/understand/guarantees.md` states the bounds.
"""

import asyncio
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import timedelta

import pytest

from session_authority import AsyncSessionClient, Identity
from session_authority.testing import Authority, authority
from session_authority_gateway.serving import serving
from session_authority_gateway.settings import load_gateway_settings
from tests.guarantees.surfaces import SURFACES, Addresses, Seen, Surfaces, live_app, live_service
from tests.guarantees.ways import ISSUER, LIFETIME, SESSION_LIMIT, WAYS
from tests.support.front_doors import PROXIES
from tests.support.in_thread import loop_thread
from tests.support.upstream import upstream
from tests.support.uvicorns import serving_app

# An open connection learns of an expiry from a question that its client asks once a second.
STREAM_EXPIRY = timedelta(seconds=3)

pytestmark = pytest.mark.skipif(
    not all(PROXIES[name].is_installed() for name in ("nginx", "envoy")),
    reason="nginx or Envoy is not installed",
)


@dataclass(frozen=True)
class World:
    authority: Authority
    addresses: Addresses
    caches: Sequence[AsyncSessionClient]


@dataclass(frozen=True)
class Ended:
    """The end of one session.

    Attributes:
        acknowledged_at: When the ending was acknowledged, or when the session expired.
        bound_at: When the last cache had to stop accepting the session.
        seen: The times of each surface.
    """

    acknowledged_at: float
    bound_at: float
    seen: dict[str, Seen]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with ExitStack() as stack:
        running = stack.enter_context(authority(session_limit=SESSION_LIMIT))
        loop = stack.enter_context(loop_thread())
        site = stack.enter_context(loop.during(upstream()))
        clients = [AsyncSessionClient(running.address, near_cache=True) for _ in range(3)]
        for client in clients:
            stack.enter_context(loop.during(client))
        settings = load_gateway_settings(listen="127.0.0.1:0", grpc_listen="127.0.0.1:0")
        gateway = stack.enter_context(loop.during(serving(settings, client=clients[0])))
        envoy, nginx = (
            stack.enter_context(
                PROXIES[name].start(tmp_path_factory.mktemp(name), site, gateway, {})
            )
            for name in ("envoy", "nginx")
        )
        app = stack.enter_context(loop.during(serving_app(live_app(clients[1]))))
        service = stack.enter_context(loop.during(live_service(clients[2])))
        addresses = Addresses(running.address, envoy, nginx, app, service)
        yield World(running, addresses, clients)


def _ended(world: World, name: str) -> Ended:
    way, running = WAYS[name], world.authority
    lifetime = LIFETIME if name == "expiry" else None
    user_id = f"user of {name}"
    identity = Identity(ISSUER, subject=user_id, sid=user_id)
    new = running.sign_in(user_id, lifetime=lifetime, identity=identity)
    times: list[float] = []

    def end() -> None:
        effective = way.end(running, new)
        now = running.now  # first, so that a pause between the two moves the bound to a later time
        acknowledged = time.monotonic()
        after = way.at_most if effective is None else effective - now
        bound = acknowledged + after.total_seconds()
        times.extend((bound if name == "expiry" else acknowledged, bound))

    # A session that expires is used for many seconds, so use it less often.
    surfaces = Surfaces(world.addresses, new, pause_seconds=0.25 if lifetime else 0.02)
    asyncio.run(surfaces.use(world.caches, end))
    return Ended(times[0], times[1], dict(surfaces.seen))


@pytest.mark.parametrize("way", WAYS)
def test_no_surface_accepts_a_session_after_its_bound(world: World, way: str) -> None:
    outcome = _ended(world, way)
    for surface in SURFACES:
        bound = outcome.acknowledged_at if surface == "RPC" else outcome.bound_at
        if way == "expiry" and surface in ("gRPC stream", "WebSocket", "event stream"):
            bound += STREAM_EXPIRY.total_seconds()
        seen = outcome.seen[surface]
        assert seen.accepted_at <= bound, surface
        assert seen.refused_at > 0, surface
