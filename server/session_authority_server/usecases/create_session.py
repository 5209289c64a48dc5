from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from session_authority_server.devices.parser import parse_device
from session_authority_server.devices.text import clean_user_agent
from session_authority_server.domain import retry
from session_authority_server.domain import sign_in as checks
from session_authority_server.domain import token as tokens
from session_authority_server.domain.errors import RetryMismatch, RetryStale, SessionLimitReached
from session_authority_server.domain.event import SessionEnded, SessionEstablished
from session_authority_server.domain.identity import Identity, IdentityKey, Part
from session_authority_server.domain.policy import AtLimit, Policy
from session_authority_server.domain.privacy import KeepUserAgents, kept_address, without_versions
from session_authority_server.domain.retry import Attempt
from session_authority_server.domain.session import (
    Ending,
    EndReason,
    InitiatingEntity,
    Session,
)
from session_authority_server.domain.token import Token
from session_authority_server.domain.verdict import judge
from session_authority_server.ports.store import Transaction
from session_authority_server.usecases.context import Context
from session_authority_server.usecases.sweep_time import (
    correcting_future_sweep,
    require_check_after_sweep,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SignIn:
    """The caller's description of a sign-in."""

    user_id: str
    ip_address: str = ""
    user_agent: str = ""
    authenticate_time: datetime | None = None
    authentication_methods: tuple[str, ...] = ()
    lifetime: timedelta | None = None
    idle_timeout: timedelta | None = None
    attributes: Mapping[str, str] = field(default_factory=dict)
    actor_id: str = ""
    identity: Identity | None = None
    retry_secret: bytes = field(default=b"", repr=False)
    caller: str = ""


async def create_session(context: Context, sign_in: SignIn) -> tuple[Session, Token]:
    """Record a sign-in. Return the new session and its token.

    Raises:
        InvalidRequest: If a field breaks a limit.
        RetryMismatch: If the retry secret was used with other parameters.
        RetryStale: If the session of the repeated call has ended or got another token.
        AuthenticationTooOld: If the sessions of the user or of the identity were revoked after the check began.
        SessionLimitReached: If the user is at the limit and the policy refuses another session.
        StoreUnavailable: If the store failed; a repetition with the same retry secret is safe.
    """
    keys = () if sign_in.identity is None else sign_in.identity.keys
    return await correcting_future_sweep(context, lambda: _create(context, sign_in, keys), keys)


async def _create(
    context: Context, sign_in: SignIn, keys: Sequence[IdentityKey]
) -> tuple[Session, Token]:
    now, policy = context.clock.now(), context.policy
    # Apply the policy to the address first, because the hash for retries includes it.
    address = kept_address(sign_in.ip_address, policy.keep_ip_addresses)
    sign_in = replace(sign_in, ip_address=address or "")
    attempt, salt = _attempt(sign_in, policy), retry.new_salt()
    token = tokens.mint(now)
    if attempt is not None:
        token = Token(token.id, attempt.derive_secret(salt))
    hashes = {key.part: key.digest for key in keys}
    session = _session(sign_in, policy, token, now, hashes)

    async def work(transaction: Transaction) -> tuple[Session, Token]:
        user = await transaction.lock_user(session.user_id, keys)
        if attempt is not None:
            earlier = await earlier_answer(context, transaction, attempt)
            if earlier is not None:
                return earlier
        require_check_after_sweep(user, session.user_id, session.authenticate_time)
        await _make_room(transaction, policy, session.user_id, context.clock.now())
        added = await transaction.insert_session(session)
        if attempt is not None:
            await keep_answer(context, transaction, attempt, token, salt)
        transaction.record(SessionEstablished(added))
        return added, token

    return await context.store.transact(work)


async def _make_room(transaction: Transaction, policy: Policy, user_id: str, now: datetime) -> None:
    limit = policy.session_limit
    if limit is None:
        return
    if policy.at_limit is AtLimit.REFUSE:
        if await transaction.live_over_limit(user_id, now, keep=limit - 1):
            raise SessionLimitReached(limit)
        return
    ending = Ending(now, EndReason.LIMIT, InitiatingEntity.POLICY)
    ended = await transaction.end_live_over_limit(user_id, now, limit - 1, ending)
    transaction.record(*(SessionEnded(session_id, user_id, ending) for session_id in ended))


def _session(
    sign_in: SignIn, policy: Policy, token: Token, now: datetime, hashes: Mapping[Part, bytes]
) -> Session:
    violations = checks.Violations()
    checks.check_user_id(sign_in.user_id, violations)
    ip_address = checks.check_ip_address(sign_in.ip_address, violations)
    authenticate_time = checks.check_authenticate_time(sign_in.authenticate_time, now, violations)
    checks.check_authentication_methods(sign_in.authentication_methods, violations)
    lifetime = checks.check_lifetime(sign_in.lifetime, policy, violations)
    idle_timeout = checks.check_idle_timeout(sign_in.idle_timeout, policy, violations)
    checks.check_attributes(sign_in.attributes, violations)
    actor_id = checks.check_actor_id(sign_in.actor_id, violations)
    if sign_in.identity is not None:
        checks.check_identity(sign_in.identity, violations)
    checks.check_retry_secret(sign_in.retry_secret, violations)
    violations.raise_if_any()
    user_agent = clean_user_agent(sign_in.user_agent)
    device = parse_device(user_agent)
    if policy.keep_user_agents is KeepUserAgents.NONE:
        user_agent, device = "", without_versions(device)
    return Session(
        session_id=token.id,
        user_id=sign_in.user_id,
        secret_hash=tokens.hash_secret(token.secret),
        device=device,
        user_agent=user_agent,
        ip_address=ip_address,
        last_ip_address=ip_address,
        create_time=now,
        authenticate_time=authenticate_time,
        authentication_methods=sign_in.authentication_methods,
        last_active_time=now,
        lifetime=lifetime,
        expire_time=now + lifetime,
        idle_timeout=idle_timeout,
        attributes=sign_in.attributes,
        created_by=sign_in.caller,
        actor_id=actor_id,
        subject_hash=hashes.get(Part.SUBJECT),
        sid_hash=hashes.get(Part.SID),
    )


def _attempt(sign_in: SignIn, policy: Policy) -> Attempt | None:
    """Return the call as an attempt that can be repeated; None without a retry secret."""
    if not sign_in.retry_secret:
        return None
    parameters = _parameters(sign_in, policy)
    return Attempt("create", sign_in.caller, sign_in.user_id, sign_in.retry_secret, parameters)


def _parameters(sign_in: SignIn, policy: Policy) -> list[object]:
    """Return the parameters that a repetition must have in common with the first call.

    The store keeps a hash of them. The list leaves out a value if the policy forbids keeping it.
    """
    time, lifetime, idle_timeout = (
        sign_in.authenticate_time,
        sign_in.lifetime,
        sign_in.idle_timeout,
    )
    identity = sign_in.identity
    return [
        sign_in.ip_address,
        "" if policy.keep_user_agents is KeepUserAgents.NONE else sign_in.user_agent,
        None if time is None else time.isoformat(),
        sign_in.authentication_methods,
        None if lifetime is None else lifetime.total_seconds(),
        None if idle_timeout is None else idle_timeout.total_seconds(),
        dict(sign_in.attributes),
        # Only if set: earlier releases hash neither, and during an upgrade both releases must get the same hash.
        *([sign_in.actor_id] if sign_in.actor_id else []),
        *([[identity.issuer, identity.subject, identity.sid]] if identity else []),
    ]


async def earlier_answer(
    context: Context, transaction: Transaction, attempt: Attempt
) -> tuple[Session, Token] | None:
    """Return the answer to an earlier call with the same retry secret; None if this call is the first.

    The caller has locked the user, so that the second of two concurrent repetitions finds the answer of the first.

    Raises:
        RetryMismatch: If the earlier call had other parameters.
        RetryStale: If the session has since ended or got another token.
    """
    answered = await transaction.read_attempt(attempt.retry_hash)
    now = context.clock.now()
    if answered is None or answered.expire_time <= now:
        return None
    if attempt.parameters_hash != answered.parameters_hash:
        raise RetryMismatch
    token = Token(answered.session_id, attempt.derive_secret(answered.salt))
    verdict = judge(await transaction.read_session(token.id), token.proof, now)
    if isinstance(verdict, Session):
        # The answer to a repeated re-authentication confirms that the earlier token no longer works.
        transaction.confirm_end()
        return verdict, token
    raise RetryStale


async def keep_answer(
    context: Context, transaction: Transaction, attempt: Attempt, token: Token, salt: bytes
) -> None:
    """Store the data from which a repetition gets the same answer."""
    expire_time = context.clock.now() + context.policy.retry_window
    await transaction.write_attempt(attempt.answered(token.id, salt, expire_time))
