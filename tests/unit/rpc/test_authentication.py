import gc
from dataclasses import replace
from datetime import timedelta
from typing import Any

import grpc
import pytest

from session_authority_server.background import keyring as keyring_module
from session_authority_server.background.keyring import Keyring
from session_authority_server.domain import token as tokens
from session_authority_server.domain.api_key import Permission
from session_authority_server.domain.clock import ManualClock
from session_authority_server.domain.errors import (
    ApiKeyExpired,
    ApiKeyInvalid,
    ApiKeyMissing,
    ApiKeyRevoked,
    AuthorityError,
    PermissionMissing,
    StoreUnavailable,
)
from session_authority_server.rpc.authentication import (
    ANONYMOUS,
    PERMISSIONS,
    Authentication,
    Caller,
    Metadata,
    allow_every_call,
)
from tests.support.api import RPCS
from tests.support.hosts import HOSTS, new_dispatcher, serving
from tests.unit.background.test_keyring import NOON, Store

VALIDATE = "/session_authority.v1.SessionService/ValidateSession"
CREATE = "/session_authority.v1.SessionService/CreateSession"


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(NOON)


@pytest.fixture
def keyring(store: Store, clock: ManualClock) -> Keyring:
    return Keyring(store, clock)


@pytest.fixture
def authenticate(keyring: Keyring) -> Authentication:
    return Authentication(keyring)


def bearing(presented: str, scheme: str = "Bearer") -> Metadata:
    return (("user-agent", "grpc"), ("authorization", f"{scheme} {presented}"))


def test_every_method_of_the_api_needs_a_permission() -> None:
    assert PERMISSIONS.keys() == {rpc.path for rpc in RPCS}
    assert set(PERMISSIONS.values()) == set(Permission)


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
async def test_a_key_identifies_its_caller(
    store: Store, keyring: Keyring, authenticate: Authentication, scheme: str
) -> None:
    key, presented = store.issue()
    await keyring.refresh()
    for _ in range(2):
        caller = authenticate(VALIDATE, bearing(presented, scheme))
        assert (caller.key_id, caller.permissions) == (str(key.key_id), key.permissions)


async def test_a_key_permits_only_its_own_permissions(
    store: Store, keyring: Keyring, authenticate: Authentication
) -> None:
    _, presented = store.issue()
    await keyring.refresh()
    for _ in range(2):
        with pytest.raises(PermissionMissing) as caught:
            authenticate(CREATE, bearing(presented))
        assert caught.value.permission == "create"


async def test_a_method_without_a_permission_is_refused_to_every_caller(
    store: Store, keyring: Keyring, authenticate: Authentication
) -> None:
    _, presented = store.issue()
    await keyring.refresh()
    unknown = "/session_authority.v1.SessionService/ListEverybody"
    with pytest.raises(PermissionMissing):
        authenticate(unknown, bearing(presented))
    with pytest.raises(PermissionMissing):
        allow_every_call(unknown, ())
    assert allow_every_call(CREATE, ()) is ANONYMOUS


async def test_a_header_without_exactly_one_bearer_key_is_refused(
    store: Store, keyring: Keyring, authenticate: Authentication
) -> None:
    _, presented = store.issue()
    await keyring.refresh()
    good = ("authorization", f"Bearer {presented}")
    cases: list[tuple[Metadata, type[AuthorityError]]] = [
        (None, ApiKeyMissing),
        ((), ApiKeyMissing),
        ((("x-session-token", presented),), ApiKeyMissing),
        ((good, good), ApiKeyInvalid),
        ((("authorization", presented),), ApiKeyInvalid),
        ((("authorization", ""),), ApiKeyInvalid),
        (bearing(presented, "Basic"), ApiKeyInvalid),
        (bearing(" " + presented), ApiKeyInvalid),
        (bearing(presented + " "), ApiKeyInvalid),
    ]
    authenticate(VALIDATE, (good,))
    for metadata, expected in cases:
        with pytest.raises(expected):
            authenticate(VALIDATE, metadata)


async def test_a_known_caller_is_not_verified_again_until_a_key_changes(
    store: Store,
    keyring: Keyring,
    authenticate: Authentication,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    proofs = 0
    proves = tokens.proves

    def counted(secret: bytes, secret_hash: bytes) -> bool:
        nonlocal proofs
        proofs += 1
        return proves(secret, secret_hash)

    monkeypatch.setattr(tokens, "proves", counted)
    key, presented = store.issue()
    await keyring.refresh()
    for _ in range(3):
        authenticate(VALIDATE, bearing(presented))
    assert proofs == 1

    store.keys[key.key_id] = replace(key, permissions=frozenset([Permission.CREATE]))
    await keyring.refresh()
    with pytest.raises(PermissionMissing):
        authenticate(VALIDATE, bearing(presented))
    store.keys[key.key_id] = replace(key, revoke_time=NOON)
    await keyring.refresh()
    with pytest.raises(ApiKeyRevoked):
        authenticate(VALIDATE, bearing(presented))


async def test_a_known_caller_is_refused_as_soon_as_its_key_expires(
    store: Store, keyring: Keyring, authenticate: Authentication, clock: ManualClock
) -> None:
    _, presented = store.issue(timedelta(minutes=1))
    await keyring.refresh()
    clock.advance(timedelta(seconds=59))
    authenticate(VALIDATE, bearing(presented))
    clock.advance(timedelta(seconds=1))
    with pytest.raises(ApiKeyExpired):
        authenticate(VALIDATE, bearing(presented))


async def test_a_known_caller_is_refused_while_keys_are_stale(
    store: Store,
    keyring: Keyring,
    authenticate: Authentication,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _, presented = store.issue()
    monkeypatch.setattr(keyring_module, "TRUST_SECONDS", 0.0)
    await keyring.refresh()
    for _ in range(2):
        with pytest.raises(StoreUnavailable):
            authenticate(VALIDATE, bearing(presented))
    monkeypatch.setattr(keyring_module, "TRUST_SECONDS", 60.0)
    await keyring.refresh()
    authenticate(VALIDATE, bearing(presented))
    monkeypatch.setattr(keyring_module, "TRUST_SECONDS", 0.0)
    await keyring.refresh()
    with pytest.raises(StoreUnavailable):
        authenticate(VALIDATE, bearing(presented))


async def test_rejected_keys_are_not_cached(
    store: Store, keyring: Keyring, authenticate: Authentication
) -> None:
    await keyring.refresh()
    guess = tokens.mint(NOON).encode("sak_")
    with pytest.raises(ApiKeyInvalid):
        authenticate(VALIDATE, bearing(guess))
    gc.collect()
    assert not any(type(each) is dict and f"Bearer {guess}" in each for each in gc.get_objects())


@pytest.mark.parametrize("host", HOSTS)
async def test_a_stream_is_refused_before_it_sends_anything(host: str) -> None:
    begun = False

    async def watch(requests: object, context: object) -> None:
        nonlocal begun
        begun = True

    def refuse(method: str, metadata: Metadata) -> Caller:
        raise ApiKeyMissing

    path = "/session_authority.v1.SessionWatchService/WatchSessions"
    async with (
        serving(host, new_dispatcher(authenticate=refuse), {path: watch}) as address,
        grpc.aio.insecure_channel(address) as channel,
    ):
        call: Any = channel.stream_stream(path)()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call.read()
    assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
    assert not begun
