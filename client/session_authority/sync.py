# Generated from aio.py by `make sync`. Do not edit.
"""The client for threads."""

import builtins
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta

from session_authority import _core
from session_authority._caller_sync import Caller
from session_authority.near_cache import operations
from session_authority.session import (
    IpAddress,
    NewSession,
    Rejection,
    RevokedSession,
    Session,
    ValidationRequest,
)
from session_authority.session_token import Token


class SessionClient(Caller):
    """Asks the session authority, blocking the calling thread.

    One client serves all threads of a process, and every process that forks off gets connections of
    its own. Nothing connects before the first call. Close it, or use it in an `with` block.

    Any method that calls the authority may raise `Unavailable` when nothing is known,
    `CallerRejected` when the API key is not accepted, `InvalidArgument` for what breaks a limit,
    `RequestTooLarge`, `InternalError` for a fault of the authority, and `ClientClosed` after `close`.
    """

    def create(
        self,
        user_id: str,
        *,
        ip_address: IpAddress = None,
        user_agent: str | bytes | None = None,
        authenticate_time: datetime | None = None,
        authentication_methods: Iterable[str] = (),
        lifetime: timedelta | None = None,
        idle_timeout: timedelta | None = None,
        attributes: Mapping[str, str] | None = None,
        actor_id: str | None = None,
        retry_secret: bytes | None = None,
    ) -> NewSession:
        """Record a sign-in that the app has just verified, and get the session's token.

        Args:
            user_id: The app's own stable name for the user, 1 to 255 bytes.
            ip_address: The user's IP address: one, without port, zone or list of proxies.
            user_agent: The User-Agent header as received; nothing in it fails a sign-in.
            authenticate_time: When the credential check *began*, aware; now unless given. It lets
                the authority refuse a sign-in that "end everything" was to shut out.
            authentication_methods: How the user proved who they are, in the names of RFC 8176.
            lifetime: The absolute lifetime; by default and at most the policy's.
            idle_timeout: The idle timeout, at least a minute; the policy's unless given.
            attributes: At most 16 texts, which each validation returns; they never change.
            actor_id: Another person who acts as the user, by an id of the same form. Such a session can
                neither list nor revoke.
            retry_secret: 32 random bytes, to repeat this very call later, after `Unavailable`, and get
                the same session. The client's own repetitions need none.

        Returns:
            The session and its token, which is shown this once.

        Raises:
            AuthenticationTooOld: The user's sessions were all ended after `authenticate_time`.
            SessionLimitReached: The policy refuses the user another session.
            RetryStale: The session of an earlier attempt of this call has ended meanwhile.
        """
        return self.run_operation(
            _core.create(
                user_id,
                ip_address=ip_address,
                user_agent=user_agent,
                authenticate_time=authenticate_time,
                authentication_methods=authentication_methods,
                lifetime=lifetime,
                idle_timeout=idle_timeout,
                attributes=attributes,
                actor_id=actor_id,
                retry_secret=retry_secret,
            )
        )

    def validate(
        self,
        token: Token,
        *,
        ip_address: IpAddress = None,
        user_id: str | None = None,
        passive: bool = False,
    ) -> Session | Rejection:
        """Say whether a token is good at this moment: `if session := client.validate(token)`.

        Args:
            token: What the user's device presented. None, an empty text and what is no token at all
                are rejected without a call.
            ip_address: The IP address that it came from, recorded as the latest one.
            user_id: Where given, the session must be this user's.
            passive: Whether the look-up is not the user's doing and must not count as activity.

        Returns:
            The live session, or a rejection, which is falsy. `Unavailable` is neither: it signs
            nobody out.
        """
        near = self._near
        if near is None:
            request = ValidationRequest(token, ip_address, user_id, passive)
            if not self._settings.batching:
                return self.run_operation(_core.validate(request))
            self._check_open()
            return self._validate(request)
        # The clock is read before anything is looked up: `NearCacheCore.lookup` says why.
        found = near.lookup(near.now(), token, ip_address, user_id, passive)
        if found is not None:
            return found
        self._check_open()
        near.follow()
        return self._validate(ValidationRequest(token, ip_address, user_id, passive))

    def require(
        self,
        token: Token,
        *,
        ip_address: IpAddress = None,
        user_id: str | None = None,
        passive: bool = False,
    ) -> Session:
        """Return the session of a good token; the arguments are those of `validate`.

        Raises:
            SessionNotLive: The token is not good; `rejection` says why.
        """
        return _core.live(
            self.validate(token, ip_address=ip_address, user_id=user_id, passive=passive)
        )

    def validate_many(
        self, requests: Iterable[ValidationRequest]
    ) -> builtins.list[Session | Rejection]:
        """Validate many tokens at once, in one call for every 1,000.

        Returns:
            One answer a request, in the same order, as from `validate`.
        """
        near = self._near
        if near is None:
            return self.run_operation(_core.validate_many(requests))
        self._check_open()
        near.follow()
        return self.run_operation(operations.validate_many(near.core, near.now, requests))

    def list(
        self,
        token: Token,
        *,
        show_ended: bool = False,
        page_size: int = _core.PAGE_LIMIT_SESSIONS,
    ) -> builtins.list[Session]:
        """Show the user behind the token their own sessions, each once, latest activity first.

        Args:
            token: Proves whose sessions to show.
            show_ended: Whether to add those that ended and are still in the history (30 days).
            page_size: How many sessions one call gets, 1 to 200; all pages are followed.

        Raises:
            SessionNotLive: The token proves nothing: the user must sign in.
            ReauthenticationRequired: The last proof of identity is older than the policy allows.
            ImpersonationForbidden: Somebody else acts as the user.
        """
        return self.run_operation(
            _core.list_sessions(token, show_ended=show_ended, page_size=page_size)
        )

    def revoke(self, token: Token, session_id: str) -> RevokedSession:
        """End one session of the user behind the token; to end an ended one succeeds too.

        Raises:
            SessionNotLive: The token proves nothing: the user must sign in.
            SessionNotFound: The user has no such session.
            ReauthenticationRequired: The last proof of identity is older than the policy allows.
            ImpersonationForbidden: Somebody else acts as the user.
        """
        return self.run_operation(_core.revoke(token, session_id))

    def revoke_others(self, token: Token) -> datetime:
        """End every session of the user behind the token but its own.

        Returns:
            The moment after which no validator anywhere accepts any of them.

        Raises:
            SessionNotLive: The token proves nothing: the user must sign in.
            ReauthenticationRequired: The last proof of identity is older than the policy allows.
            ImpersonationForbidden: Somebody else acts as the user.
        """
        return self.run_operation(_core.revoke_others(token))

    def sign_out(self, token: Token) -> datetime:
        """End the token's own session. A token that is dead, unknown or absent is a success.

        Returns:
            The moment after which no validator anywhere accepts the session. Without a token there
            was none to end: that has been so since 1970-01-01, and no call is made.
        """
        return self.run_operation(_core.sign_out(token))

    def reauthenticate(
        self,
        token: Token,
        *,
        authentication_methods: Iterable[str] = (),
        authenticate_time: datetime | None = None,
        retry_secret: bytes | None = None,
    ) -> NewSession:
        """Record that the user has just proved again who they are, and get another token.

        The session keeps its id, its clocks start anew, and the old token dies at once.

        Args:
            token: The session's present token.
            authentication_methods: How the user proved who they are, in the names of RFC 8176.
            authenticate_time: When the credential check began, aware; now unless given.
            retry_secret: 32 random bytes, to repeat this very call later, with the same token, after
                `Unavailable`, and get the same new token. The client's own repetitions need none.

        Raises:
            SessionNotLive: The token proves nothing: the user must sign in.
            AuthenticationTooOld: The user's sessions were all ended after `authenticate_time`.
            RetryStale: The token of an earlier attempt of this call is dead meanwhile.
        """
        return self.run_operation(
            _core.reauthenticate(
                token,
                authentication_methods=authentication_methods,
                authenticate_time=authenticate_time,
                retry_secret=retry_secret,
            )
        )
