"""The operations of a client with a near cache, which stores their answers. Like those of `_core`, they do no I/O."""

import time
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from session_authority import _conversion as convert
from session_authority import _core
from session_authority._batching import Outcome, Question, spans_of
from session_authority._core import BATCH_LIMIT_REQUESTS, Operation
from session_authority.errors import InternalError
from session_authority.near_cache.core import Due, NearCacheCore
from session_authority.near_cache.entries import key_of
from session_authority.near_cache.flights import Flight
from session_authority.session import Rejection, RejectionReason, Session, ValidationRequest
from session_authority.v1 import session_pb2
from session_authority.v1 import session_service_pb2 as v1

_Waiter = TypeVar("_Waiter")

Clock = Callable[[], float]


def ask(
    core: NearCacheCore, now: Clock, questions: Sequence[Question[_Waiter]]
) -> Operation[list[Outcome]]:
    """Send questions in one call, and cache the answers."""
    flight = core.rpc_sent(now(), time.time())
    try:
        responses = yield from _core.validations(
            [question.message for question in questions], spans_of(questions)
        )
        return settle(core, flight, questions, responses, now())
    finally:
        core.rpc_done(flight)


def report_of(due: Due) -> v1.ValidateSessionRequest:
    """Return the question that reports the use of a session."""
    return v1.ValidateSessionRequest(session_token=due.token, ip_address=due.ip_address or "")


def passive_question(token: str) -> Question[None]:
    """Return the question whether a token is valid, which does not count as activity."""
    return Question(v1.ValidateSessionRequest(session_token=token, passive=True))


def confirm(core: NearCacheCore, now: Clock, token: str) -> Operation[None]:
    """Ask whether a token is valid.

    Raises:
        SessionNotLive: The token is invalid.
    """
    [outcome] = yield from ask(core, now, [passive_question(token)])
    if isinstance(outcome, Exception):
        raise outcome
    _core.session_or_raise(outcome)


def validate_many(
    core: NearCacheCore, now: Clock, requests: Iterable[ValidationRequest]
) -> Operation[list[Session | Rejection]]:
    """Validate tokens from memory where possible, and ask the authority about the others."""
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


def forget_changed(core: NearCacheCore, call: _core.Call) -> None:
    """Remove from the cache the sessions that a call may have ended.

    Use this before the app gets the answer, and also if the call failed. A failed call may still have ended sessions.
    """
    match call.method.removeprefix(_core.SESSION_SERVICE):
        case "SignOut":
            core.token_ended(key_of(v1.SignOutRequest.FromString(call.payload).session_token))
        case "ReauthenticateSession":
            superseding = v1.ReauthenticateSessionRequest.FromString(call.payload)
            core.token_ended(key_of(superseding.session_token))
        case "RevokeSession":
            session_id = v1.RevokeSessionRequest.FromString(call.payload).session_id
            core.evict_received((session_id,), (), everything=False)
        case "RevokeOtherSessions":
            others = v1.RevokeOtherSessionsRequest.FromString(call.payload)
            core.others_ended(key_of(others.session_token))


def decoded(encoded: bytes) -> Session:
    """Decode a session that the cache stored as bytes."""
    return convert.session_of(session_pb2.Session.FromString(encoded))


def settle(
    core: NearCacheCore,
    flight: Flight,
    questions: Sequence[Question[_Waiter]],
    responses: Sequence[v1.ValidateSessionResponse],
    now: float,
) -> list[Outcome]:
    """Cache the answers of one call, and return the outcome of each question."""
    return [
        _settled(core, flight, question, response, now)
        for question, response in zip(questions, responses, strict=True)
    ]


def _settled(
    core: NearCacheCore,
    flight: Flight,
    question: Question[_Waiter],
    response: v1.ValidateSessionResponse,
    now: float,
) -> Outcome:
    key = key_of(question.message.session_token)
    try:
        answer = convert.answer_of(response)
    except InternalError as error:
        return error
    if isinstance(answer, Session):
        core.answer_received(
            flight,
            key,
            answer,
            response.session.SerializeToString(),
            now=now,
            ip_address=question.ip_address,
            passive=question.message.passive,
        )
    else:
        core.rejection_received(key, answer)
    return answer
