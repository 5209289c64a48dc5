"""The operations of a client: the requests that they build, and the results that they read. Nothing here does I/O.

An operation is a generator. It yields each call to make, and returns the result. Its caller sends it the bytes of each
answer, or throws the error of a failed call into it. The clients in `sync` and `aio` only move the bytes.

An operation without a token makes no call: most visitors of a site have no session.
"""

import secrets
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeAlias, TypeVar

from google.protobuf.message import DecodeError, Message

from session_authority import _conversion as convert
from session_authority.errors import InternalError, SessionNotLive
from session_authority.session import (
    Identity,
    IpAddress,
    NewSession,
    Rejection,
    RejectionReason,
    RevokedSession,
    Session,
    ValidationRequest,
)
from session_authority.session_token import SessionToken, Token, presentable
from session_authority.v1 import session_admin_service_pb2 as admin_v1
from session_authority.v1 import session_service_pb2 as v1

if TYPE_CHECKING:
    from opentelemetry.trace import Span

SESSION_SERVICE = "/session_authority.v1.SessionService/"
ADMIN_SERVICE = "/session_authority.v1.SessionAdminService/"
BATCH_LIMIT_REQUESTS = 1000
PAGE_LIMIT_SESSIONS = 200
_RETRY_SECRET_BYTES = 32
# The answer if a call fails with TOO_MANY_REJECTED_TOKENS. A rejection without a reason keeps the user's cookie.
_REJECTED = v1.ValidateSessionResponse(rejection=v1.Rejection())


@dataclass(frozen=True, slots=True)
class Call:
    """One unary call: its method, and the bytes to send.

    Attributes:
        waiting_spans: The spans of the validations that share the call; None for a call that is not shared.
    """

    method: str
    payload: bytes = field(repr=False)
    waiting_spans: Sequence["Span"] | None = None


_Result = TypeVar("_Result")
_Answer_co = TypeVar("_Answer_co", bound=Message, covariant=True)

Operation: TypeAlias = Generator[Call, bytes, _Result]


class _AnswerType(Protocol[_Answer_co]):
    def FromString(self, s: bytes, /) -> _Answer_co: ...  # noqa: N802 - protobuf's name


def create(
    user_id: str,
    *,
    ip_address: IpAddress,
    user_agent: str | bytes | None,
    authenticate_time: datetime | None,
    authentication_methods: Iterable[str],
    lifetime: timedelta | None,
    idle_timeout: timedelta | None,
    attributes: Mapping[str, str] | None,
    actor_id: str | None,
    identity: Identity | None,
    retry_secret: bytes | None,
) -> Operation[NewSession]:
    """Record a sign-in. All retries send the same retry secret: the given one, or a generated one."""
    request = v1.CreateSessionRequest(
        user_id=convert.text("user_id", user_id),
        ip_address=convert.ip_address(ip_address),
        user_agent=convert.user_agent(user_agent),
        authenticate_time=convert.timestamp("authenticate_time", authenticate_time),
        authentication_methods=_methods(authentication_methods),
        lifetime=convert.duration("lifetime", lifetime),
        idle_timeout=convert.duration("idle_timeout", idle_timeout),
        attributes={
            convert.text("attributes", key): convert.text(f"attributes[{key!r}]", value)
            for key, value in (attributes or {}).items()
        },
        actor_id=_actor(actor_id),
        identity=_identity(identity),
        retry_secret=retry_secret or secrets.token_bytes(_RETRY_SECRET_BYTES),
    )
    answer = yield from _ask("CreateSession", request, v1.CreateSessionResponse)
    return _new_session(answer)


def validate(request: ValidationRequest) -> Operation[Session | Rejection]:
    """Say whether a token is valid."""
    message = validation(request)
    if not message.session_token:
        return Rejection(RejectionReason.NOT_FOUND)
    (answer,) = yield from validations([message])
    return convert.answer_of(answer)


def validate_many(
    requests: Iterable[ValidationRequest],
) -> Operation[list[Session | Rejection]]:
    """Validate many tokens, and return the answers in the same order."""
    messages = [validation(request) for request in requests]
    answers: list[Session | Rejection] = [Rejection(RejectionReason.NOT_FOUND)] * len(messages)
    asked = [index for index, message in enumerate(messages) if message.session_token]
    for chunk in _chunks(asked, BATCH_LIMIT_REQUESTS):
        responses = yield from batch_of_validations([messages[index] for index in chunk])
        for index, response in zip(chunk, responses, strict=True):
            answers[index] = convert.answer_of(response)
    return answers


