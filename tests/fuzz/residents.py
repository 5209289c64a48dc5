"""Sessions of every kind, so that requests can name existing ones."""

from collections.abc import Callable
from uuid import uuid4

import grpc
from google.protobuf.message import Message

from session_authority.v1 import session_service_pb2 as pb
from session_authority_server.domain import token as tokens
from session_authority_server.domain.token import Token
from tests.fuzz.answers import Answer
from tests.fuzz.messages import Known
from tests.support.api import RPCS, Rpc

Call = Callable[[Rpc, bytes], Answer]
_BY_NAME = {rpc.method: rpc for rpc in RPCS}
# These calls end sessions that later requests need.
_DESTRUCTIVE = frozenset(
    name for name in _BY_NAME if name.startswith(("Revoke", "SignOut", "Erase"))
)
_STALE_AFTER = 20


class Residents:
    """Live, ended and superseded sessions of several users and an operator, and tokens that are almost correct."""

    def __init__(self, call: Call) -> None:
        self._call = call
        self._uses = 0
        self.known = Known()
        self.renew()

    def used(self, rpc: Rpc, answer: Answer) -> None:
        """Count a call. After some calls, replace the sessions, since calls may have ended them."""
        if answer.code is grpc.StatusCode.OK and rpc.method in _DESTRUCTIVE:
            self._uses += 1
            if rpc.method == "RevokeAllSessions" or self._uses >= _STALE_AFTER:
                self.renew()

    def renew(self) -> None:
        """Sign all users in again."""
        self._uses = 0
        mine, lost, superseded = (self._sign_in("ada") for _ in range(3))
        bobs = self._sign_in("bob")
        acted = self._sign_in("ada", actor_id="support")
        self._ask("SignOut", pb.SignOutRequest(session_token=lost.session_token))
        renewed = pb.ReauthenticateSessionResponse.FromString(
            self._ask(
                "ReauthenticateSession",
                pb.ReauthenticateSessionRequest(session_token=superseded.session_token),
            )
        )
        page = pb.ListSessionsResponse.FromString(
            self._ask(
                "ListSessions",
                pb.ListSessionsRequest(session_token=mine.session_token, page_size=1),
            )
        )
        opens = tokens.parse(mine.session_token)
        assert opens is not None
        known = {
            "session_token": [
                mine.session_token,
                mine.session_token,
                bobs.session_token,
                acted.session_token,
                lost.session_token,
                superseded.session_token,
                renewed.session_token,
                Token(opens.id, bytes(32)).encode(),
                Token(uuid4(), opens.secret).encode(),
            ],
            "session_id": [each.session.session_id for each in (mine, bobs, lost, superseded)]
            + [str(uuid4()), mine.session.session_id.upper()],
            "user_id": ["ada", "bob", "unknown"],
            "page_token": ["", page.next_page_token],
            "created_by_key": [str(uuid4())],
        }
        self.known.values |= {
            name: [value.encode() for value in values] for name, values in known.items()
        }

    def _sign_in(self, user_id: str, actor_id: str = "") -> pb.CreateSessionResponse:
        request = pb.CreateSessionRequest(user_id=user_id, actor_id=actor_id)
        return pb.CreateSessionResponse.FromString(self._ask("CreateSession", request))

    def _ask(self, method: str, request: Message) -> bytes:
        answer = self._call(_BY_NAME[method], request.SerializeToString())
        assert answer.code is grpc.StatusCode.OK, answer
        return answer.body
