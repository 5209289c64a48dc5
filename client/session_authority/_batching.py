"""Questions that wait to be sent. Concurrent ones share a call. Nothing here does I/O.

A question is one validation request, with the callers that wait for its answer.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Generic, TypeAlias, TypeVar

from session_authority import _conversion as convert
from session_authority import _core
from session_authority._core import BATCH_LIMIT_REQUESTS, Operation
from session_authority.errors import InternalError
from session_authority.session import Rejection, Session
from session_authority.v1 import session_service_pb2 as v1

if TYPE_CHECKING:
    from opentelemetry.trace import Span

CALLS_LIMIT = 4
"""At most this many calls are in flight. While one is free, a question is sent at once. Otherwise questions wait, and
the next call takes them all."""

SHARED_QUESTIONS = 64
"""Above this many waiting questions, split them evenly over the free calls, so that the authority answers some while
the client takes in the answers to others."""

QUESTION_LIMIT_BYTES = 768
"""A larger question gets a call of its own, so that a batch of 1,000 stays below the authority's limit of 1 MiB."""

WAITING_LIMIT = 10_000
"""While this many questions wait, reports of use are dropped. The session's next use repeats the report."""

_Waiter = TypeVar("_Waiter")
Outcome: TypeAlias = Session | Rejection | Exception


@dataclass(slots=True, eq=False)
class Question(Generic[_Waiter]):
    """One validation request, and the callers that wait for its answer. A report of use has no callers.

    Attributes:
        message: The request.
        ip_address: The address that the latest caller gave.
        waiters: The callers.
        spans: The spans of the callers, if the client records traces.
    """

    message: v1.ValidateSessionRequest = field(repr=False)
    ip_address: str | None = None
    waiters: list[_Waiter] = field(default_factory=list, repr=False)
    spans: tuple["Span", ...] = ()


Exchange: TypeAlias = Callable[[Sequence[Question[_Waiter]]], Operation[list[Outcome]]]
"""Creates the operation that sends questions in one call, and returns the outcome of each."""


class Questions(Generic[_Waiter]):
    """The questions that have not been sent yet.

    Equal questions that wait are sent once. A question in flight is sent again, because its answer may be older than a
    revocation that has been acknowledged since.
    """

    def __init__(self) -> None:
        self._waiting: dict[bytes, Question[_Waiter]] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def join(
        self, message: v1.ValidateSessionRequest, waiter: _Waiter, span: "Span | None" = None
    ) -> Question[_Waiter]:
        """Add a caller and its question. If an equal question waits, add the caller to that question."""
        question = self._question(message)
        question.ip_address = message.ip_address or None
        question.waiters.append(waiter)
        if span is not None:
            question.spans += (span,)
        return question

    def leave(self, question: Question[_Waiter], waiter: _Waiter) -> None:
        """Remove a caller that has stopped waiting. Remove the question with its last caller."""
        if waiter in question.waiters:
            question.waiters.remove(waiter)
        if not question.waiters:
            payload = question.message.SerializeToString()
            if self._waiting.get(payload) is question:
                del self._waiting[payload]

    def last_waiter(self) -> _Waiter | None:
        """Return the latest caller of the newest question; None if no question waits."""
        question = next(reversed(self._waiting.values()), None)
        return question.waiters[-1] if question is not None else None

    def report(self, message: v1.ValidateSessionRequest) -> None:
        """Add a question that reports use, unless too many wait."""
        if len(self._waiting) < WAITING_LIMIT:
            self._question(message)

    def take(self, calls: int = 1) -> list[Question[_Waiter]]:
        """Remove and return one call's share of the questions, oldest first. `calls` is the number of free calls."""
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
    """Say whether a question is safe to batch: an invalid one would make the whole call fail."""
    if message.ByteSize() > QUESTION_LIMIT_BYTES:
        return False
    return not message.ip_address or convert.is_address(message.ip_address)


def ask(questions: Sequence[Question[_Waiter]]) -> Operation[list[Outcome]]:
    """Send questions in one call."""
    responses = yield from _core.validations(
        [question.message for question in questions], spans_of(questions)
    )
    return [_outcome(response) for response in responses]


def spans_of(questions: Sequence[Question[_Waiter]]) -> Sequence["Span"]:
    """Return the spans of all callers that wait for the answers."""
    return [span for question in questions for span in question.spans]


def _outcome(response: v1.ValidateSessionResponse) -> Outcome:
    try:
        return convert.answer_of(response)
    except InternalError as error:
        return error


def own_copy(error: Exception) -> Exception:
    """Return a copy of an error for one caller to raise, because raising an exception changes it."""
    copy = type(error).__new__(type(error), *error.args)
    copy.__dict__.update(error.__dict__)
    return copy