def validations(
    messages: Sequence[v1.ValidateSessionRequest],
    waiting_spans: Sequence["Span"] | None = None,
) -> Operation[Sequence[v1.ValidateSessionResponse]]:
    """Validate 1 to 1,000 tokens in one call. ValidateSession is cheaper for a single token."""
    if len(messages) > 1:
        return (yield from batch_of_validations(messages, waiting_spans))
    try:
        answer = yield from _ask(
            "ValidateSession", messages[0], v1.ValidateSessionResponse, waiting_spans
        )
    except SessionNotLive:
        answer = _REJECTED
    return (answer,)


def batch_of_validations(
    messages: Sequence[v1.ValidateSessionRequest],
    waiting_spans: Sequence["Span"] | None = None,
) -> Operation[Sequence[v1.ValidateSessionResponse]]:
    """Validate 1 to 1,000 tokens in one BatchValidateSessions call."""
    try:
        answer = yield from _ask(
            "BatchValidateSessions",
            v1.BatchValidateSessionsRequest(requests=messages),
            v1.BatchValidateSessionsResponse,
            waiting_spans,
        )
    except SessionNotLive:
        return [_REJECTED] * len(messages)
    if len(answer.responses) != len(messages):
        raise InternalError(f"{len(messages)} requests got {len(answer.responses)} answers")
    return answer.responses


def list_sessions(token: Token, *, show_ended: bool, page_size: int) -> Operation[list[Session]]:
    """List a user's own sessions, all pages of them."""
    # A session that is used between two pages may appear on both.
    sessions: dict[str, Session] = {}
    page_token = ""
    while True:
        page = yield from list_page(
            token, show_ended=show_ended, page_size=page_size, page_token=page_token
        )
        for session in page.sessions:
            sessions.setdefault(session.session_id, session)
        page_token = page.next_page_token
        if not page_token:
            return list(sessions.values())


class ListedPage(NamedTuple):
    """One page of a user's sessions.

    Attributes:
        sessions: The sessions of this page.
        next_page_token: The `page_token` of the next page. Empty on the last page.
        total: The number of the user's live sessions over all pages. 10,001 means more than 10,000.
    """

    sessions: list[Session]
    next_page_token: str
    total: int


def list_page(
    token: Token,
    *,
    show_ended: bool = False,
    only_ended: bool = False,
    page_size: int,
    page_token: str = "",
) -> Operation[ListedPage]:
    """List one page of a user's own sessions."""
    if not 1 <= page_size <= PAGE_LIMIT_SESSIONS:
        raise convert.invalid("page_size", f"must be from 1 to {PAGE_LIMIT_SESSIONS}")
    answer = yield from _ask(
        "ListSessions",
        v1.ListSessionsRequest(
            session_token=_required_token(token),
            page_size=page_size,
            page_token=page_token,
            show_ended=show_ended,
            only_ended=only_ended,
        ),
        v1.ListSessionsResponse,
    )
    if answer.next_page_token and answer.next_page_token == page_token:
        raise InternalError("a page of the list names itself as the next page")
    sessions = [convert.session_of(each) for each in answer.sessions]
    return ListedPage(sessions, answer.next_page_token, answer.total_size)


def revoke(token: Token, session_id: str) -> Operation[RevokedSession]:
    """End one of the user's sessions."""
    request = v1.RevokeSessionRequest(
        session_token=_required_token(token), session_id=convert.text("session_id", session_id)
    )
    answer = yield from _ask("RevokeSession", request, v1.RevokeSessionResponse)
    return RevokedSession(
        session=convert.session_of(answer.session),
        effective_time=convert.time_of(answer.effective_time),
        already_ended=answer.already_ended,
    )


def name(token: Token, session_id: str, label: str) -> Operation[Session]:
    """Store the user's own name of one of the user's sessions."""
    request = v1.NameSessionRequest(
        session_token=_required_token(token),
        session_id=convert.text("session_id", session_id),
        label=convert.text("label", label),
    )
    answer = yield from _ask("NameSession", request, v1.NameSessionResponse)
    return convert.session_of(answer.session)


def revoke_others(token: Token) -> Operation[datetime]:
    """Revoke all of the user's sessions except the token's own."""
    request = v1.RevokeOtherSessionsRequest(session_token=_required_token(token))
    answer = yield from _ask("RevokeOtherSessions", request, v1.RevokeOtherSessionsResponse)
    return convert.time_of(answer.effective_time)


