"""The calls that each permission of an API key allows."""

import asyncio
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import grpc
import pytest
from google.rpc.error_details_pb2 import ErrorInfo

from session_authority import SessionClient
from session_authority.v1 import session_admin_service_pb2 as admin_pb
from session_authority.v1 import session_event_service_pb2 as event_pb
from session_authority.v1 import session_service_pb2 as pb
from session_authority.v1 import session_watch_service_pb2 as watch_pb
from session_authority.v1.session_service_pb2_grpc import SessionServiceStub
from session_authority_server.domain import token as tokens
from session_authority_server.domain.api_key import Permission
from session_authority_server.domain.clock import SystemClock
from session_authority_server.domain.token import Token
from session_authority_server.rpc.authentication import PERMISSIONS
from session_authority_server.store.database import Database
from session_authority_server.store.keys import SqlKeyStore
from session_authority_server.usecases.api_keys import ApiKeys
from tests.support.api import RPCS, Rpc, served_by
from tests.support.program import DATABASE, Program, development_key_in, serving
from tests.support.status import details_of
from tests.support.waiting import wait_until

SERVICE = "/session_authority.v1.SessionService/"
ADMIN_SERVICE = "/session_authority.v1.SessionAdminService/"
EVENT_SERVICE = "/session_authority.v1.SessionEventService/"
WATCH_SERVICE = "/session_authority.v1.SessionWatchService/"
Answer = tuple[str, str, dict[str, str]]
Requests = dict[str, Callable[[pb.CreateSessionResponse], Any]]


REQUESTS: Requests = {
    "CreateSession": lambda _: pb.CreateSessionRequest(user_id="ada"),
    "ReauthenticateSession": lambda new: pb.ReauthenticateSessionRequest(
        session_token=new.session_token
    ),
    "ValidateSession": lambda new: pb.ValidateSessionRequest(session_token=new.session_token),
    "BatchValidateSessions": lambda new: pb.BatchValidateSessionsRequest(
        requests=[pb.ValidateSessionRequest(session_token=new.session_token)]
    ),
    "ListSessions": lambda new: pb.ListSessionsRequest(session_token=new.session_token),
    "RevokeSession": lambda new: pb.RevokeSessionRequest(
        session_token=new.session_token, session_id=new.session.session_id
    ),
    "RevokeOtherSessions": lambda new: pb.RevokeOtherSessionsRequest(
        session_token=new.session_token
    ),
    "SignOut": lambda new: pb.SignOutRequest(session_token=new.session_token),
    "NameSession": lambda new: pb.NameSessionRequest(
        session_token=new.session_token, session_id=new.session.session_id
    ),
}


ADMIN_REQUESTS: Requests = {
    "RevokeUserSessions": lambda _: admin_pb.RevokeUserSessionsRequest(user_id="bob"),
    "RevokeAllSessions": lambda _: admin_pb.RevokeAllSessionsRequest(),
    "RevokeOneSession": lambda new: admin_pb.RevokeOneSessionRequest(
        session_id=new.session.session_id
    ),
    "RevokeKeySessions": lambda _: admin_pb.RevokeKeySessionsRequest(
        created_by_key=str(UUID(int=7))
    ),
    "RevokeIdentitySessions": lambda _: admin_pb.RevokeIdentitySessionsRequest(
        issuer="https://idp.example.com", subject="bob"
    ),
    "EraseUser": lambda _: admin_pb.EraseUserRequest(user_id="bob"),
}


# This server sends no security events, so it refuses these calls after the check of the key.
EVENT_REQUESTS: Requests = {
    "GetEventTransmitter": lambda _: event_pb.GetEventTransmitterRequest(),
    "CreateEventStream": lambda _: event_pb.CreateEventStreamRequest(),
    "GetEventStream": lambda _: event_pb.GetEventStreamRequest(),
    "UpdateEventStream": lambda _: event_pb.UpdateEventStreamRequest(),
    "DeleteEventStream": lambda _: event_pb.DeleteEventStreamRequest(),
    "SetEventStreamStatus": lambda _: event_pb.SetEventStreamStatusRequest(
        status=event_pb.EVENT_STREAM_STATUS_PAUSED
    ),
    "VerifyEventStream": lambda _: event_pb.VerifyEventStreamRequest(),
    "PollEventStream": lambda _: event_pb.PollEventStreamRequest(),
}


