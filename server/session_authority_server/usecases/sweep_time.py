import logging
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import TypeVar

from session_authority_server.domain.clock import TOLERATED_SKEW
from session_authority_server.domain.errors import AuthenticationTooOld
from session_authority_server.ports import LockedUser, Transaction
from session_authority_server.usecases.context import Context

T = TypeVar("T")
_log = logging.getLogger(__name__)


def require_begun_since(standing: LockedUser, user_id: str, authenticate_time: datetime) -> None:
    """Require that a credential check began after the user's sessions were last swept.

    Raises:
        AuthenticationTooOld: If it began before.
    """
    if standing.swept_time is not None and authenticate_time < standing.swept_time:
        raise AuthenticationTooOld(standing.swept_time, user_id)


async def correcting_future_sweep(context: Context, attempt: Callable[[], Awaitable[T]]) -> T:
    """Run a sign-in. If a sweep whose time lies in the future refuses it, correct that time and run it again.

    A clock was ahead when the sweep was made. The sweep happened before this sign-in arrived, so the time of arrival
    becomes its time. Credential checks that begin later are accepted.

    Raises:
        AuthenticationTooOld: If the credential check began before the sweep's time.
    """
    arrived = context.clock.now()
    try:
        return await attempt()
    except AuthenticationTooOld as error:
        swept_time, user_id = error.swept_time, error.user_id
        if swept_time <= context.clock.now() + TOLERATED_SKEW:
            raise

    async def correct(transaction: Transaction) -> None:
        await transaction.lock_user(user_id)
        await transaction.correct_swept_time(user_id, arrived)

    await context.store.transact(correct)
    _log.warning(
        "a sweep was made at %s by a clock that was ahead; its time is corrected", swept_time
    )
    return await attempt()
