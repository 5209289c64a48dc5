from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from uuid import UUID

from session_authority_server.domain import sign_in as checks
from session_authority_server.domain import token as tokens
from session_authority_server.domain.clock import Clock
from session_authority_server.domain.errors import InvalidRequest, Violation
from session_authority_server.domain.session import Session
from session_authority_server.domain.verdict import (
    MALFORMED,
    SUPERSEDED,
    Rejection,
    judge,
    rejected_credential,
)
from session_authority_server.store.protocol import BATCH_LIMIT, SessionStore, Touch
from session_authority_server.usecases.activity import Activity
from session_authority_server.usecases.audit import NOWHERE, Audit
from session_authority_server.usecases.superseded import SupersededTokens

VALIDATIONS_LIMIT = BATCH_LIMIT

ReadOne = Callable[[UUID], Awaitable[Session | None]]


@dataclass(slots=True)
class Validation:
    """A question whether a token is good, as the caller asked it.

    Not frozen, which would double what making one costs.
    """

    session_token: str = field(repr=False)
    ip_address: str = ""
    user_id: str = ""
    passive: bool = False


class ValidateSession:
    """Says whether one token is good."""

    def __init__(
        self,
        read_one: ReadOne,
        clock: Clock,
        activity: Activity,
        superseded: SupersededTokens,
        audit: Audit = NOWHERE,
    ) -> None:
        self._read_one = read_one
        self._clock = clock
        self._activity = activity
        self._superseded = superseded
        self._audit = audit

    async def __call__(self, validation: Validation) -> Session | Rejection:
        """Return the live session or why the token is not accepted.

        Raises:
            InvalidRequest: If a field breaks a limit.
            StoreUnavailable: If the store can't be read.
        """
        ip_address = _checked_ip_address(validation)
        token = tokens.parse(validation.session_token)
        if token is None:
            return MALFORMED
        session = await self._read_one(token.id)
        now = self._clock.now()
        verdict = judge(session, token, now, validation.user_id)
        if not isinstance(verdict, Session):
            rejected = rejected_credential(session, token, verdict, now)
            if rejected is not None:
                self._audit.record(rejected)
        elif not validation.passive and not self._activity.is_fresh(verdict, now):
            await self._activity.record(verdict, now, ip_address)
        if verdict is SUPERSEDED and session is not None:
            self._superseded.used(session)
        return verdict


class BatchValidateSessions:
    """Says of many tokens whether they are good."""

    def __init__(
        self,
        store: SessionStore,
        clock: Clock,
        activity: Activity,
        superseded: SupersededTokens,
        audit: Audit = NOWHERE,
    ) -> None:
        self._store = store
        self._clock = clock
        self._activity = activity
        self._superseded = superseded
        self._audit = audit

    async def __call__(self, validations: Sequence[Validation]) -> list[Session | Rejection]:
        """Return an answer for each question, in order.

        Raises:
            InvalidRequest: If there are none or too many, or a field of one breaks a limit.
            StoreUnavailable: If the store can't be read.
        """
        _check_count(validations)
        ip_addresses = [
            _checked_ip_address(validation, f"requests[{index}].")
            if validation.ip_address
            else None
            for index, validation in enumerate(validations)
        ]
        parsed = [tokens.parse(validation.session_token) for validation in validations]
        wanted = {token.id for token in parsed if token is not None}
        found = await self._store.read_sessions(tuple(wanted)) if wanted else {}
        now = self._clock.now()
        verdicts: list[Session | Rejection] = []
        decisive: list[Touch] = []
        reused: dict[UUID, Session] = {}
        for validation, token, ip_address in zip(validations, parsed, ip_addresses, strict=True):
            if token is None:
                verdicts.append(MALFORMED)
                continue
            session = found.get(token.id)
            verdict = judge(session, token, now, validation.user_id)
            verdicts.append(verdict)
            if not isinstance(verdict, Session):
                rejected = rejected_credential(session, token, verdict, now)
                if rejected is not None:
                    self._audit.record(rejected)
                if verdict is SUPERSEDED:
                    reused[token.id] = found[token.id]
            elif not validation.passive:
                touch = self._activity.gather(verdict, now, ip_address)
                if touch is not None:
                    decisive.append(touch)
        if decisive:
            await self._activity.write(decisive)
        for session in reused.values():
            self._superseded.used(session)
        return verdicts


def _checked_ip_address(validation: Validation, prefix: str = "") -> str | None:
    if not validation.ip_address:
        return None
    violations = checks.Violations(prefix)
    ip_address = checks.check_ip_address(validation.ip_address, violations)
    violations.raise_if_any()
    return ip_address


def _check_count(validations: Sequence[Validation]) -> None:
    if not 1 <= len(validations) <= VALIDATIONS_LIMIT:
        raise InvalidRequest(
            [
                Violation(
                    "requests",
                    f"has {len(validations)} entries; it must have 1 to {VALIDATIONS_LIMIT}",
                )
            ]
        )
