"""The sessions of one round of `near_cache_chaos`, and calls that end them in every possible way."""

import random
import secrets
import time
from collections.abc import Callable, Sequence
from typing import Any

import grpc

from session_authority import NewSession, SessionAuthorityError, SessionClient, SessionToken
from session_authority.v1 import session_admin_service_pb2 as pb
from tests.integration.near_cache_history import Ending

LEASE_SECONDS = 2.0
SESSION_LIMIT = 3
_ANSWER_SECONDS = 60.0


class Scene:
    """The sessions of one round, and the calls that end them.

    Attributes:
        sessions: All sessions of the round; `Ending.session` is an index into this list.
        endings: The calls to make; each returns the endings that it caused.
    """

    def __init__(
        self,
        chance: random.Random,
        endpoints: Sequence[SessionClient],
        operators: Sequence[Any],
        batch: tuple[SessionClient, str],
    ) -> None:
        self._chance = chance
        self._endpoints = endpoints
        self._batch, self._batch_id = batch
        self._round = secrets.token_hex(4)
        self.sessions: list[NewSession] = []
        self.endings: list[Callable[[], list[Ending]]] = []
        for prepare in (
            self._sign_out,
            self._revoke,
            self._revoke_others,
            self._limit,
            self._reauthenticate,
            self._revoke_user,
            self._revoke_one,
            self._revoke_key,
        ):
            prepare(chance.choice(endpoints), chance.choice(operators))

    def end_all(self, operator: Any) -> list[Ending]:
        """End the sessions of all users."""
        request = pb.RevokeAllSessionsRequest()
        effective, answered = effect(lambda: operator.RevokeAllSessions(request, timeout=3))
        return [
            Ending("everybody's sweep", number, effective, answered)
            for number in range(len(self.sessions))
        ]

    def _made(self, user: str, client: SessionClient | None = None) -> int:
        # Either server creates it, since evictions must not depend on the server that created a session.
        secret = secrets.token_bytes(32)
        client = client or self._chance.choice(self._endpoints)
        maker = client
        new = answer(lambda: maker.create(f"{user}-{self._round}", retry_secret=secret))
        self.sessions.append(new)
        return len(self.sessions) - 1

    def _token(self, number: int) -> SessionToken:
        return self.sessions[number].token

    def _ends(self, way: str, sessions: Sequence[int], call: Callable[[], Any]) -> None:
        """Add a call that ends sessions. It returns an effective_time, an answer with one, or an answer without one."""

        def end() -> list[Ending]:
            effective, answered = effect(call)
            return [Ending(way, number, effective, answered) for number in sessions]

        self.endings.append(end)

    def _sign_out(self, client: SessionClient, operator: Any) -> None:
        one = self._made("signs-out")
        self._ends("sign-out", [one], lambda: client.sign_out(self._token(one)))

    def _revoke(self, client: SessionClient, operator: Any) -> None:
        one, other = self._made("revokes"), self._made("revokes")
        session_id = self.sessions[one].session.session_id
        self._ends("revocation", [one], lambda: client.revoke(self._token(other), session_id))

    def _revoke_others(self, client: SessionClient, operator: Any) -> None:
        *others, own = (self._made("revokes-others") for _ in range(3))
        self._ends("revoke-others", others, lambda: client.revoke_others(self._token(own)))

    def _limit(self, client: SessionClient, operator: Any) -> None:
        kept = [self._made("limited") for _ in range(SESSION_LIMIT)]
        secret = secrets.token_bytes(32)
        user = f"limited-{self._round}"

        def end() -> list[Ending]:
            new = answer(lambda: client.create(user, retry_secret=secret))
            effective, answered = time.time() + LEASE_SECONDS, time.monotonic()
            live = {each.session_id for each in answer(lambda: client.list(new.token))}
            gone = [n for n in kept if self.sessions[n].session.session_id not in live]
            assert gone
            return [Ending("the limit", number, effective, answered) for number in gone]

        self.endings.append(end)

    def _reauthenticate(self, client: SessionClient, operator: Any) -> None:
        one, secret = self._made("reauthenticates"), secrets.token_bytes(32)
        self._ends(
            "re-authentication",
            [one],
            lambda: client.reauthenticate(self._token(one), retry_secret=secret),
        )

    def _revoke_user(self, client: SessionClient, operator: Any) -> None:
        ended = [self._made("is-swept") for _ in range(2)]
        request = pb.RevokeUserSessionsRequest(user_id=f"is-swept-{self._round}")
        call = lambda: operator.RevokeUserSessions(request, timeout=3)  # noqa: E731
        self._ends("the user's sweep", ended, call)

    def _revoke_one(self, client: SessionClient, operator: Any) -> None:
        one = self._made("is-ended")
        request = pb.RevokeOneSessionRequest(session_id=self.sessions[one].session.session_id)
        call = lambda: operator.RevokeOneSession(request, timeout=3)  # noqa: E731
        self._ends("an operator", [one], call)

    def _revoke_key(self, client: SessionClient, operator: Any) -> None:
        ended = [self._made("of-key", self._batch) for _ in range(2)]
        request = pb.RevokeKeySessionsRequest(created_by_key=self._batch_id)

        def call() -> Any:
            answer = operator.RevokeKeySessions(request, timeout=3)
            if not answer.complete:
                raise Incomplete
            return answer

        self._ends("the key's sweep", ended, call)


class Incomplete(Exception):
    """Raised to repeat a sweep that is not finished."""


def answer(call: Callable[[], Any]) -> Any:
    """Repeat a call until it is answered."""
    ends_at = time.monotonic() + _ANSWER_SECONDS
    while True:
        try:
            return call()
        except (SessionAuthorityError, grpc.RpcError, Incomplete):
            if time.monotonic() > ends_at:
                raise
            time.sleep(0.1)


def effect(call: Callable[[], Any]) -> tuple[float, float]:
    """Make a call that ends sessions, and return its effective time and the time of the answer."""
    given = answer(call)
    answered = time.monotonic()
    if isinstance(given, NewSession):  # it has no effective time, but was committed
        return time.time() + LEASE_SECONDS, answered
    effective = getattr(given, "effective_time", given)
    if hasattr(effective, "ToNanoseconds"):
        return effective.ToNanoseconds() / 1e9, answered
    return effective.timestamp(), answered
