"""API keys as callers and operators meet them: real servers, real sockets, the real command."""

import asyncio
import json
import re
import sqlite3
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import grpc
import psycopg
import pytest
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status

from session_authority import ApiKeyRejected, SessionClient, Unavailable
from session_authority.v1 import session_admin_service_pb2 as admin_pb
from session_authority.v1 import session_service_pb2 as pb
from session_authority.v1 import session_watch_service_pb2 as watch_pb
from session_authority.v1.session_service_pb2_grpc import SessionServiceStub
from session_authority_server.app import development_key
from session_authority_server.domain import token as tokens
from session_authority_server.domain.api_key import Permission
from session_authority_server.domain.clock import SystemClock
from session_authority_server.domain.token import Token
from session_authority_server.rpc.authentication import PERMISSIONS
from session_authority_server.store.database import Database
from session_authority_server.store.sql_key_store import SqlKeyStore
from session_authority_server.usecases.api_keys import ApiKeys
from tests.support.api import RPCS, Rpc, served_by
from tests.support.engines import migrated_postgresql
from tests.support.program import Program, run, running, serving

SERVICE = "/session_authority.v1.SessionService/"
ADMIN_SERVICE = "/session_authority.v1.SessionAdminService/"
WATCH_SERVICE = "/session_authority.v1.SessionWatchService/"
DATABASE = "session-authority.sqlite"
# A server follows within this; the rest is for a machine that is busy with other tests.
FOLLOWS_SECONDS = 1.0

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
    "EraseUser": lambda _: admin_pb.EraseUserRequest(user_id="bob"),
}
WATCH_REQUESTS: Requests = {
    "WatchSessions": lambda _: watch_pb.WatchSessionsRequest(ping=watch_pb.Ping(ping_id=7)),
}
METHODS: Requests = {
    **{SERVICE + name: request for name, request in REQUESTS.items()},
    **{ADMIN_SERVICE + name: request for name, request in ADMIN_REQUESTS.items()},
    **{WATCH_SERVICE + name: request for name, request in WATCH_REQUESTS.items()},
}
DOCUMENTED = Path(__file__).parents[2] / "docs" / "api-keys.md"


@dataclass(frozen=True)
class Keys:
    """One key of each kind, all with one permission."""

    good: str
    expired: str
    revoked: str


@dataclass(frozen=True)
class Guarded:
    """A server that asks for keys, and a way to call it."""

    program: Program
    channel: grpc.Channel
    development: str
    keys: dict[Permission, Keys]

    def call(self, rpc: Rpc | str, request: bytes, *headers: str) -> Answer:
        """Make a call and return its code, and reason and metadata if it failed."""
        metadata = tuple(("authorization", header) for header in headers)
        if isinstance(rpc, str):
            [rpc] = [each for each in RPCS if each.path == rpc]
        try:
            rpc.call(self.channel, request, metadata=metadata, timeout=60)
        except grpc.RpcError as error:
            return _told(error)
        return "OK", "", {}

    def sign_in(self) -> pb.CreateSessionResponse:
        return SessionServiceStub(self.channel).CreateSession(
            pb.CreateSessionRequest(user_id="ada"),
            metadata=(("authorization", f"Bearer {self.development}"),),
            timeout=60,
        )


def _told(error: Any) -> Answer:
    values = [value for key, value in error.trailing_metadata() if key == "grpc-status-details-bin"]
    if not values:
        return error.code().name, "", {}
    info, [value] = ErrorInfo(), values
    assert Status.FromString(value).details[0].Unpack(info)
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
        time.sleep(FOLLOWS_SECONDS)
        with grpc.insecure_channel(program.address) as channel:
            yield Guarded(program, channel, _development_key(folder), keys)
        assert "Traceback" not in program.stderr


def _development_key(folder: Path) -> str:
    return development_key.key_file(folder / DATABASE).read_text().strip()


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
    """Return what the table says that each method needs."""
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
            # Refused before anything is read: what is sent may be garbage.
            assert guarded.call(rpc, b"\xff", *given) == answer
    twice = guarded.call(rpc, request, *[f"Bearer {keys.good}"] * 2)
    assert twice == ("UNAUTHENTICATED", "API_KEY_INVALID", {})

    needed = _documented_permissions()[rpc.method]
    answer = guarded.call(rpc, request, f"Bearer {keys.good}")
    if needed == permission.value:
        assert answer == ("OK", "", {})
    else:
        assert answer == ("PERMISSION_DENIED", "PERMISSION_MISSING", {"permission": needed})


def test_who_is_refused_changes_nothing(guarded: Guarded) -> None:
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
    reflect: Any = guarded.channel.stream_stream(
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
    )
    assert b"SessionService" in next(reflect(iter([b"\x3a\x00"]), timeout=60))


def test_each_session_says_which_key_made_it(tmp_path: Path) -> None:
    with serving(tmp_path, asking_for_keys=True) as program:
        key = _development_key(tmp_path)
        with SessionClient(program.address, api_key=key) as client:
            new = client.create("ada")
            client.reauthenticate(new.token)
    parsed = tokens.parse(key, "sak_")
    assert parsed is not None
    with closing(sqlite3.connect(tmp_path / DATABASE)) as connection:
        assert connection.execute("SELECT created_by FROM sessions").fetchall() == [
            (str(parsed.id),)
        ]


