from collections.abc import Awaitable, Sequence

from session_authority.v1 import session_service_pb2 as pb
from session_authority_server.domain.errors import AuthorityError, InvalidRequest
from session_authority_server.domain.identity import Identity
from session_authority_server.domain.location import Location
from session_authority_server.domain.session import Session
from session_authority_server.domain.verdict import MALFORMED, NOT_FOUND, Rejection
from session_authority_server.observability import metrics
from session_authority_server.observability.metrics import VALIDATIONS
from session_authority_server.rpc.authentication import Caller, RejectedTokens, current_caller
from session_authority_server.rpc.conversion import (
    given_duration,
    given_timestamp,
    to_answer,
    to_batch_answer,
    to_session,
    to_timestamp,
)
from session_authority_server.usecases.context import Context
from session_authority_server.usecases.create_session import SignIn, create_session
from session_authority_server.usecases.list_sessions import Listing, list_sessions
from session_authority_server.usecases.name_session import name_session
from session_authority_server.usecases.reauthenticate_session import (
    Reauthentication,
    reauthenticate_session,
)
from session_authority_server.usecases.revoke_session import revoke_other_sessions, revoke_session
from session_authority_server.usecases.sign_out import sign_out
from session_authority_server.usecases.validate_sessions import (
    NotYetRecorded,
    Outcome,
    Validation,
    batch_verdicts,
    check_count,
    record_use,
    validate_sessions,
)

_accepted = VALIDATIONS.cell(metrics.ACCEPTED)