def revoke_identity(
    issuer: str, *, subject: str | None, sid: str | None, reason: str
) -> Operation[datetime]:
    """Revoke the sessions of a user of an identity provider, or of one session there."""
    request = admin_v1.RevokeIdentitySessionsRequest(
        issuer=convert.text("issuer", issuer),
        subject=convert.text("subject", subject or ""),
        sid=convert.text("sid", sid or ""),
        reason=convert.text("reason", reason),
    )
    answer_type = admin_v1.RevokeIdentitySessionsResponse
    answer = yield from _ask("RevokeIdentitySessions", request, answer_type, service=ADMIN_SERVICE)
    return convert.time_of(answer.effective_time)


def sign_out(token: Token) -> Operation[datetime]:
    """End the token's own session. Without a token, make no call and return the epoch."""
    session_token = presentable(token)
    if not session_token:
        return convert.EPOCH
    request = v1.SignOutRequest(session_token=session_token)
    answer = yield from _ask("SignOut", request, v1.SignOutResponse)
    return convert.time_of(answer.effective_time)


def reauthenticate(
    token: Token,
    *,
    authentication_methods: Iterable[str],
    authenticate_time: datetime | None,
    retry_secret: bytes | None,
) -> Operation[NewSession]:
    """Record that the user proved their identity again. The retry secret is as in `create`."""
    request = v1.ReauthenticateSessionRequest(
        session_token=_required_token(token),
        authenticate_time=convert.timestamp("authenticate_time", authenticate_time),
        authentication_methods=_methods(authentication_methods),
        retry_secret=retry_secret or secrets.token_bytes(_RETRY_SECRET_BYTES),
    )
    answer = yield from _ask("ReauthenticateSession", request, v1.ReauthenticateSessionResponse)
    return _new_session(answer)


def session_or_raise(answer: Session | Rejection) -> Session:
    """Return the session of an answer.

    Raises:
        SessionNotLive: The answer is a rejection.
    """
    if isinstance(answer, Rejection):
        raise SessionNotLive(answer.reason, rejection=answer)
    return answer


def _ask(
    method: str,
    request: Message,
    answer_type: _AnswerType[_Answer_co],
    waiting_spans: Sequence["Span"] | None = None,
    *,
    service: str = SESSION_SERVICE,
) -> Operation[_Answer_co]:
    payload = yield Call(service + method, request.SerializeToString(), waiting_spans)
    try:
        return answer_type.FromString(payload)
    except DecodeError:
        failure = InternalError(f"the answer to {method} cannot be decoded")
    raise failure


def validation(request: ValidationRequest) -> v1.ValidateSessionRequest:
    """Return the request that validates a token. `session_token` is empty if the token cannot be valid."""
    # None means any user. An empty id is an app's mistake: the authority would accept any user for it too.
    if request.user_id == "":
        raise convert.invalid("user_id", "must not be empty; leave it out to accept any user")
    return v1.ValidateSessionRequest(
        session_token=presentable(request.token),
        ip_address=convert.ip_address(request.ip_address),
        user_id=convert.text("user_id", request.user_id or ""),
        passive=request.passive,
    )


def _required_token(token: Token) -> str:
    """Return the text of a token.

    Raises:
        SessionNotLive: There is no token, so the authority would reject the call.
    """
    session_token = presentable(token)
    if not session_token:
        raise SessionNotLive("no token", rejection=Rejection(RejectionReason.NOT_FOUND))
    return session_token


def _actor(actor_id: str | None) -> str:
    # None means that the user signs in. An empty id is an app's mistake: the authority would treat it as None.
    if actor_id == "":
        raise convert.invalid("actor_id", "must not be empty; leave it out if the user signs in")
    return convert.text("actor_id", actor_id or "")


def _identity(identity: Identity | None) -> v1.Identity | None:
    if identity is None:
        return None
    return v1.Identity(
        issuer=convert.text("identity.issuer", identity.issuer),
        subject=convert.text("identity.subject", identity.subject),
        sid=convert.text("identity.sid", identity.sid or ""),
    )


def _methods(names: Iterable[str]) -> list[str]:
    # A str is iterable too: each letter would become a name.
    if isinstance(names, str):
        raise TypeError("authentication_methods must be a sequence of names, not a str")
    return [convert.text("authentication_methods", name) for name in names]


def _chunks(indexes: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    return (indexes[start : start + size] for start in range(0, len(indexes), size))


def _new_session(
    answer: v1.CreateSessionResponse | v1.ReauthenticateSessionResponse,
) -> NewSession:
    if not answer.session_token:
        raise InternalError("the answer contains no token")
    return NewSession(
        session=convert.session_of(answer.session), token=SessionToken(answer.session_token)
    )
