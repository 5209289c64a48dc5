"""Validations that wait to be sent: those that come together go out in one call. Nothing here does I/O."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Generic, TypeAlias, TypeVar

from session_authority import _conversion as convert
from session_authority import _core
from session_authority._core import BATCH_LIMIT_REQUESTS, Operation
from session_authority.errors import InternalError
from session_authority.session import Rejection, Session
from session_authority.v1 import session_service_pb2 as v1

CALLS_LIMIT = 4
"""As many calls are in flight at most. A question that comes alone is sent at once. Questions that come while all calls
are in flight go out together in the next one."""

SHARED_QUESTIONS = 64
"""Above this many waiting questions, split them evenly over the free calls, so that the authority answers some while
the client takes in the answers to others."""

QUESTION_LIMIT_BYTES = 768
"""A larger question is asked by itself, so that a batch of 1,000 stays below the authority's limit of 1 MiB."""

WAITING_LIMIT = 10_000
"""When this many questions wait already, a report of use is left to the session's next use."""

_Waiter = TypeVar("_Waiter")
Outcome: TypeAlias = Session | Rejection | Exception


@dataclass(slots=True, eq=False)
class Question(Generic[_Waiter]):
    """A question and the callers that wait for its answer; none if it only reports use."""

    message: v1.ValidateSessionRequest = field(repr=False)
    ip_address: str | None = None
    waiters: list[_Waiter] = field(default_factory=list, repr=False)


Exchange: TypeAlias = Callable[[Sequence[Question[_Waiter]]], Operation[list[Outcome]]]
"""Asks questions in one call, and returns the outcome of each."""


class Questions(Generic[_Waiter]):
    """The questions that have not been sent yet.

    A question that is asked twice is sent once, but only if it has not been sent: an answer in flight may be older than
    a revocation that was acknowledged before the question was asked again.
    """

    def __init__(self) -> None:
        self._waiting: dict[bytes, Question[_Waiter]] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def join(self, message: v1.ValidateSessionRequest, waiter: _Waiter) -> Question[_Waiter]:
        """Add a question, or a caller to the same question that waits already."""
        question = self._question(message)
        question.ip_address = message.ip_address or None
        question.waiters.append(waiter)
        return question

    def leave(self, question: Question[_Waiter], waiter: _Waiter) -> None:
        """Remove a caller that waits no longer, and the question with its last caller."""
        if waiter in question.waiters:
            question.waiters.remove(waiter)
        if not question.waiters:
            payload = question.message.SerializeToString()
            if self._waiting.get(payload) is question:
                del self._waiting[payload]

    def last_waiter(self) -> _Waiter | None:
        """Return the caller that came last; None if none waits."""
        question = next(reversed(self._waiting.values()), None)
        return question.waiters[-1] if question is not None else None

    def report(self, message: v1.ValidateSessionRequest) -> None:
        """Add a question that reports use, unless too many wait."""
        if len(self._waiting) < WAITING_LIMIT:
            self._question(message)

    def take(self, calls: int = 1) -> list[Question[_Waiter]]:
        """Take the questions for the next of some free calls, oldest first."""
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
    """Say whether a question cannot make its whole batch fail."""
    if message.ByteSize() > QUESTION_LIMIT_BYTES:
        return False
    return not message.ip_address or convert.is_address(message.ip_address)


def ask(questions: Sequence[Question[_Waiter]]) -> Operation[list[Outcome]]:
    """Ask questions in one call."""
    responses = yield from _core.validations([question.message for question in questions])
    return [_outcome(response) for response in responses]


def _outcome(response: v1.ValidateSessionResponse) -> Outcome:
    try:
        return convert.answer_of(response)
    except InternalError as error:
        return error


def own_copy(error: Exception) -> Exception:
    """Return a copy for one caller, because raising an exception changes it."""
    copy = type(error).__new__(type(error), *error.args)
    copy.__dict__.update(error.__dict__)
    return copy
