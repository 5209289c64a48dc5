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
from session_authority_server.domain.token import Proof, Token
from session_authority_server.domain.verdict import NOT_FOUND, judge
from session_authority_server.ports.store import LockedUser, Transaction
from session_authority_server.usecases.context import Context
from session_authority_server.usecases.create_session import earlier_answer, keep_answer
from session_authority_server.usecases.session_proof import (
    prove_without_lock,
    require_proof,
)
from session_authority_server.usecases.sweep_time import (
    correcting_future_sweep,
    require_check_after_sweep,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reauthentication:
    """The caller's description of a renewed proof of identity."""

    session_token: str = field(repr=False)
    authenticate_time: datetime | None = None
    authentication_methods: tuple[str, ...] = ()
    retry_secret: bytes = field(default=b"", repr=False)
    caller: str = ""


async def reauthenticate_session(
    context: Context, request: Reauthentication
) -> tuple[Session, Token]:
    """Renew a session after its user proved their identity again. Return the session and its new token.

    The session keeps its id. Its lifetime and its idle timeout restart.

    Raises:
        SessionNotLive: If the token is invalid.
        InvalidRequest: If a field breaks a limit.
        RetryMismatch: If the retry secret was used with other parameters.
        RetryStale: If the session of the repeated call has since ended or got another token.
        AuthenticationTooOld: If the credential check began before the user's sessions were swept.
        StoreUnavailable: If the store failed; a repetition with the same retry secret is safe.
    """
    return await correcting_future_sweep(context, lambda: _reauthenticate(context, request))


async def _reauthenticate(context: Context, request: Reauthentication) -> tuple[Session, Token]:
    clock = context.clock
    now = clock.now()
    authenticate_time = _checked_authenticate_time(request, now)
    old = require_proof(request.session_token)
    attempt, salt = _attempt(request), retry.new_salt()
    secret = tokens.mint(now).secret if attempt is None else attempt.derive_secret(salt)
    new = Token(old.id, secret)

    async def work(transaction: Transaction) -> tuple[Session, Token]:
        user = await _lock_user_of(transaction, old, clock)
        if attempt is not None:
            earlier = await earlier_answer(context, transaction, attempt)
            if earlier is not None:
                return earlier
        session = await prove_without_lock(transaction, old, clock)
        assert user is not None, "the user of a valid token is locked"
        require_check_after_sweep(user, session.user_id, authenticate_time)
        renew_time = clock.now()
        renewed = _renewed(session, request, context.policy, new, authenticate_time, renew_time)
        if not await transaction.renew_session(renewed, replaces=session.secret_hash):
            raise SessionNotLive
        if attempt is not None:
            await keep_answer(context, transaction, attempt, new, salt)
        transaction.record(SessionReauthenticated(renewed, renew_time))
        return renewed, new

    with context.reporting_failed_proof():
        return await context.store.transact(work)


async def _lock_user_of(transaction: Transaction, proof: Proof, clock: Clock) -> LockedUser | None:
    """Lock the user of a current or superseded token. Return None for any other token, without a lock."""
    session = await transaction.read_session(proof.id)
    if session is None or judge(session, proof, clock.now()) is NOT_FOUND:
        return None
    return await transaction.lock_user(session.user_id)


def _renewed(
    session: Session,
    request: Reauthentication,
    policy: Policy,
    token: Token,
    authenticate_time: datetime,
    now: datetime,
) -> Session:
    lifetime = min(session.lifetime, policy.absolute_lifetime)
    return replace(
        session,
        secret_hash=tokens.hash_secret(token.secret),
        superseded_hashes=tokens.supersede(session.secret_hash, session.superseded_hashes),
        authenticate_time=authenticate_time,
        authentication_methods=request.authentication_methods,
        last_active_time=max(now, session.last_active_time),
        lifetime=lifetime,
        expire_time=now + lifetime,
        idle_timeout=_shorter(session.idle_timeout, policy.idle_timeout),
    )


def _shorter(one: timedelta | None, other: timedelta | None) -> timedelta | None:
    return min((each for each in (one, other) if each is not None), default=None)


def _checked_authenticate_time(request: Reauthentication, now: datetime) -> datetime:
    violations = checks.Violations()
    authenticate_time = checks.check_authenticate_time(request.authenticate_time, now, violations)
    checks.check_authentication_methods(request.authentication_methods, violations)
    checks.check_retry_secret(request.retry_secret, violations)
    violations.raise_if_any()
    return authenticate_time


def _attempt(request: Reauthentication) -> Attempt | None:
    """Return the call as an attempt that can be repeated; None without a retry secret."""
    if not request.retry_secret:
        return None
    time = request.authenticate_time
    parameters = [None if time is None else time.isoformat(), request.authentication_methods]
    return Attempt(
        "reauthenticate",
        request.caller,
        request.session_token,
        request.retry_secret,
        parameters,
    )
