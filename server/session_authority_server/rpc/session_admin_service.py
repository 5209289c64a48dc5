from dataclasses import dataclass
from typing import Any

import grpc

from session_authority.v1 import session_admin_service_pb2 as pb
from session_authority_server.domain.errors import InvalidRequest, Violation
from session_authority_server.rpc.conversion import from_timestamp, to_timestamp
from session_authority_server.usecases.erase_user import EraseUser
from session_authority_server.usecases.revoke_all_sessions import RevokeAllSessions
from session_authority_server.usecases.revoke_key_sessions import RevokeKeySessions
from session_authority_server.usecases.revoke_one_session import RevokeOneSession
from session_authority_server.usecases.revoke_user_sessions import RevokeUserSessions

Context = grpc.aio.ServicerContext[Any, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class AdminUseCases:
    """What the service can be asked to do."""

    revoke_user: RevokeUserSessions
    revoke_all: RevokeAllSessions
    revoke_one: RevokeOneSession
    revoke_key: RevokeKeySessions
    erase_user: EraseUser


class SessionAdminService:
    """`session_authority.v1.SessionAdminService`: parses, calls, answers."""

    def __init__(self, usecases: AdminUseCases) -> None:
        self._usecases = usecases

    async def RevokeUserSessions(
        self, request: pb.RevokeUserSessionsRequest
    ) -> pb.RevokeUserSessionsResponse:
        effective_time = await self._usecases.revoke_user(request.user_id, request.reason)
        return pb.RevokeUserSessionsResponse(effective_time=to_timestamp(effective_time))

    async def RevokeAllSessions(
        self, request: pb.RevokeAllSessionsRequest
    ) -> pb.RevokeAllSessionsResponse:
        effective_time = await self._usecases.revoke_all(request.reason)
        return pb.RevokeAllSessionsResponse(effective_time=to_timestamp(effective_time))

    async def RevokeOneSession(
        self, request: pb.RevokeOneSessionRequest
    ) -> pb.RevokeOneSessionResponse:
        revoke = self._usecases.revoke_one
        match request.WhichOneof("target"):
            case "session_id":
                effective_time = await revoke.by_id(request.session_id, request.reason)
            case "session_token":
                effective_time = await revoke.by_token(request.session_token, request.reason)
            case _:
                raise InvalidRequest([Violation("target", "give a session_id or a session_token")])
        return pb.RevokeOneSessionResponse(effective_time=to_timestamp(effective_time))

    async def RevokeKeySessions(
        self, request: pb.RevokeKeySessionsRequest
    ) -> pb.RevokeKeySessionsResponse:
        since = from_timestamp(request.since, "since") if request.HasField("since") else None
        done = await self._usecases.revoke_key(request.created_by_key, since, request.reason)
        resume_time = done.resume_time
        return pb.RevokeKeySessionsResponse(
            effective_time=to_timestamp(done.effective_time),
            complete=resume_time is None,
            resume_time=None if resume_time is None else to_timestamp(resume_time),
        )

    async def EraseUser(self, request: pb.EraseUserRequest) -> pb.EraseUserResponse:
        erasure = await self._usecases.erase_user(request.user_id)
        return pb.EraseUserResponse(
            effective_time=to_timestamp(erasure.effective_time), complete=erasure.complete
        )
