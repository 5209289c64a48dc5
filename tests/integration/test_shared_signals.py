"""A server with its worker, as operators configure it, pushes security events."""

from pathlib import Path

import jwt
import pytest

from session_authority import AsyncSessionClient
from session_authority.v1 import session_event_service_pb2 as pb
from session_authority.v1.session_event_service_pb2_grpc import SessionEventServiceStub
from session_authority_server.app.event_transmitter import read_transmitter
from session_authority_server.app.process import CannotStart
from session_authority_server.app.serving import ServeOptions, serving
from session_authority_server.config import Settings
from session_authority_server.rpc.authentication import allow_every_call
from session_authority_workers import courier
from tests.support.receiver import Receiver
from tests.support.transmitter import EVENT_KEY, ISSUER, key_file
from tests.support.waiting import until

POSTGRESQL = "postgresql://localhost/authority"


def settings(folder: Path, **more: str) -> Settings:
    given = {
        "database_url": f"sqlite:///{folder}/sessions.sqlite",
        "listen": "127.0.0.1:0",
        "event_issuer": ISSUER,
        "event_signing_keys": str(key_file(folder)),
    }
    return Settings.model_validate(given | more)


async def test_a_configured_server_pushes_security_events(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(courier, "LOOK_SECONDS", 0.02)
    async with (
        Receiver().listening() as endpoint,
        serving(
            settings(tmp_path), ServeOptions(worker=True), authenticate=allow_every_call
        ) as served,
        AsyncSessionClient(served.address) as client,
        client.new_channel() as channel,
    ):
        authority = SessionEventServiceStub(channel)
        transmitter = await authority.GetEventTransmitter(pb.GetEventTransmitterRequest())
        delivery = pb.EventDelivery(push_url=endpoint.url, push_authorization="Bearer secret")
        created = await authority.CreateEventStream(pb.CreateEventStreamRequest(delivery=delivery))
        stream_id = created.stream.stream_id
        await authority.VerifyEventStream(pb.VerifyEventStreamRequest(stream_id=stream_id))
        await until(lambda: endpoint.received)
    [received] = endpoint.received
    assert received.headers["authorization"] == "Bearer secret"
    [key] = jwt.PyJWKSet.from_json(transmitter.jwks).keys
    claims = jwt.decode(received.body, key, ["RS256"], audience="receiver", issuer=ISSUER)
    assert claims["sub_id"]["id"] == stream_id


def test_a_server_without_security_events_has_no_transmitter(tmp_path: Path) -> None:
    assert read_transmitter(settings(tmp_path, event_issuer="", event_signing_keys="")) is None


def test_a_server_without_usable_keys_does_not_start(tmp_path: Path) -> None:
    missing = settings(tmp_path, event_signing_keys=str(tmp_path / "missing.pem"))
    with pytest.raises(CannotStart, match="SESSION_AUTHORITY_EVENT_SIGNING_KEYS"):
        read_transmitter(missing)


def test_servers_that_share_no_state_directory_need_an_event_key(tmp_path: Path) -> None:
    with pytest.raises(CannotStart, match="SESSION_AUTHORITY_EVENT_KEY"):
        read_transmitter(settings(tmp_path, database_url=POSTGRESQL))
    shared = settings(tmp_path, database_url=POSTGRESQL, event_key=EVENT_KEY.decode())
    transmitter = read_transmitter(shared)
    assert transmitter is not None
    assert transmitter.event_key == EVENT_KEY
