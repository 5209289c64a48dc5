"""Proxies that terminate TLS in front of the native host, configured as in `docs/operate/tls.md`."""

import asyncio
from collections.abc import AsyncIterator, Iterator

import grpc
import pytest

from session_authority import AsyncSessionClient, SessionClient, SessionNotLive
from session_authority.v1 import session_service_pb2 as pb
from session_authority.v1 import session_watch_service_pb2 as watch_pb
from session_authority.v1.session_service_pb2_grpc import SessionServiceStub
from session_authority.v1.session_watch_service_pb2_grpc import SessionWatchServiceStub
from tests.support import proxies
from tests.support.certificates import TestAuthority
from tests.support.program import serving

_SECONDS = 20.0


class Proxied:
    """A server behind a proxy."""

    def __init__(self, address: str, roots: bytes) -> None:
        self.address = address
        self.roots = roots

    def client(self) -> SessionClient:
        return SessionClient(self.address, root_certificates=self.roots, deadline_seconds=_SECONDS)

    def aclient(self) -> AsyncSessionClient:
        return AsyncSessionClient(
            self.address, root_certificates=self.roots, deadline_seconds=_SECONDS, batching=False
        )

    @property
    def credentials(self) -> grpc.ChannelCredentials:
        return grpc.ssl_channel_credentials(self.roots)


@pytest.fixture(scope="module", params=proxies.NAMES)
def proxied(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Proxied]:
    name: str = request.param
    if proxies.program(name) is None:
        pytest.skip(f"{name} is not installed")
    folder = tmp_path_factory.mktemp(name)
    authority = TestAuthority(folder)
    with serving(folder, settings={"SESSION_AUTHORITY_HOST": "native"}) as program:
        assert "native host" in program.stdout
        with proxies.proxy(name, folder, program.address, authority.pair()) as (address, _):
            yield Proxied(address, authority.certificate.read_bytes())
        assert "Traceback" not in program.stderr


def test_calls_are_answered_through_the_proxy(proxied: Proxied) -> None:
    with proxied.client() as client:
        new = client.create("ada")
        session = client.validate(new.token)
        assert session
        assert session.session_id == new.session.session_id
        client.sign_out(new.token)
        assert not client.validate(new.token)


def test_an_error_keeps_its_reason_through_the_proxy(proxied: Proxied) -> None:
    with proxied.client() as client, pytest.raises(SessionNotLive) as caught:
        client.list("ses_unknown")
    assert caught.value.reason == "SESSION_NOT_LIVE"


def test_the_largest_batch_passes_the_proxy(proxied: Proxied) -> None:
    batch = pb.BatchValidateSessionsRequest(
        requests=[pb.ValidateSessionRequest(session_token="x" * 1_040) for _ in range(1_000)]
    )
    assert 2**20 - 10_000 < batch.ByteSize() <= 2**20
    with grpc.secure_channel(proxied.address, proxied.credentials) as channel:
        answer = SessionServiceStub(channel).BatchValidateSessions(batch, timeout=_SECONDS)
    assert len(answer.responses) == 1_000


async def test_hundreds_of_calls_pass_the_proxy_at_once(proxied: Proxied) -> None:
    async with proxied.aclient() as client:
        new = await client.create("grace")
        answers = await asyncio.gather(*(client.validate(new.token) for _ in range(500)))
    assert all(answers)


async def test_a_stream_gets_an_ending_through_the_proxy(proxied: Proxied) -> None:
    async with (
        proxied.aclient() as client,
        grpc.aio.secure_channel(proxied.address, proxied.credentials) as channel,
        asyncio.timeout(_SECONDS),
    ):
        new = await client.create("joan")

        async def pings() -> AsyncIterator[watch_pb.WatchSessionsRequest]:
            for number in range(1, 1_000):
                yield watch_pb.WatchSessionsRequest(ping=watch_pb.Ping(ping_id=number))
                await asyncio.sleep(0.1)

        ended = None
        async for response in SessionWatchServiceStub(channel).WatchSessions(pings()):
            if response.HasField("pong") and ended is None:
                ended = await client.sign_out(new.token)
            if new.session.session_id in response.evict.session_ids:
                break
        else:
            pytest.fail("the stream ended")
