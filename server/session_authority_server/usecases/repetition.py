from datetime import datetime

from session_authority_server.domain.errors import RetryMismatch, RetryStale
from session_authority_server.domain.retry import AnsweredAttempt, Attempt
from session_authority_server.domain.session import Session
from session_authority_server.domain.token import Token
from session_authority_server.domain.verdict import judge
from session_authority_server.store.protocol import Transaction


async def repeat(
    transaction: Transaction, attempt: Attempt, answered: AnsweredAttempt, now: datetime
) -> tuple[Session, Token]:
    """Return once more what a repeatable call was answered with.

    Raises:
        RetryMismatch: If the call asks for something else than the first one did.
        RetryStale: If the session has ended or got another token since.
    """
    if attempt.parameters_hash != answered.parameters_hash:
        raise RetryMismatch
    token = Token(answered.session_id, attempt.derive_secret(answered.salt))
    verdict = judge(await transaction.read_session(token.id), token, now)
    if isinstance(verdict, Session):
        return verdict, token
    raise RetryStale
