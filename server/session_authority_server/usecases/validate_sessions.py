from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

from session_authority_server.domain import sign_in as checks
from session_authority_server.domain import token as tokens
from session_authority_server.domain.errors import InvalidRequest, Violation
from session_authority_server.domain.session import Session
from session_authority_server.domain.token import Proof
from session_authority_server.domain.verdict import (
    MALFORMED,
    SUPERSEDED,
    Rejection,
    judge,
    rejected_credential,
)
from session_authority_server.ports.store import BATCH_LIMIT, Touch
from session_authority_server.usecases.context import Context

VALIDATIONS_LIMIT = BATCH_LIMIT


@dataclass(slots=True)
class Validation:
    """A caller's request to validate a token.

    Not frozen: freezing doubles the cost of creating one.
    """

    session_token: str = field(repr=False)
    ip_address: str = ""
    user_id: str = ""
    passive: bool = False


@dataclass(frozen=True, slots=True)
class NotYetRecorded:
    """A live session that is about to idle out. Its use must be written before it is accepted."""

    session: Session
    touch: Touch


Outcome = Session | Rejection | InvalidRequest | NotYetRecorded


async def validate_sessions(context: Context, validations: Sequence[Validation]) -> list[Outcome]:
    """Return an outcome for each validation, in order. A validation that breaks a limit fails alone.

    Raises:
        StoreUnavailable: If the store can't be read.
    """
    proofs = [tokens.parse_proof(validation.session_token) for validation in validations]
    wanted = [proof.id for proof in proofs if proof is not None]
    found = await context.store.read_sessions(wanted) if wanted else {}
    now = context.clock.now()
    with_superseded_token: dict[UUID, Session] = {}
    outcomes = [
        MALFORMED
        if proof is None and not validation.ip_address
        else _outcome(context, validation, proof, found, now, with_superseded_token)
        for validation, proof in zip(validations, proofs, strict=True)
    ]
    for session in with_superseded_token.values():
        context.superseded.used(session)
    return outcomes


def _outcome(
    context: Context,
    validation: Validation,
    proof: Proof | None,
    found: Mapping[UUID, Session],
    now: datetime,
    with_superseded_token: dict[UUID, Session],
) -> Outcome:
    ip_address = None
    if validation.ip_address:
        try:
            ip_address = _checked_ip_address(validation.ip_address)
        except InvalidRequest as error:
            return error
    if proof is None:
        return MALFORMED
    session = found.get(proof.id)
    verdict = judge(session, proof, now, validation.user_id)
    if not isinstance(verdict, Session):
        rejected = rejected_credential(session, proof, verdict, now)
        if rejected is not None:
            context.audit.record(rejected)
        if verdict is SUPERSEDED and session is not None:
            with_superseded_token[proof.id] = session
    elif not validation.passive:
        touch = context.activity.gather(verdict, now, ip_address)
        if touch is not None:
            return NotYetRecorded(verdict, touch)
    return verdict


async def record_use(context: Context, not_yet_recorded: Sequence[NotYetRecorded]) -> None:
    """Write the uses of sessions. The sessions are accepted only after that.

    Raises:
        StoreUnavailable: If the write fails.
    """
    await context.activity.write([each.touch for each in not_yet_recorded])


async def batch_verdicts(
    context: Context, outcomes: Sequence[Outcome]
) -> list[Session | Rejection]:
    """Return the verdicts of a batch request.

    Raises:
        InvalidRequest: If a validation breaks a limit.
        StoreUnavailable: If the use of a session can't be written.
    """
    violations = [
        Violation(f"requests[{index}].{each.field}", each.description)
        for index, outcome in enumerate(outcomes)
        if isinstance(outcome, InvalidRequest)
        for each in outcome.violations
    ]
    if violations:
        raise InvalidRequest(violations)
    not_yet_recorded = [outcome for outcome in outcomes if isinstance(outcome, NotYetRecorded)]
    if not_yet_recorded:
        await record_use(context, not_yet_recorded)
    return [
        outcome.session if isinstance(outcome, NotYetRecorded) else outcome
        for outcome in outcomes
        if not isinstance(outcome, InvalidRequest)
    ]


def _checked_ip_address(text: str) -> str | None:
    violations = checks.Violations()
    ip_address = checks.check_ip_address(text, violations)
    violations.raise_if_any()
    return ip_address


def check_count(validations: Sequence[Validation]) -> Sequence[Validation]:
    """Check that a batch request has 1 to VALIDATIONS_LIMIT validations, and return them.

    Raises:
        InvalidRequest: If there are none or too many.
    """
    if not 1 <= len(validations) <= VALIDATIONS_LIMIT:
        problem = f"has {len(validations)} entries; it must have 1 to {VALIDATIONS_LIMIT}"
        raise InvalidRequest([Violation("requests", problem)])
    return validations
