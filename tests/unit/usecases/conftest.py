from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from session_authority_server.domain.clock import ManualClock
from session_authority_server.domain.errors import StoreUnavailable
from session_authority_server.domain.policy import Policy
from session_authority_server.domain.session import Session
from session_authority_server.domain.verdict import Rejection
from session_authority_server.ports.store import SessionStore
from session_authority_server.usecases.create_session import SignIn
from session_authority_server.usecases.validate_sessions import Validation
from tests.support.engines import START, Engine, opened
from tests.support.usecases import UseCases


class WatchedStore:
    """A store that records its calls, and runs a test's function before a call."""

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


async def store_fails() -> None:
    """Raise an error. `WatchedStore` calls this function before a call."""
    raise StoreUnavailable("writing")


class Authority(UseCases):
    """The use cases under one policy, with their clock and store."""

    def __init__(self, engine: Engine, clock: ManualClock, store: Any, policy: Policy) -> None:
        super().__init__(store, clock, policy)
        self.engine, self.clock, self.store, self.policy = engine, clock, store, policy

    def under(self, policy: Policy) -> "Authority":
        """Return the same use cases with other rules in the policy."""
        return Authority(self.engine, self.clock, self.store, policy)

    async def sign_in(self, user_id: str = "ann", **said: Any) -> tuple[Session, str]:
        """Sign a user in, and return the session and its encoded token."""
        session, token = await self.create(SignIn(user_id=user_id, **said))
        return session, token.encode()

    async def answer(self, token: str, *, passive: bool = True) -> Session | Rejection:
        return await self.validate(Validation(token, passive=passive))

    async def is_accepted(self, token: str) -> bool:
        return isinstance(await self.answer(token), Session)


@pytest.fixture
async def authority(tmp_path: Path) -> AsyncIterator[Authority]:
    async with opened("sqlite", tmp_path) as engine:
        yield Authority(engine, ManualClock(START), WatchedStore(engine.sessions), Policy())
