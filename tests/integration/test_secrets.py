"""Tokens and retry secrets reach only the callers that received them."""

import secrets
from pathlib import Path
from typing import Any

import grpc
import pytest

from session_authority import SessionClient
from session_authority.v1 import session_service_pb2 as pb
from session_authority.v1.session_service_pb2_grpc import SessionServiceStub
from session_authority_server.domain import token as tokens
from session_authority_server.domain.retry import Attempt
from session_authority_server.usecases.create_session import SignIn
from session_authority_server.usecases.list_sessions import Listing
from session_authority_server.usecases.reauthenticate_session import Reauthentication
from session_authority_server.usecases.validate_sessions import Validation
from tests.support.authority import NOON, a_session
from tests.support.leaks import Secrets, spellings
from tests.support.program import serving


class _Life:
    """Make every call in the life of a session, with every kind of failure. Record what the caller receives."""

    def __init__(self, address: str) -> None:
        self.tokens: list[str] = []
        self.retry_secrets: list[bytes] = []
        self.errors: list[str] = []
        with grpc.insecure_channel(address) as channel:
            self._live(SessionServiceStub(channel))

    def _live(self, stub: SessionServiceStub) -> None:
        mine, lost, other = [self._sign_in(stub, "ada") for _ in range(3)]
        bobs = self._sign_in(stub, "bob")
        for token in (mine.session_token, lost.session_token):
            stub.ValidateSession(pb.ValidateSessionRequest(session_token=token, user_id="bob"))
            stub.ValidateSession(pb.ValidateSessionRequest(session_token=token))
        stub.ListSessions(pb.ListSessionsRequest(session_token=mine.session_token, page_size=1))
        stub.RevokeSession(
            pb.RevokeSessionRequest(
                session_token=mine.session_token, session_id=lost.session.session_id
            )
        )
        renewal = pb.ReauthenticateSessionRequest(
            session_token=mine.session_token, retry_secret=self._retry_secret()
        )
        renewed = stub.ReauthenticateSession(renewal)
        self.tokens.append(renewed.session_token)
        assert stub.ReauthenticateSession(renewal) == renewed
        stub.RevokeOtherSessions(pb.RevokeOtherSessionsRequest(session_token=renewed.session_token))
        stub.SignOut(pb.SignOutRequest(session_token=other.session_token))
        self._put_secrets_in_wrong_fields(stub, renewed.session_token, bobs.session_token)

    def _sign_in(self, stub: SessionServiceStub, user_id: str) -> pb.CreateSessionResponse:
        request = pb.CreateSessionRequest(user_id=user_id, retry_secret=self._retry_secret())
        answer = stub.CreateSession(request)
        assert stub.CreateSession(request) == answer
        self.tokens.append(answer.session_token)
        return answer

    def _retry_secret(self) -> bytes:
        self.retry_secrets.append(secrets.token_bytes(32))
        return self.retry_secrets[-1]

    def _put_secrets_in_wrong_fields(self, stub: SessionServiceStub, token: str, bobs: str) -> None:
        """Make calls with secrets in wrong fields."""
        bad: list[tuple[Any, Any]] = [
            (stub.RevokeSession, pb.RevokeSessionRequest(session_token=token, session_id=bobs)),
            (stub.RevokeSession, pb.RevokeSessionRequest(session_token=self.tokens[0])),
            (stub.ListSessions, pb.ListSessionsRequest(session_token=token, page_token=bobs)),
            (stub.ListSessions, pb.ListSessionsRequest(session_token=bobs[:-1] + "!")),
            (stub.ValidateSession, pb.ValidateSessionRequest(session_token=bobs, ip_address=token)),
            (stub.CreateSession, pb.CreateSessionRequest(user_id="x", ip_address=token)),
            (stub.CreateSession, pb.CreateSessionRequest(user_id=token * 4)),
            (
                stub.CreateSession,
                pb.CreateSessionRequest(user_id="x", authentication_methods=[token]),
            ),
            (
                stub.CreateSession,
                pb.CreateSessionRequest(user_id="x", attributes={token: "", "k": "\0" + token}),
            ),
            (
                stub.CreateSession,
                pb.CreateSessionRequest(user_id="x", retry_secret=self.retry_secrets[0]),
            ),
            (
                stub.CreateSession,
                pb.CreateSessionRequest(user_id="x", retry_secret=self.retry_secrets[0][:31]),
            ),
            (stub.SignOut, pb.SignOutRequest(session_token=token * 1_000)),
        ]
        for call, request in bad:
            with pytest.raises(grpc.RpcError) as caught:
                call(request)
            error: Any = caught.value
            self.errors += [error.details(), repr(error.trailing_metadata())]


def _contents(folder: Path) -> dict[str, bytes]:
    """Return the files of the database, with those of its state directory."""
    files = filter(Path.is_file, folder.rglob("*"))
    return {path.name: path.read_bytes() for path in files if ".sqlite" in str(path)}


def test_no_secret_reaches_the_output_the_file_or_an_error(tmp_path: Path) -> None:
    settings = {"SESSION_AUTHORITY_LOG_LEVEL": "debug"}
    with serving(tmp_path, settings=settings) as server:
        life = _Life(server.address)
        files = _contents(tmp_path)
        assert server.stop() == 0
        files |= {f"{name} later": content for name, content in _contents(tmp_path).items()}
        out, err = server.stdout, server.stderr

    assert {"session-authority.sqlite", "session-authority.sqlite-wal"} <= set(files)
    assert "call refused" in err
    haystacks = {"stdout": out.encode(), "stderr": err.encode()} | files
    haystacks["errors"] = "\n".join(life.errors).encode()
    assert any(b"ada" in content for content in files.values()), "the files were really read"
    hidden = Secrets()
    for parsed in map(tokens.parse, life.tokens):
        assert parsed is not None
        hidden.add_token(parsed)
    for secret in life.retry_secrets:
        assert hidden.add(secret)
    for name, content in haystacks.items():
        assert hidden.found_in(content) == [], name


def test_no_repr_contains_a_secret() -> None:
    session, token = a_session("ada", NOON)
    parsed = tokens.parse(token)
    assert parsed is not None
    retry_secret = secrets.token_bytes(32)
    attempt = Attempt("create", "", "ada", retry_secret, [token])
    holders: list[object] = [
        session,
        parsed,
        attempt,
        attempt.answered(session.session_id, retry_secret, NOON),
        SignIn(user_id="ada", retry_secret=retry_secret),
        Listing(session_token=token),
        Validation(token),
        Reauthentication(session_token=token, retry_secret=retry_secret),
        Attempt("reauthenticate", "", token, retry_secret, []),
    ]
    for holder in holders:
        for shown in (repr(holder), str(holder)):
            assert token not in shown
            for secret in (parsed.secret, retry_secret, session.secret_hash):
                for form in spellings(secret):
                    assert form.decode("latin-1") not in shown


def test_the_client_shows_no_secret(server: Any) -> None:
    with SessionClient(server.address, api_key="sak_very-secret") as client:
        new = client.create("ada")
        shown = f"{client!r} {client} {new!r} {new} {new.token} {new.session!r}"
        outcome = client.validate(new.token.reveal() + "x")
    assert new.token.reveal() not in shown + repr(outcome)
    assert "very-secret" not in shown
