"""The check for leaked secrets after each test in this folder."""

from uuid import uuid4

import grpc
import pytest

from session_authority import AsyncSessionClient, InvalidArgument, SessionNotFound
from session_authority.v1 import session_service_pb2 as pb
from session_authority_server.domain import token as tokens
from tests.support.authority import Authority
from tests.support.leaks import Capture

SPEAKING = {"answers", "exceptions", "logs", "received errors", "reprs", "structlog"}
FILES = {"sessions.sqlite", "sessions.sqlite-wal", "audit"}


async def test_the_check_reads_every_place_and_knows_every_secret(
    authority: Authority, client: AsyncSessionClient, capture: Capture
) -> None:
    new = await client.create("ada")
    renewed = await client.reauthenticate(new.token)
    retry_secret = uuid4().bytes * 2
    other = await authority.stub.CreateSession(
        pb.CreateSessionRequest(user_id="ada", retry_secret=retry_secret)
    )
    with pytest.raises(SessionNotFound):
        await client.revoke(renewed.token, str(uuid4()))
    with pytest.raises(InvalidArgument):
        await client.create("ada", ip_address="somewhere")
    with pytest.raises(grpc.RpcError):
        await authority.stub.ListSessions(pb.ListSessionsRequest(session_token="x"))
    authority.audited()

    capture.read_files(authority.path.parent, "meanwhile")
    assert capture.leaks() == []
    assert capture.places >= SPEAKING
    assert {f"{name} meanwhile" for name in FILES} <= capture.places
    for text, prefix in (
        (new.token.reveal(), "ses_"),
        (renewed.token.reveal(), "ses_"),
        (other.session_token, "ses_"),
        (authority.key, "sak_"),
    ):
        token = tokens.parse(text, prefix)
        assert token is not None
        assert capture.secrets.found_in(text.encode())
        assert capture.secrets.found_in(token.secret)
    assert capture.secrets.found_in(retry_secret)
