"""Sign-ins as a Hypothesis state machine, over the use cases and a real store."""

import contextlib
import tempfile
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from session_authority_server.domain.clock import ManualClock
from session_authority_server.domain.errors import (
    AuthenticationTooOld,
    RetryStale,
    SessionLimitReached,
    SessionNotLive,
)
from session_authority_server.domain.policy import AtLimit, Policy, SupersededUse
from session_authority_server.domain.session import Ending, EndReason, Session
from session_authority_server.usecases.create_session import SignIn
from session_authority_server.usecases.reauthenticate_session import (
    Reauthentication,
)
from session_authority_workers.expire import Expire
from session_authority_workers.pace import Pace
from session_authority_workers.purge import Purge
from tests.property.conftest import bench_in
from tests.property.reference_model import POLICY, Known, by_activity
from tests.support.engines import MINUTE, SECOND, START
from tests.support.usecases import UseCases

T = TypeVar("T")
LIMIT = 3
USERS = ("ann", "bob")
KEY = "a key"
choices = st.integers(0, 999)


@dataclass
class Attempted:
    """An answered call with a retry secret."""

    request: SignIn | Reauthentication
    known: Known
    token: str
    expire_time: datetime


class SignIns(RuleBasedStateMachine):
    """Two users who sign in, retry and re-authenticate."""

    engine_kind = "sqlite"
    at_limit = AtLimit.END_LEAST_RECENTLY_ACTIVE
    superseded_use = SupersededUse.REJECT

    def __init__(self) -> None:
        super().__init__()
        self.stack = contextlib.ExitStack()
        folder = self.stack.enter_context(tempfile.TemporaryDirectory())
        self.bench = self.stack.enter_context(bench_in(Path(folder), self.engine_kind))
        engine = self.bench.engine
        self.clock = clock = ManualClock(START)
        self.policy = policy = Policy(
            absolute_lifetime=60 * MINUTE,
            session_limit=LIMIT,
            at_limit=self.at_limit,
            history_retention=30 * MINUTE,
            superseded_use=self.superseded_use,
        )
        store = engine.sessions
        self.usecases = UseCases(store, clock, policy)
        # Pending sweeps are settled at once, since no transaction is open for long here.
        self.pace = Pace(batch=2, largest_batch=2, largest_scan=2, pause_share=0, rest=-60 * MINUTE)
        self.expire = Expire(engine.upkeep, clock, self.pace)
        self.purge = Purge(engine.upkeep, clock, policy, self.pace)
        self.known: list[Known] = []
        self.purged: list[Known] = []
        self.swept: dict[str, datetime] = {}
        self.attempted: dict[bytes, Attempted] = {}
        self.secrets = 0

    def teardown(self) -> None:
        self.stack.close()

    # Expected results

    @property
    def now(self) -> datetime:
        return self.clock.now()

    @property
    def effective_time(self) -> datetime:
        return self.now + timedelta(seconds=3.1)

    def run(self, awaitable: Awaitable[T]) -> T:
        return self.bench.run(lambda _engine: awaitable)

    def pick(self, choice: int) -> Known:
        return self.known[choice % len(self.known)]

    def live(self, user_id: str) -> list[Known]:
        return by_activity(
            each for each in self.known if each.user_id == user_id and each.is_live(self.now)
        )

    def fresh_secret(self) -> bytes:
        self.secrets += 1
        return self.secrets.to_bytes(32, "big")

    def fails(self, error: type[Exception], call: Callable[[], Awaitable[Any]]) -> None:
        with pytest.raises(error):
            self.run(call())

    # Signing in

    @rule(
        user_id=st.sampled_from(USERS),
        lifetime=st.sampled_from([None, SECOND, 10 * MINUTE]),
        idle_timeout=st.sampled_from([None, None, MINUTE, 5 * MINUTE]),
        checked_seconds_ago=st.sampled_from([None, 0, 1, 30]),
        repeatable=st.booleans(),
        by_key=st.booleans(),
    )
    def sign_in(
        self,
        user_id: str,
        lifetime: timedelta | None,
        idle_timeout: timedelta | None,
        checked_seconds_ago: int | None,
        repeatable: bool,
        by_key: bool,
    ) -> None:
        ago = checked_seconds_ago
        request = SignIn(
            user_id=user_id,
            lifetime=lifetime,
            idle_timeout=idle_timeout,
            authenticate_time=None if ago is None else self.now - ago * SECOND,
            retry_secret=self.fresh_secret() if repeatable else b"",
            caller=KEY if by_key else "",
        )
        self.sign_in_with(request)

    def sign_in_with(self, request: SignIn) -> None:
        user_id, now = request.user_id, self.now
        began = request.authenticate_time or now
        if user_id in self.swept and began < self.swept[user_id]:
            self.fails(AuthenticationTooOld, lambda: self.usecases.create(request))
            return
        surplus = self.live(user_id)[LIMIT - 1 :]
        if surplus and self.at_limit is AtLimit.REFUSE:
            self.fails(SessionLimitReached, lambda: self.usecases.create(request))
            return
        for each in surplus:
            each.recorded = Ending(now, EndReason.LIMIT, POLICY)
        session, token = self.run(self.usecases.create(request))
        lifetime = request.lifetime or self.policy.absolute_lifetime
        known = Known(
            session_id=session.session_id,
            user_id=user_id,
            token=token.encode(),
            lifetime=lifetime,
            idle_timeout=request.idle_timeout,
            last_active_time=now,
            expire_time=now + lifetime,
            renewed_time=now,
            made_by_key=request.caller == KEY,
        )
        self.known.append(known)
        self.note_attempt(request, known)

    def note_attempt(self, request: SignIn | Reauthentication, known: Known) -> None:
        if request.retry_secret:
            expire_time = self.now + self.policy.retry_window
            attempted = Attempted(request, known, known.token, expire_time)
            self.attempted[request.retry_secret] = attempted

    @precondition(lambda self: self.attempted)
    @rule(choice=choices)
    def repeat_a_call(self, choice: int) -> None:
        before = list(self.attempted.values())[choice % len(self.attempted)]
        request, known = before.request, before.known
        call: Callable[[], Awaitable[tuple[Session, Any]]]
        if isinstance(request, SignIn):
            call = lambda: self.usecases.create(request)  # noqa: E731
        else:
            call = lambda: self.usecases.reauthenticate(request)  # noqa: E731
        if self.now >= before.expire_time:
            if isinstance(request, SignIn):
                self.sign_in_with(request)
            else:
                self.fails(SessionNotLive, call)
                if known in self.known and known.token != request.session_token:
                    self.note_reuse(known)
        elif known.token == before.token and known in self.known and known.is_live(self.now):
            session, token = self.run(call())
            assert (session.session_id, token.encode()) == (known.session_id, known.token)
        else:
            self.fails(RetryStale, call)

    @precondition(lambda self: self.known)
    @rule(choice=choices, checked_seconds_ago=st.sampled_from([0, 1, 30]), repeatable=st.booleans())
    def prove_identity_again(self, choice: int, checked_seconds_ago: int, repeatable: bool) -> None:
        known, now = self.pick(choice), self.now
        began = now - checked_seconds_ago * SECOND
        request = Reauthentication(
            session_token=known.token,
            authenticate_time=began,
            authentication_methods=("otp",),
            retry_secret=self.fresh_secret() if repeatable else b"",
        )
        if not known.is_live(now):
            self.fails(SessionNotLive, lambda: self.usecases.reauthenticate(request))
        elif known.user_id in self.swept and began < self.swept[known.user_id]:
            self.fails(AuthenticationTooOld, lambda: self.usecases.reauthenticate(request))
        else:
            session, token = self.run(self.usecases.reauthenticate(request))
            known.old_tokens.append(known.token)
            known.token = token.encode()
            known.last_active_time = now
            known.expire_time = now + known.lifetime
            known.renewed_time = now
            assert session.session_id == known.session_id
            assert session.expire_time == known.expire_time
            self.note_attempt(request, known)

    def note_reuse(self, known: Known) -> None:
        self.run(self.usecases.superseded.settle())
        is_late = self.now >= known.renewed_time + self.policy.superseded_grace
        ends = self.superseded_use is SupersededUse.END_SESSION
        if ends and is_late and known.is_live(self.now):
            known.recorded = Ending(self.now, EndReason.REVOKED, POLICY)
