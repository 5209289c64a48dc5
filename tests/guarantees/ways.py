"""Ten ways to end a session."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from session_authority import NewSession
from session_authority.admin import admin_calls
from session_authority.testing import Authority
from session_authority.v1 import session_admin_service_pb2 as v1
from session_authority_server.domain.policy import Policy

SESSION_LIMIT = 3
# How long a session lives that expires. The near cache answers for it from memory at first.
LIFETIME = timedelta(seconds=12)
ISSUER = "https://id.example"

End = Callable[[Authority, NewSession], datetime | None]


@dataclass(frozen=True)
class Way:
    """A way to end a session.

    Attributes:
        end: Ends a session. Returns the answer's `effective_time`, if the answer has one.
        at_most: Without an `effective_time`, how long after the ending a cache may accept the session.
    """

    end: End
    at_most: timedelta = timedelta(0)


def _revoke(authority: Authority, new: NewSession) -> datetime:
    other = authority.sign_in(new.session.user_id)
    with authority.client() as client:
        return client.revoke(other.token, new.session.session_id).effective_time


def _revoke_others(authority: Authority, new: NewSession) -> datetime:
    other = authority.sign_in(new.session.user_id)
    with authority.client() as client:
        return client.revoke_others(other.token)


def _sign_out(authority: Authority, new: NewSession) -> datetime:
    with authority.client() as client:
        return client.sign_out(new.token)


def _reauthenticate(authority: Authority, new: NewSession) -> None:
    with authority.client() as client:
        client.reauthenticate(new.token)


def _reach_the_limit(authority: Authority, new: NewSession) -> None:
    for _ in range(SESSION_LIMIT):
        authority.sign_in(new.session.user_id)


def _expire(authority: Authority, new: NewSession) -> datetime:
    return new.session.expire_time


def _revoke_user(authority: Authority, new: NewSession) -> datetime:
    request = v1.RevokeUserSessionsRequest(user_id=new.session.user_id, reason="test")
    with admin_calls(authority.environment) as call:
        return _effective_time(call("RevokeUserSessions", request))


def _revoke_all(authority: Authority, _new: NewSession) -> datetime:
    with admin_calls(authority.environment) as call:
        request = v1.RevokeAllSessionsRequest(reason="test")
        return _effective_time(call("RevokeAllSessions", request))


def _revoke_one(authority: Authority, new: NewSession) -> datetime:
    request = v1.RevokeOneSessionRequest(session_id=new.session.session_id, reason="test")
    with admin_calls(authority.environment) as call:
        return _effective_time(call("RevokeOneSession", request))


def _revoke_identity(authority: Authority, new: NewSession) -> datetime:
    with authority.client() as client:
        return client.revoke_identity(ISSUER, sid=new.session.user_id)


def _effective_time(answer: Any) -> datetime:
    time: datetime = answer.effective_time.ToDatetime(UTC)
    return time


_LEASE = Policy().cache_lease

WAYS: Mapping[str, Way] = {
    "RevokeSession": Way(_revoke),
    "RevokeOtherSessions": Way(_revoke_others),
    "SignOut": Way(_sign_out),
    "ReauthenticateSession": Way(_reauthenticate, at_most=_LEASE),
    "session limit": Way(_reach_the_limit, at_most=_LEASE),
    "expiry": Way(_expire),
    "RevokeUserSessions": Way(_revoke_user),
    "RevokeAllSessions": Way(_revoke_all),
    "RevokeOneSession": Way(_revoke_one),
    "RevokeIdentitySessions": Way(_revoke_identity),
}