def test_one_callers_attempt_is_not_anothers_to_repeat(guarded: Guarded, tmp_path: Path) -> None:
    secret = b"r" * 32
    creator = guarded.keys[Permission.CREATE].good
    with ExitStack() as stack:
        one, other = [
            stack.enter_context(SessionClient(guarded.program.address, api_key=key))
            for key in (guarded.development, creator)
        ]
        new = one.create("ada", retry_secret=secret)
        assert one.create("ada", retry_secret=secret).token.reveal() == new.token.reveal()
        assert other.create("ada", retry_secret=secret).token.reveal() != new.token.reveal()


def test_the_first_server_of_a_file_makes_a_key_and_shows_it_once(tmp_path: Path) -> None:
    with serving(tmp_path, asking_for_keys=True) as first:
        key = first.wait_for(r"(?m)^export SESSION_AUTHORITY_API_KEY=(sak_\w+)$")
        file = tmp_path / f"{DATABASE}.key"
        assert file.read_text() == f"{key}\n"
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        with SessionClient(first.address, api_key=key) as client:
            assert client.validate(client.create("ada").token)
        assert key not in first.stderr
        assert first.stop() == 0
    with serving(tmp_path, asking_for_keys=True) as second:
        with SessionClient(second.address, api_key=key) as client:
            client.create("ada")
        assert "sak_" not in second.stdout
        assert file.read_text() == f"{key}\n"


def test_an_insecure_server_makes_no_key_and_warns(tmp_path: Path) -> None:
    with serving(tmp_path, "--insecure") as program, SessionClient(program.address) as client:
        client.create("ada")
        assert "sak_" not in program.stdout
        assert "anybody who gets here may do everything" in program.stderr
    assert not (tmp_path / f"{DATABASE}.key").exists()


def test_keys_are_made_listed_rotated_and_revoked_beside_a_running_server(tmp_path: Path) -> None:
    with serving(tmp_path, asking_for_keys=True) as program:
        made = run(
            *("keys", "create", "shop", "--permission", "create", "--permission", "validate"),
            *("--expires-in", "90d"),
            cwd=tmp_path,
        )
        assert re.fullmatch(r"sak_\w{70}\n", made.stdout)
        assert "shop" in made.stderr
        key = made.stdout.strip()
        _wait_until_accepted(program.address, key)

        [listed] = [each for each in _listed(tmp_path) if each["name"] == "shop"]
        assert listed["state"] == "active"
        assert listed["permissions"] == ["create", "validate"]
        table = run("keys", "list", cwd=tmp_path).stdout
        assert f"{listed['key_id']}" in table
        assert "create, validate" in table

        rotated = run("keys", "rotate", listed["key_id"], "--overlap", "2s", cwd=tmp_path)
        successor = rotated.stdout.strip()
        assert successor not in {key, ""}
        _wait_until_accepted(program.address, successor)
        _wait_until_refused(program.address, key, "API_KEY_EXPIRED", seconds=20)
        states = {each["key_id"]: each["state"] for each in _listed(tmp_path)}
        assert states[listed["key_id"]] == "expired"

        [new_id] = [
            each["key_id"]
            for each in _listed(tmp_path)
            if each["name"] == "shop" and each["state"] == "active"
        ]
        assert run("keys", "revoke", new_id, cwd=tmp_path).returncode == 0
        _wait_until_refused(program.address, successor, "API_KEY_REVOKED", FOLLOWS_SECONDS)
        for shown in (table, json.dumps(_listed(tmp_path)), program.stdout, program.stderr):
            assert key[4:] not in shown
            assert successor[4:] not in shown
        assert "Traceback" not in program.stderr
    for file in tmp_path.glob(f"{DATABASE}*"):
        if not file.name.endswith(".key"):
            for each in (key, successor, _development_key(tmp_path)):
                parsed = tokens.parse(each, "sak_")
                assert parsed is not None
                assert parsed.secret not in file.read_bytes()
                assert each[4:].encode() not in file.read_bytes()


def test_mistakes_at_the_command_line_are_told_without_repeating_a_key(tmp_path: Path) -> None:
    run("migrate", cwd=tmp_path)
    made = run("keys", "create", "shop", "--permission", "watch", cwd=tmp_path).stdout.strip()
    unknown = "01a20bb6-10fd-7ec2-b518-b8d7f4d74f97"
    for arguments, word in [
        (("revoke", made), "not the key"),
        (("revoke", unknown), f"there is no key {unknown}"),
        (("rotate", unknown), f"there is no key {unknown}"),
        (("expire", unknown), f"there is no key {unknown}"),
        (("create", made, "--permission", "watch"), "must not hold a key"),
        (("create", "x", "--permission", "watch", "--expires-in", "soon"), "such as 90d"),
        (("create", "x"), "--permission"),
    ]:
        done = run("keys", *arguments, cwd=tmp_path)
        assert done.returncode != 0
        assert done.stdout == ""
        assert word in done.stderr
        assert made not in done.stderr
        assert "Traceback" not in done.stderr
    [key] = _listed(tmp_path)
    assert run("keys", "expire", key["key_id"], cwd=tmp_path).returncode == 0
    assert "expired already" in run("keys", "rotate", key["key_id"], cwd=tmp_path).stderr


