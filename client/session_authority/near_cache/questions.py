"""What the near cache learns from the answers to questions."""

from collections.abc import Sequence
from typing import TypeVar

from session_authority import _conversion as convert
from session_authority._batching import Outcome, Question
from session_authority.errors import InternalError
from session_authority.near_cache.core import NearCacheCore
from session_authority.near_cache.flights import Flight
from session_authority.near_cache.token_key import key_of
from session_authority.session import Session
from session_authority.v1 import session_pb2
from session_authority.v1 import session_service_pb2 as v1

_Waiter = TypeVar("_Waiter")


def decoded(encoded: bytes) -> Session:
    """Give the session that `settle` had the cache keep."""
    return convert.session_of(session_pb2.Session.FromString(encoded))


def settle(
    core: NearCacheCore,
    flight: Flight,
    questions: Sequence[Question[_Waiter]],
    responses: Sequence[v1.ValidateSessionResponse],
    now: float,
) -> list[Outcome]:
    """Have the cache learn from the answers of one call, and give the outcome of each question."""
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