WATCH_REQUESTS: Requests = {
    "WatchSessions": lambda _: watch_pb.WatchSessionsRequest(ping=watch_pb.Ping(ping_id=7)),
}


METHODS: Requests = {
    **{SERVICE + name: request for name, request in REQUESTS.items()},
    **{ADMIN_SERVICE + name: request for name, request in ADMIN_REQUESTS.items()},
    **{WATCH_SERVICE + name: request for name, request in WATCH_REQUESTS.items()},
    **{EVENT_SERVICE + name: request for name, request in EVENT_REQUESTS.items()},
}


DOCUMENTED = Path(__file__).parents[2] / "docs" / "operate" / "keys.md"


@dataclass(frozen=True)
class Keys:
    """Keys of every kind that have the same permission."""

    good: str
    expired: str
    revoked: str


@dataclass(frozen=True)
class Guarded:
    """A server that requires keys, and a channel to it."""

    program: Program
    channel: grpc.Channel
    development: str
    keys: dict[Permission, Keys]

    def call(self, rpc: Rpc | str, request: bytes, *headers: str) -> Answer:
        """Make a call and return its status code. If it failed, also return its reason and metadata."""
        metadata = tuple(("authorization", header) for header in headers)
        if isinstance(rpc, str):
            [rpc] = [each for each in RPCS if each.path == rpc]
        try:
            rpc.call(self.channel, request, metadata=metadata, timeout=60)
        except grpc.RpcError as error:
            return _answer_of(error)
        return "OK", "", {}

    def wait_until_revoked(self, key: str) -> None:
        """Wait until the server has read a revocation, and so every earlier change."""
        asked = pb.CreateSessionRequest(user_id="ada").SerializeToString()
        create = SERVICE + "CreateSession"
        wait_until(lambda: self.call(create, asked, f"Bearer {key}")[1] == "API_KEY_REVOKED")

    def sign_in(self) -> pb.CreateSessionResponse:
        return SessionServiceStub(self.channel).CreateSession(
            pb.CreateSessionRequest(user_id="ada"),
            metadata=(("authorization", f"Bearer {self.development}"),),
            timeout=60,
        )


def _answer_of(error: Any) -> Answer:
    info = details_of(error, ErrorInfo)
    return error.code().name, info.reason, dict(info.metadata)


async def _make_keys(path: Path) -> dict[Permission, Keys]:
    database, clock = Database.sqlite(path), SystemClock()
    api_keys = ApiKeys(SqlKeyStore(database), clock)
    made = {}
    for permission in Permission:
        granted = frozenset([permission])
        _, good = await api_keys.create(permission.value, granted)
        _, expired = await api_keys.create("expired", granted, timedelta.resolution)
        key, revoked = await api_keys.create("revoked", granted)
        await api_keys.revoke(key.key_id)
        made[permission] = Keys(good, expired, revoked)
    await database.close()
    return made


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    folder = tmp_path_factory.mktemp("guarded")
    with serving(folder, asking_for_keys=True) as program:
        keys = asyncio.run(_make_keys(folder / DATABASE))
        with grpc.insecure_channel(program.address) as channel:
            made = Guarded(program, channel, development_key_in(folder), keys)
            made.wait_until_revoked([*keys.values()][-1].revoked)
            yield made
        assert "Traceback" not in program.stderr