def test_every_server_follows_a_change_within_a_second(tmp_path: Path) -> None:
    with migrated_postgresql() as url, ExitStack() as stack:
        settings = {"SESSION_AUTHORITY_DATABASE_URL": url}
        servers = [
            stack.enter_context(serving(tmp_path, asking_for_keys=True, settings=settings))
            for _ in range(2)
        ]
        for server in servers:
            assert "session-authority keys create" in server.stderr
            assert "sak_" not in server.stdout
            with SessionClient(server.address) as client, pytest.raises(ApiKeyRejected) as caught:
                client.create("ada")
            assert "session-authority keys create" in str(caught.value)
        made = run("keys", "create", "x", "--permission", "create", cwd=tmp_path, settings=settings)
        key = made.stdout.strip()
        for server in servers:
            _wait_until_accepted(server.address, key)
        [listed] = _listed(tmp_path, settings)
        run("keys", "revoke", listed["key_id"], cwd=tmp_path, settings=settings)
        refused = time.monotonic() + FOLLOWS_SECONDS
        for server in servers:
            _wait_until_refused(
                server.address, key, "API_KEY_REVOKED", max(0.1, refused - time.monotonic())
            )
        with psycopg.connect(url) as connection:
            assert connection.execute("SELECT created_by FROM sessions LIMIT 1").fetchall() == [
                (listed["key_id"],)
            ]


def test_keys_that_can_not_be_read_are_believed_for_seconds_only(tmp_path: Path) -> None:
    with (
        serving(tmp_path, asking_for_keys=True) as program,
        SessionClient(
            program.address, api_key=_development_key(tmp_path), deadline_seconds=5
        ) as client,
        closing(sqlite3.connect(tmp_path / DATABASE, isolation_level=None)) as connection,
    ):
        new = client.create("ada")
        connection.execute("ALTER TABLE api_keys RENAME TO elsewhere")
        hidden = time.monotonic()
        assert client.validate(new.token), "for a moment nobody waits for the store"
        with pytest.raises(Unavailable, match=r"STORE_UNAVAILABLE: .* API keys"):
            _validate_for(client, new.token.reveal(), seconds=30)
        assert time.monotonic() - hidden > 3
        connection.execute("ALTER TABLE elsewhere RENAME TO api_keys")
        _wait_until_accepted(program.address, _development_key(tmp_path))
        assert client.validate(new.token)


def test_a_key_that_is_used_says_so(tmp_path: Path) -> None:
    with serving(tmp_path, asking_for_keys=True) as program:
        assert [each["last_used_time"] for each in _listed(tmp_path)] == [None]
        with SessionClient(program.address, api_key=_development_key(tmp_path)) as client:
            client.create("ada")
        give_up = time.monotonic() + 60
        while [each["last_used_time"] for each in _listed(tmp_path)] == [None]:
            assert time.monotonic() < give_up


def test_the_demonstration_uses_the_key_beside_its_file(tmp_path: Path) -> None:
    settings = {"SESSION_AUTHORITY_API_KEY": tokens.mint(SystemClock().now()).encode("sak_")}
    arguments = ("demo", "--listen", "127.0.0.1:0")
    with running(*arguments, cwd=tmp_path, settings=settings) as demo:
        demo.wait_for("(Ctrl-C stops it)")
        assert "sak_" not in demo.stdout + demo.stderr


def _validate_for(client: SessionClient, token: str, seconds: float) -> None:
    give_up = time.monotonic() + seconds
    while time.monotonic() < give_up:
        client.validate(token)
        time.sleep(0.05)


def _listed(folder: Path, settings: dict[str, str] | None = None) -> list[dict[str, Any]]:
    done = run("keys", "list", "--json", cwd=folder, settings=settings)
    assert done.returncode == 0, done.stderr
    listed: list[dict[str, Any]] = json.loads(done.stdout)
    return listed


def _answer(address: str, key: str) -> str | None:
    """Return why a server refuses a key, or None if it doesn't."""
    with SessionClient(address, api_key=key) as client:
        try:
            client.create("ada")
        except ApiKeyRejected as error:
            return error.reason
    return None


def _wait_until_accepted(address: str, key: str) -> None:
    _wait(lambda: _answer(address, key) is None, FOLLOWS_SECONDS)


def _wait_until_refused(address: str, key: str, reason: str, seconds: float) -> None:
    _wait(lambda: _answer(address, key) == reason, seconds)


def _wait(true: Callable[[], bool], seconds: float) -> None:
    give_up = time.monotonic() + seconds
    while True:
        asked = time.monotonic()
        if true():
            return
        assert asked < give_up
        time.sleep(0.02)
