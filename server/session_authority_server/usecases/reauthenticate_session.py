from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from session_authority_server.domain import retry
from session_authority_server.domain import sign_in as checks
from session_authority_server.domain import token as tokens
from session_authority_server.domain.clock import Clock
from session_authority_server.domain.errors import SessionNotLive
from session_authority_server.domain.event import SessionReauthenticated
from session_authority_server.domain.policy import Policy
from session_authority_server.domain.retry import Attempt
from session_authority_server.domain.session import Session
from session_authority_server.domain.token import Token
from session_authority_server.store.protocol import SessionStore, Transaction
from session_authority_server.usecases.audit import NOWHERE, Audit, Told, transact
from session_authority_server.usecases.proof import parse_proof, prove_in
from session_authority_server.usecases.repetition import repeat
from session_authority_server.usecases.superseded import SupersededTokens
from session_authority_server.usecases.sweep_time import (
    correcting_future_sweep,
    require_begun_since,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reauthentication:
    """What a caller says about a renewed proof of identity, as it said it."""

    session_token: str = field(repr=False)
    authenticate_time: datetime | None = None
    authentication_methods: tuple[str, ...] = ()
    retry_secret: bytes = field(default=b"", repr=False)
    caller: str = ""


class ReauthenticateSession:
    """Gives a session whose user proved again who they are a new token and a new life."""

    def __init__(
        self,
        store: SessionStore,
        clock: Clock,
        policy: Policy,
        superseded: SupersededTokens,
        audit: Audit = NOWHERE,
    ) -> None:
        self._store = store
        self._clock = clock
        self._policy = policy
        self._superseded = superseded
        self._audit = audit

    async def __call__(self, request: Reauthentication) -> tuple[Session, Token]:
        """Return the session and its new token.

        Raises:
            SessionNotLive: If the token is not good.
            InvalidRequest: If a field breaks a limit.
            RetryMismatch: If the retry secret was used with other parameters.
            RetryStale: If this repeats a call whose session has ended or got yet another token.
            AuthenticationTooOld: If the credential check began before the user's sessions were swept.
            StoreUnavailable: If the store failed; a repetition with the same retry secret is safe.
        """
        return await correcting_future_sweep(
            self._store, self._clock, lambda: self._reauthenticate(request)
        )

    async def _reauthenticate(self, request: Reauthentication) -> tuple[Session, Token]:
        now = self._clock.now()
        authenticate_time = _checked_authenticate_time(request, now)
        old = parse_proof(request.session_token)
        attempt = Attempt(
            "reauthenticate",
            request.caller,
            request.session_token,
            request.retry_secret,
            _parameters(request),
        )
        salt = retry.new_salt()
        repeatable = bool(request.retry_secret)
        secret = attempt.derive_secret(salt) if repeatable else tokens.mint(now).secret
        new = Token(old.id, secret)

        async def work(transaction: Transaction) -> Told[tuple[Session, Token]]:
            if repeatable:
                await _lock_user_of(transaction, old)
                answered = await transaction.read_attempt(attempt.retry_hash)
                turn = self._clock.now()
                if answered is not None and turn < answered.expire_time:
                    return await repeat(transaction, attempt, answered, turn), ()
            session = await prove_in(transaction, old, self._clock.now)
            turn = self._clock.now()
            standing = await transaction.lock_user(session.user_id)
            require_begun_since(standing, session.user_id, authenticate_time)
            renewed = self._renewed(session, new, authenticate_time, request, turn)
            if not await transaction.renew_session(renewed, replaces=session.secret_hash):
                raise SessionNotLive
            if repeatable:
                expire_time = turn + self._policy.retry_window
                await transaction.write_attempt(attempt.answered(new.id, salt, expire_time))
            return (renewed, new), [SessionReauthenticated(renewed, turn)]

        async with self._superseded.noticed():
            return await transact(self._store, self._audit, work)

    def _renewed(
        self,
        session: Session,
        token: Token,
        authenticate_time: datetime,
        request: Reauthentication,
        now: datetime,
    ) -> Session:
        lifetime = min(session.lifetime, self._policy.absolute_lifetime)
        return replace(
            session,
            secret_hash=tokens.hash_secret(token.secret),
            superseded_hashes=tokens.supersede(session.secret_hash, session.superseded_hashes),
            authenticate_time=authenticate_time,
            authentication_methods=request.authentication_methods,
            last_active_time=max(now, session.last_active_time),
            lifetime=lifetime,
            expire_time=now + lifetime,
            idle_timeout=_shorter(session.idle_timeout, self._policy.idle_timeout),
        )


def _shorter(one: timedelta | None, other: timedelta | None) -> timedelta | None:
    return min((each for each in (one, other) if each is not None), default=None)


async def _lock_user_of(transaction: Transaction, token: Token) -> None:
    # So that of two repetitions at once the second finds what the first did.
    session = await transaction.read_session(token.id)
    if session is not None:
        await transaction.lock_user(session.user_id)


def _checked_authenticate_time(request: Reauthentication, now: datetime) -> datetime:
    violations = checks.Violations()
    authenticate_time = checks.check_authenticate_time(request.authenticate_time, now, violations)
    checks.check_authentication_methods(request.authentication_methods, violations)
    checks.check_retry_secret(request.retry_secret, violations)
    violations.raise_if_any()
    return authenticate_time


def _parameters(request: Reauthentication) -> list[object]:
    """Return all that two calls must agree on for one to be the other's repetition."""
    time = request.authenticate_time
    return [None if time is None else time.isoformat(), request.authentication_methods]
