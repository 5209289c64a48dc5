"""Validation as the two RPCs do it, for tests of the use-case."""

from collections.abc import Sequence

from session_authority_server.domain.errors import InvalidRequest
from session_authority_server.domain.session import Session
from session_authority_server.domain.verdict import Rejection
from session_authority_server.usecases.validate_sessions import (
    Undecided,
    ValidateSessions,
    Validation,
    check_count,
)


async def validate(validations: ValidateSessions, asked: Validation) -> Session | Rejection:
    """Answer one question, as ValidateSession does."""
    [outcome] = await validations([asked])
    if isinstance(outcome, InvalidRequest):
        raise outcome
    if isinstance(outcome, Undecided):
        await validations.decide([outcome])
        return outcome.session
    return outcome


async def validate_all(
    validations: ValidateSessions, asked: Sequence[Validation]
) -> list[Session | Rejection]:
    """Answer many questions, as BatchValidateSessions does."""
    return await validations.decided(await validations(check_count(asked)))
