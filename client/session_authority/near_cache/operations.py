"""The operations of a client, told to its near cache. Like those of `_core`, they do no I/O."""

from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from session_authority import _core
from session_authority._core import BATCH_LIMIT_REQUESTS, Operation
from session_authority.near_cache.clock import wall_clock
from session_authority.near_cache.core import NearCacheCore
from session_authority.near_cache.questions import Outcome, Question, settle
from session_authority.near_cache.token_key import key_of_any
from session_authority.session import (
    NewSession,
    Rejection,
    RejectionReason,
    RevokedSession,
    Session,
    ValidationRequest,
)
from session_authority.session_token import Token

_Result = TypeVar("_Result")
_Waiter = TypeVar("_Waiter")

Clock = Callable[[], float]


def ask(
    core: NearCacheCore, now: Clock, questions: Sequence[Question[_Waiter]]
) -> Operation[list[Outcome]]:
    """Ask questions in one call, and keep the answers."""
    flight = core.rpc_sent(now(), wall_clock())
    try:
        responses = yield from _core.validations([question.message for question in questions])
        return settle(core, flight, questions, responses, now())
    finally:
        core.rpc_done(flight)


def validate_many(
    core: NearCacheCore, now: Clock, requests: Iterable[ValidationRequest]
) -> Operation[list[Session | Rejection]]:
    """Answer from memory what can be, and ask about the others."""
    requests = list(requests)
    answers: list[Session | Rejection] = [Rejection(RejectionReason.NOT_FOUND)] * len(requests)
    asked: list[tuple[int, Question[None]]] = []
    for index, request in enumerate(requests):
        message = _core.validation(request)
        found = core.lookup(
            now(), request.token, request.ip_address, request.user_id, request.passive
        )
        if found is not None:
            answers[index] = found
        elif message.session_token:
            asked.append((index, Question(message, message.ip_address or None)))
    for start in range(0, len(asked), BATCH_LIMIT_REQUESTS):
        chunk = asked[start : start + BATCH_LIMIT_REQUESTS]
        outcomes = yield from ask(core, now, [question for _, question in chunk])
        for (index, _), outcome in zip(chunk, outcomes, strict=True):
            if isinstance(outcome, Exception):
                raise outcome
            answers[index] = outcome
    return answers


def revoke(
    core: NearCacheCore, session_id: str, operation: Operation[RevokedSession]
) -> Operation[RevokedSession]:
    """End one session, and forget it whatever became of that."""
    return _forgetting(operation, lambda: core.evict_received((session_id,), (), everything=False))


def revoke_others(
    core: NearCacheCore, token: Token, operation: Operation[_Result]
) -> Operation[_Result]:
    """End a user's other sessions, and forget them."""
    key = key_of_any(token)
    return operation if key is None else _forgetting(operation, lambda: core.others_ended(key))


def sign_out(
    core: NearCacheCore, token: Token, operation: Operation[_Result]
) -> Operation[_Result]:
    """End a token's own session, and forget it."""
    key = key_of_any(token)
    return operation if key is None else _forgetting(operation, lambda: core.token_ended(key))


def reauthenticate(
    core: NearCacheCore, token: Token, operation: Operation[NewSession]
) -> Operation[NewSession]:
    """Supersede a token, and forget it."""
    return sign_out(core, token, operation)


def _forgetting(operation: Operation[_Result], forget: Callable[[], None]) -> Operation[_Result]:
    # Also when it failed: the change may have been made nevertheless. And before it is answered.
    try:
        return (yield from operation)
    finally:
        forget()
