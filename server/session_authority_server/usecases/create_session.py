from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from session_authority_server.domain import retry
from session_authority_server.domain import sign_in as checks
from session_authority_server.domain import token as tokens
from session_authority_server.domain.clock import Clock
from session_authority_server.domain.errors import SessionLimitReached
from session_authority_server.domain.event import SessionEnded, SessionEstablished
from session_authority_server.domain.policy import AtLimit, Policy
from session_authority_server.domain.privacy import KeepUserAgents, family, kept_address
from session_authority_server.domain.retry import Attempt
from session_authority_server.domain.session import (
    Ending,
    EndReason,
    InitiatingEntity,
    Session,
)
from session_authority_server.domain.token import Token
from session_authority_server.domain.user_agent import parse_device
from session_authority_server.domain.user_agent_text import clean_user_agent
from session_authority_server.store.protocol import SessionStore, Transaction
from session_authority_server.usecases.audit import NOWHERE, Audit, Told, transact
from session_authority_server.usecases.repetition import repeat
from session_authority_server.usecases.sweep_time import (
    correcting_future_sweep,
    require_begun_since,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SignIn:
    """What a caller says about a sign-in, as it said it."""

    user_id: str
    ip_address: str = ""
    user_agent: str = ""
    authenticate_time: datetime | None = None
    authentication_methods: tuple[str, ...] = ()
    lifetime: timedelta | None = None
    idle_timeout: timedelta | None = None
    attributes: Mapping[str, str] = field(default_factory=dict)
    actor_id: str = ""
    retry_secret: bytes = field(default=b"", repr=False)
    caller: str = ""


class CreateSession:
    """Records a sign-in and gives out the token."""

    def __init__(
        self, store: SessionStore, clock: Clock, policy: Policy, audit: Audit = NOWHERE
    ) -> None:
        self._store = store
        self._clock = clock
        self._policy = policy
        self._audit = audit

    async def __call__(self, sign_in: SignIn) -> tuple[Session, Token]:
        """Return the new session and its token.

        Raises:
            InvalidRequest: If a field breaks a limit.
            RetryMismatch: If the retry secret was used with other parameters.
            RetryStale: If this repeats a call whose session has ended or got another token.
            AuthenticationTooOld: If the credential check began before the user's sessions were swept.
            SessionLimitReached: If the user is at the limit and the policy refuses.
            StoreUnavailable: If the store failed; a repetition with the same retry secret is safe.
        """
        return await correcting_future_sweep(
            self._store, self._clock, lambda: self._create(sign_in)
        )

    async def _create(self, sign_in: SignIn) -> tuple[Session, Token]:
        now = self._clock.now()
        # First of all, so that nothing that is not to be kept gets into anything that is.
        address = kept_address(sign_in.ip_address, self._policy.keep_ip_addresses)
        sign_in = replace(sign_in, ip_address=address or "")
        if not sign_in.retry_secret:
            token = tokens.mint(now)
            session = self._session(sign_in, token, now)
            return await transact(
                self._store, self._audit, lambda work: self._add(work, session)
            ), token
        return await self._create_once(sign_in, now)

    async def _create_once(self, sign_in: SignIn, now: datetime) -> tuple[Session, Token]:
        attempt = Attempt(
            "create",
            sign_in.caller,
            sign_in.user_id,
            sign_in.retry_secret,
            self._parameters(sign_in),
        )
        salt = retry.new_salt()
        token = Token(tokens.new_id(now), attempt.derive_secret(salt))
        session = self._session(sign_in, token, now)

        async def work(transaction: Transaction) -> Told[tuple[Session, Token]]:
            # Locked first, so that of two repetitions at once the second finds what the first did.
            await transaction.lock_user(sign_in.user_id)
            answered = await transaction.read_attempt(attempt.retry_hash)
            turn = self._clock.now()
            if answered is not None and turn < answered.expire_time:
                return await repeat(transaction, attempt, answered, turn), ()
            added, events = await self._add(transaction, session)
            expire_time = turn + self._policy.retry_window
            await transaction.write_attempt(attempt.answered(token.id, salt, expire_time))
            return (added, token), events

        return await transact(self._store, self._audit, work)

    async def _add(self, transaction: Transaction, session: Session) -> Told[Session]:
        standing = await transaction.lock_user(session.user_id)
        require_begun_since(standing, session.user_id, session.authenticate_time)
        ended = await self._make_room(transaction, session.user_id, self._clock.now())
        added = await transaction.insert_session(session)
        return added, [*ended, SessionEstablished(added)]

    async def _make_room(
        self, transaction: Transaction, user_id: str, now: datetime
    ) -> list[SessionEnded]:
        limit = self._policy.session_limit
        if limit is None:
            return []
        if self._policy.at_limit is AtLimit.REFUSE:
            if await transaction.live_sessions_beyond(user_id, now, keep=limit - 1):
                raise SessionLimitReached(limit)
            return []
        ending = Ending(now, EndReason.LIMIT, InitiatingEntity.POLICY)
        ended = await transaction.end_live_beyond(user_id, now, limit - 1, ending)
        return [SessionEnded(session_id, user_id, ending) for session_id in ended]

    def _session(self, sign_in: SignIn, token: Token, now: datetime) -> Session:
        violations = checks.Violations()
        checks.check_user_id(sign_in.user_id, violations)
        ip_address = checks.check_ip_address(sign_in.ip_address, violations)
        authenticate_time = checks.check_authenticate_time(
            sign_in.authenticate_time, now, violations
        )
        checks.check_authentication_methods(sign_in.authentication_methods, violations)
        lifetime = checks.check_lifetime(sign_in.lifetime, self._policy, violations)
        idle_timeout = checks.check_idle_timeout(sign_in.idle_timeout, self._policy, violations)
        checks.check_attributes(sign_in.attributes, violations)
        actor_id = checks.check_actor_id(sign_in.actor_id, violations)
        checks.check_retry_secret(sign_in.retry_secret, violations)
        violations.raise_if_any()
        user_agent = clean_user_agent(sign_in.user_agent)
        device = parse_device(user_agent)
        if self._policy.keep_user_agents is KeepUserAgents.NONE:
            user_agent, device = "", family(device)
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
        )

    def _parameters(self, sign_in: SignIn) -> list[object]:
        """Return all that two calls must agree on for one to be the other's repetition.

        A hash of them is stored for a while, so what is not to be kept is not among them.
        """
        time, lifetime, idle_timeout = (
            sign_in.authenticate_time,
            sign_in.lifetime,
            sign_in.idle_timeout,
        )
        return [
            sign_in.ip_address,
            "" if self._policy.keep_user_agents is KeepUserAgents.NONE else sign_in.user_agent,
            None if time is None else time.isoformat(),
            sign_in.authentication_methods,
            None if lifetime is None else lifetime.total_seconds(),
            None if idle_timeout is None else idle_timeout.total_seconds(),
            dict(sign_in.attributes),
            # Only where there is one: servers of the release before, which know none, repeat each other's calls.
            *([sign_in.actor_id] if sign_in.actor_id else []),
        ]
