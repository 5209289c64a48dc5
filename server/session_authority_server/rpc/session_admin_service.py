from session_authority.v1 import session_admin_service_pb2 as pb
from session_authority_server.domain.errors import InvalidRequest, Violation
from session_authority_server.rpc.conversion import given_timestamp, to_timestamp
from session_authority_server.usecases.context import Context
from session_authority_server.usecases.erase_user import erase_user
from session_authority_server.usecases.operator_revoke import (
    revoke_all_sessions,
    revoke_identity_sessions,
    revoke_key_sessions,
    revoke_session_by_id,
    revoke_session_by_token,
    revoke_user_sessions,
)


class SessionAdminService:
    """`session_authority.v1.SessionAdminService`: parses requests, calls use-cases and builds responses."""

    def __init__(self, context: Context) -> None:
        self._context = context

    async def RevokeUserSessions(
        self, request: pb.RevokeUserSessionsRequest
    ) -> pb.RevokeUserSessionsResponse:
        effective_time = await revoke_user_sessions(self._context, request.user_id, request.reason)
        return pb.RevokeUserSessionsResponse(effective_time=to_timestamp(effective_time))

    async def RevokeAllSessions(
        self, request: pb.RevokeAllSessionsRequest
    ) -> pb.RevokeAllSessionsResponse:
        effective_time = await revoke_all_sessions(self._context, request.reason)
        return pb.RevokeAllSessionsResponse(effective_time=to_timestamp(effective_time))

    async def RevokeOneSession(
        self, request: pb.RevokeOneSessionRequest
    ) -> pb.RevokeOneSessionResponse:
        context, reason = self._context, request.reason
        match request.WhichOneof("target"):
            case "session_id":
                effective_time = await revoke_session_by_id(context, request.session_id, reason)
            case "session_token":
                effective_time = await revoke_session_by_token(
                    context, request.session_token, reason
                )
            case _:
                raise InvalidRequest([Violation("target", "give a session_id or a session_token")])
        return pb.RevokeOneSessionResponse(effective_time=to_timestamp(effective_time))

    async def RevokeKeySessions(
        self, request: pb.RevokeKeySessionsRequest
    ) -> pb.RevokeKeySessionsResponse:
        since = given_timestamp(request, "since")
        done = await revoke_key_sessions(
            self._context, request.created_by_key, since, request.reason
        )
        resume_time = done.resume_time
        return pb.RevokeKeySessionsResponse(
            effective_time=to_timestamp(done.effective_time),
            complete=resume_time is None,
            resume_time=None if resume_time is None else to_timestamp(resume_time),
        )

    async def RevokeIdentitySessions(
        self, request: pb.RevokeIdentitySessionsRequest
    ) -> pb.RevokeIdentitySessionsResponse:
        effective_time = await revoke_identity_sessions(
            self._context, request.issuer, request.subject, request.sid, request.reason
        )
        return pb.RevokeIdentitySessionsResponse(effective_time=to_timestamp(effective_time))

    async def EraseUser(self, request: pb.EraseUserRequest) -> pb.EraseUserResponse:
        erasure = await erase_user(self._context, request.user_id)
        return pb.EraseUserResponse(
            effective_time=to_timestamp(erasure.effective_time), complete=erasure.complete
        )