class SessionService:
    """`session_authority.v1.SessionService`: parses requests, calls use-cases and builds responses."""

    def __init__(self, context: Context, rejected: RejectedTokens | None = None) -> None:
        self._context = context
        self._rejected = rejected or RejectedTokens(context.clock, 0)

    async def CreateSession(self, request: pb.CreateSessionRequest) -> pb.CreateSessionResponse:
        session, token = await create_session(
            self._context,
            SignIn(
                user_id=request.user_id,
                ip_address=request.ip_address,
                user_agent=request.user_agent,
                authenticate_time=given_timestamp(request, "authenticate_time"),
                authentication_methods=tuple(request.authentication_methods),
                lifetime=given_duration(request, "lifetime"),
                idle_timeout=given_duration(request, "idle_timeout"),
                attributes=dict(request.attributes),
                actor_id=request.actor_id,
                identity=_identity(request),
                retry_secret=request.retry_secret,
                caller=current_caller.get().key_id,
            ),
        )
        return pb.CreateSessionResponse(
            session=to_session(session, self._context.clock.now(), session.session_id),
            session_token=token.encode(),
        )

    async def validate_each(
        self, calls: Sequence[tuple[Caller, pb.ValidateSessionRequest]]
    ) -> list[bytes | AuthorityError | Awaitable[bytes]]:
        """Answer ValidateSession calls that arrived together.

        Returns:
            One answer per call, in order: the response, the error, or an awaitable. The awaitable writes the use of
            the session, and then returns the response.
        """
        outcomes = await validate_sessions(
            self._context, [_validation(request) for _, request in calls]
        )
        _count(outcomes)
        return [
            self._answer(caller, outcome)
            for (caller, _), outcome in zip(calls, outcomes, strict=True)
        ]

    def _answer(
        self, caller: Caller, outcome: Outcome
    ) -> bytes | AuthorityError | Awaitable[bytes]:
        if isinstance(outcome, NotYetRecorded):
            return self._record_and_answer(outcome)
        if isinstance(outcome, InvalidRequest):
            return outcome
        if outcome is NOT_FOUND:
            return self._rejected.count(caller) or to_answer(outcome)
        return to_answer(outcome)

    async def _record_and_answer(self, not_yet_recorded: NotYetRecorded) -> bytes:
        await record_use(self._context, [not_yet_recorded])
        _accepted.value += 1
        return to_answer(not_yet_recorded.session)

    async def BatchValidateSessions(self, request: pb.BatchValidateSessionsRequest) -> bytes:
        outcomes = await validate_sessions(
            self._context, check_count([_validation(each) for each in request.requests])
        )
        verdicts = await batch_verdicts(self._context, outcomes)
        _count(verdicts)
        unknown = [each for each in verdicts if each is NOT_FOUND]
        refused = self._rejected.count(current_caller.get()) if unknown else None
        if refused is not None and all(each == NOT_FOUND for each in verdicts):
            raise refused
        return to_batch_answer(verdicts)

    async def ListSessions(self, request: pb.ListSessionsRequest) -> pb.ListSessionsResponse:
        page = await list_sessions(
            self._context,
            Listing(
                session_token=request.session_token,
                page_size=request.page_size,
                page_token=request.page_token,
                show_ended=request.show_ended,
                only_ended=request.only_ended,
            ),
        )
        return pb.ListSessionsResponse(
            sessions=[
                to_session(session, page.now, page.current, self._locate(session))
                for session in page.sessions
            ],
            next_page_token=page.next_page_token,
            total_size=page.total,
        )

    def _locate(self, session: Session) -> Location | None:
        return self._context.locate(session.last_ip_address or session.ip_address)

    async def RevokeSession(self, request: pb.RevokeSessionRequest) -> pb.RevokeSessionResponse:
        revocation = await revoke_session(self._context, request.session_token, request.session_id)
        session = revocation.session
        current = session.session_id if revocation.current else None
        return pb.RevokeSessionResponse(
            session=to_session(session, self._context.clock.now(), current),
            effective_time=to_timestamp(revocation.effective_time),
            already_ended=revocation.already_ended,
        )

    async def NameSession(self, request: pb.NameSessionRequest) -> pb.NameSessionResponse:
        named = await name_session(
            self._context, request.session_token, request.session_id, request.label
        )
        session, current = named.session, named.session.session_id if named.current else None
        return pb.NameSessionResponse(
            session=to_session(session, self._context.clock.now(), current)
        )

    async def RevokeOtherSessions(
        self, request: pb.RevokeOtherSessionsRequest
    ) -> pb.RevokeOtherSessionsResponse:
        effective_time = await revoke_other_sessions(self._context, request.session_token)
        return pb.RevokeOtherSessionsResponse(effective_time=to_timestamp(effective_time))

    async def SignOut(self, request: pb.SignOutRequest) -> pb.SignOutResponse:
        effective_time = await sign_out(self._context, request.session_token)
        return pb.SignOutResponse(effective_time=to_timestamp(effective_time))

    async def ReauthenticateSession(
        self, request: pb.ReauthenticateSessionRequest
    ) -> pb.ReauthenticateSessionResponse:
        session, token = await reauthenticate_session(
            self._context,
            Reauthentication(
                session_token=request.session_token,
                authenticate_time=given_timestamp(request, "authenticate_time"),
                authentication_methods=tuple(request.authentication_methods),
                retry_secret=request.retry_secret,
                caller=current_caller.get().key_id,
            ),
        )
        return pb.ReauthenticateSessionResponse(
            session=to_session(session, self._context.clock.now(), session.session_id),
            session_token=token.encode(),
        )


def _validation(request: pb.ValidateSessionRequest) -> Validation:
    return Validation(request.session_token, request.ip_address, request.user_id, request.passive)


def _identity(request: pb.CreateSessionRequest) -> Identity | None:
    identity = request.identity
    if not request.HasField("identity"):
        return None
    return Identity(identity.issuer, identity.subject, identity.sid)


def _count(outcomes: Sequence[Outcome]) -> None:
    """Count the outcomes of validations. Leave out errors, and sessions that are not accepted yet."""
    accepted = 0
    for outcome in outcomes:
        if type(outcome) is Session:
            accepted += 1
        elif isinstance(outcome, Rejection):
            VALIDATIONS.inc(
                metrics.MALFORMED if outcome is MALFORMED else str(outcome.reason.value)
            )
    _accepted.value += accepted