def _bad_headers(keys: Keys) -> dict[str, list[str]]:
    parsed = tokens.parse(keys.good, "sak_")
    assert parsed is not None
    return {
        "API_KEY_MISSING": [],
        "API_KEY_INVALID": [
            "",
            keys.good,
            "Bearer",
            f"Basic {keys.good}",
            f"Bearer {keys.good[:-1]}",
            f"Bearer {keys.good}x",
            f"Bearer ses_{keys.good[4:]}",
            "Bearer " + tokens.mint(SystemClock().now()).encode("sak_"),
            "Bearer " + Token(parsed.id, b"\0" * 32).encode("sak_"),
        ],
        "API_KEY_EXPIRED": [f"Bearer {keys.expired}"],
        "API_KEY_REVOKED": [f"Bearer {keys.revoked}"],
    }


def _documented_permissions() -> dict[str, str]:
    """Return the documented permission of each method."""
    _, _, after = DOCUMENTED.read_text().partition("| permission | methods |")
    table, _, _ = after.partition("\n\n")
    rows = re.findall(r"(?m)^\| `(\w+)` \| ([\w, ]+) \|", table)
    return {method: permission for permission, methods in rows for method in methods.split(", ")}


def test_every_rpc_is_in_the_matrix_and_in_the_documented_table() -> None:
    assert METHODS.keys() == {rpc.path for rpc in RPCS}
    assert PERMISSIONS.keys() == METHODS.keys(), "a permission for what is no method"
    assert _documented_permissions() == {rpc.method: PERMISSIONS[rpc.path].value for rpc in RPCS}


@pytest.mark.parametrize("permission", Permission)
@pytest.mark.parametrize("rpc", RPCS, ids=str)
def test_every_rpc_answers_every_key_as_documented(
    guarded: Guarded, rpc: Rpc, permission: Permission
) -> None:
    keys = guarded.keys[permission]
    request = METHODS[rpc.path](guarded.sign_in()).SerializeToString()
    if rpc.service not in served_by(guarded.channel):
        for header in (f"Bearer {keys.good}", f"Bearer {guarded.development}"):
            assert guarded.call(rpc, request, header) == ("UNIMPLEMENTED", "", {})
        return

    for reason, headers in _bad_headers(keys).items():
        for given in [[header] for header in headers] or [[]]:
            answer = guarded.call(rpc, request, *given)
            assert answer == ("UNAUTHENTICATED", reason, {}), given
            # The server refuses the call before it parses the request, so the request may be invalid.
            assert guarded.call(rpc, b"\xff", *given) == answer
    twice = guarded.call(rpc, request, *[f"Bearer {keys.good}"] * 2)
    assert twice == ("UNAUTHENTICATED", "API_KEY_INVALID", {})

    needed = _documented_permissions()[rpc.method]
    answer = guarded.call(rpc, request, f"Bearer {keys.good}")
    if needed == permission.value:
        off: Answer = ("FAILED_PRECONDITION", "EVENT_STREAMS_OFF", {})
        assert answer == (off if rpc.path.startswith(EVENT_SERVICE) else ("OK", "", {}))
    else:
        assert answer == ("PERMISSION_DENIED", "PERMISSION_MISSING", {"permission": needed})


def test_a_refused_call_changes_nothing(guarded: Guarded) -> None:
    new = guarded.sign_in()
    request = pb.SignOutRequest(session_token=new.session_token).SerializeToString()
    for keys in (guarded.keys[Permission.VALIDATE], guarded.keys[Permission.MANAGE]):
        for header in (keys.expired, keys.revoked):
            guarded.call(SERVICE + "SignOut", request, f"Bearer {header}")
    guarded.call(SERVICE + "SignOut", request, f"Bearer {guarded.keys[Permission.VALIDATE].good}")
    with SessionClient(guarded.program.address, api_key=guarded.development) as client:
        assert client.validate(new.session_token)


def test_health_and_reflection_need_no_key(guarded: Guarded) -> None:
    check: Any = guarded.channel.unary_unary("/grpc.health.v1.Health/Check")
    assert check(b"", timeout=60) == b"\x08\x01"
    for version in ("v1", "v1alpha"):
        reflect: Any = guarded.channel.stream_stream(
            f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo"
        )
        assert b"SessionService" in next(reflect(iter([b"\x3a\x00"]), timeout=60))
