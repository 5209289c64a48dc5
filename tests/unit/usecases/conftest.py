from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from session_authority_server.app.wiring import admin_usecases
from session_authority_server.domain.clock import ManualClock
from session_authority_server.domain.policy import Policy
from session_authority_server.domain.session import Session
from session_authority_server.domain.verdict import Rejection
from session_authority_server.store.protocol import SessionStore
from session_authority_server.usecases.activity import Activity
from session_authority_server.usecases.create_session import CreateSession, SignIn
from session_authority_server.usecases.list_sessions import ListSessions
from session_authority_server.usecases.reauthenticate_session import ReauthenticateSession
from session_authority_server.usecases.revoke_other_sessions import RevokeOtherSessions
from session_authority_server.usecases.revoke_session import RevokeSession
from session_authority_server.usecases.sign_out import SignOut
from session_authority_server.usecases.superseded import SupersededTokens
from session_authority_server.usecases.validate_sessions import ValidateSessions, Validation
from tests.support.engines import START, Engine, opened
from tests.support.validating import validate, validate_all


class WatchedStore:
    """A store that notes what is asked of it, and lets a test get in between."""

    def __init__(self, store: SessionStore) -> None:
        self._store = store
        self.asked: list[str] = []
        self.before: dict[str, Callable[[], Awaitable[object]]] = {}

    def __getattr__(self, name: str) -> Any:
        ask = getattr(self._store, name)

        async def noted(*args: Any, **kwargs: Any) -> Any:
            self.asked.append(name)
            if name in self.before:
                await self.before.pop(name)()
            return await ask(*args, **kwargs)

        return noted


@dataclass
class Authority:
    """The use-cases under one policy, and the clock and store that they see."""

    engine: Engine
    clock: ManualClock
    store: Any
    policy: Policy

    def __post_init__(self) -> None:
        store, clock, policy = self.store, self.clock, self.policy
        self.activity = Activity(store, clock, policy)
        self.reused: list[Session] = []
        self.superseded = superseded = SupersededTokens(store, clock, policy, self.reused.append)
        self.create = CreateSession(store, clock, policy)
        self.validations = ValidateSessions(store, clock, self.activity, superseded)
        self.validate = partial(validate, self.validations)
        self.validate_all = partial(validate_all, self.validations)
        self.list = ListSessions(store, clock, policy, superseded)
        self.revoke = RevokeSession(store, clock, policy, superseded)
        self.revoke_others = RevokeOtherSessions(store, clock, policy, superseded)
        self.sign_out = SignOut(store, clock, policy)
        self.admin = admin_usecases(store, clock, policy)
        self.reauthenticate = ReauthenticateSession(store, clock, policy, superseded)

    def under(self, policy: Policy) -> "Authority":
        """Return the same with other rules."""
        return Authority(self.engine, self.clock, self.store, policy)

    async def sign_in(self, user_id: str = "ann", **said: Any) -> tuple[Session, str]:
        """Sign somebody in and return the session and its token's text."""
        session, token = await self.create(SignIn(user_id=user_id, **said))
        return session, token.encode()

    async def answer(self, token: str, *, passive: bool = True) -> Session | Rejection:
        return await self.validate(Validation(token, passive=passive))

    async def is_good(self, token: str) -> bool:
        return isinstance(await self.answer(token), Session)


@pytest.fixture
async def authority(tmp_path: Path) -> AsyncIterator[Authority]:
    async with opened("sqlite", tmp_path) as engine:
        yield Authority(engine, ManualClock(START), WatchedStore(engine.sessions), Policy())
