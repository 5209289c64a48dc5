from session_authority_server.domain.errors import RetryMismatch, RetryStale
from session_authority_server.domain.retry import Attempt
from session_authority_server.domain.session import Session
from session_authority_server.domain.token import Token
from session_authority_server.domain.verdict import judge
from session_authority_server.ports import Transaction
from session_authority_server.usecases.context import Context


async def earlier_answer(
    context: Context, transaction: Transaction, attempt: Attempt
) -> tuple[Session, Token] | None:
    """Return the answer to an earlier call with the same retry secret; None if this call is the first.

    The caller locks the user first. Of two repetitions at once, the second then finds the answer of the first.

    Raises:
        RetryMismatch: If the earlier call had other parameters.
        RetryStale: If the session has ended or got another token since.
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
        return verdict, token
    raise RetryStale


async def keep_answer(
    context: Context, transaction: Transaction, attempt: Attempt, token: Token, salt: bytes
) -> None:
    """Keep what a repetition needs to get the same answer."""
    expire_time = context.clock.now() + context.policy.retry_window
    await transaction.write_attempt(attempt.answered(token.id, salt, expire_time))
