"""Sign-ins after a sweep.

A sweep is one call that ends all sessions of a user or of everybody. It may keep the caller's own session.
"""

import logging
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from typing import TypeVar

from session_authority_server.domain.clock import TOLERATED_SKEW
from session_authority_server.domain.errors import AuthenticationTooOld
from session_authority_server.domain.identity import IdentityKey
from session_authority_server.ports.store import LockedUser, Transaction
from session_authority_server.usecases.context import Context

T = TypeVar("T")
_log = logging.getLogger(__name__)


def require_check_after_sweep(user: LockedUser, user_id: str, authenticate_time: datetime) -> None:
    """Require that the check of the user's credentials began after the last sweep of the user or of the identity.

    Raises:
        AuthenticationTooOld: If the check began before the sweep.
    """
    if user.swept_time is not None and authenticate_time < user.swept_time:
        raise AuthenticationTooOld(user.swept_time, user_id)


async def correcting_future_sweep(
    context: Context, attempt: Callable[[], Awaitable[T]], identity: Sequence[IdentityKey] = ()
) -> T:
    """Run a sign-in. If a sweep time in the future refuses it, correct the sweep time and run it again.

    A clock that was ahead set this sweep time. The sweep really happened before this sign-in arrived, so the time of
    arrival becomes the sweep time. Credential checks that begin later are accepted.

    Raises:
        AuthenticationTooOld: If the credential check began before the sweep time.
    """
    arrived = context.clock.now()
    try:
        return await attempt()
    except AuthenticationTooOld as error:
        swept_time, user_id = error.swept_time, error.user_id
        if swept_time <= context.clock.now() + TOLERATED_SKEW:
            raise

    async def correct(transaction: Transaction) -> None:
        await transaction.lock_user(user_id, identity)
        await transaction.correct_swept_time(user_id, arrived, identity)

    await context.store.transact(correct)
    _log.warning(
        "corrected a sweep time in the future, %s, which came from a clock that was ahead",
        swept_time,
    )
    return await attempt()
