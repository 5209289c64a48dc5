"""Questions that wait to be asked: those that come together go out in one call."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Generic, TypeAlias, TypeVar

from session_authority import _conversion as convert
from session_authority._core import BATCH_LIMIT_REQUESTS
from session_authority.errors import InternalError
from session_authority.near_cache.address import is_address
from session_authority.near_cache.core import Due, NearCacheCore
from session_authority.near_cache.flights import Flight
from session_authority.near_cache.token_key import key_of
from session_authority.session import Rejection, Session
from session_authority.v1 import session_pb2
from session_authority.v1 import session_service_pb2 as v1

CALLS_LIMIT = 4
"""As many calls are in flight at most. One that comes alone is sent at once; what comes while all are in flight
goes out together in the next one."""

SHARED_QUESTIONS = 64
"""What more than as many wait with shares the calls that are free, so that the authority answers some while the
answers to others are taken in. Fewer cost it more each (docs/performance.md)."""

QUESTION_LIMIT_BYTES = 768
"""A larger one is asked by itself. So a batch of 1,000 is smaller than the authority's limit of 1 MiB."""

REPORTS_LIMIT = 10_000
"""Where as much waits already, a report is left to the session's next use."""

_Waiter = TypeVar("_Waiter")
Outcome: TypeAlias = Session | Rejection | Exception


@dataclass(slots=True, eq=False)
class Question(Generic[_Waiter]):
    """A question, and who waits for the answer: nobody, where it is a report that was due."""

    message: v1.ValidateSessionRequest = field(repr=False)
    ip_address: str | None = None
    waiters: list[_Waiter] = field(default_factory=list, repr=False)


class Questions(Generic[_Waiter]):
    """The questions that have not been sent yet.

    The same question asked twice is sent once, but only as long as it has not been sent: an answer that is on its
    way may be older than an ending that was answered before the second one was asked.
    """

    def __init__(self) -> None:
        self._waiting: dict[bytes, Question[_Waiter]] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def join(self, message: v1.ValidateSessionRequest, waiter: _Waiter) -> Question[_Waiter]:
        """Add a question, or somebody who waits for the same one."""
        question = self._question(message)
        question.ip_address = message.ip_address or None
        question.waiters.append(waiter)
        return question

    def leave(self, question: Question[_Waiter], waiter: _Waiter) -> None:
        """Let somebody go who waits no longer, and the question with the last of them."""
        if waiter in question.waiters:
            question.waiters.remove(waiter)
        if not question.waiters:
            payload = question.message.SerializeToString()
            if self._waiting.get(payload) is question:
                del self._waiting[payload]

    def last_waiter(self) -> _Waiter | None:
        """Give who came last of those that wait, None where nobody does."""
        question = next(reversed(self._waiting.values()), None)
        return question.waiters[-1] if question is not None else None

    def report(self, due: Due) -> None:
        """Add a question that reports use."""
        if len(self._waiting) < REPORTS_LIMIT:
            self._question(
                v1.ValidateSessionRequest(session_token=due.token, ip_address=due.ip_address or "")
            )

    def take(self, calls: int = 1) -> list[Question[_Waiter]]:
        """Take what goes out in the next of some calls, the oldest first."""
        share = max(math.ceil(len(self._waiting) / calls), SHARED_QUESTIONS)
        payloads = list(islice(self._waiting, min(share, BATCH_LIMIT_REQUESTS)))
        return [self._waiting.pop(payload) for payload in payloads]

    def _question(self, message: v1.ValidateSessionRequest) -> Question[_Waiter]:
        payload = message.SerializeToString()
        question = self._waiting.get(payload)
        if question is None:
            question = self._waiting[payload] = Question(message)
        return question


def may_be_batched(message: v1.ValidateSessionRequest) -> bool:
    """Say whether a question can be trusted not to fail the others of its batch."""
    if message.ByteSize() > QUESTION_LIMIT_BYTES:
        return False
    return not message.ip_address or is_address(message.ip_address)


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


def own_copy(error: Exception) -> Exception:
    """Give each of those who wait an exception of their own, since raising one changes it."""
    copy = type(error).__new__(type(error), *error.args)
    copy.__dict__.update(error.__dict__)
    return copy
