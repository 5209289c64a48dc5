# Generated from aio.py by `make sync`. Do not edit.
"""The client for threads."""

import builtins
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta

from session_authority import _core
from session_authority._caller_sync import Caller
from session_authority.errors import ConfigurationError, EndCallback, SessionNotLive
from session_authority.near_cache import operations
from session_authority.near_cache.endings import EndSubscription
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
from session_authority.session_token import Token, presentable


class SessionClient(Caller):
    """Calls the session authority. Each call blocks its thread.

    One client serves all threads of a process. A forked process gets its own connections. The client connects at its
    first call. Close it, or use it in a `with` block.

    Each method that calls the authority may raise:

    - `Unavailable`: The authority cannot answer, so nothing is known about the session.
    - `CallerRejected`: The authority does not accept the API key.
    - `InvalidArgument`: An argument breaks a limit.
    - `RequestTooLarge`: The request is too large.
    - `InternalError`: The authority has a fault.
    - `ClientClosed`: The client is closed.
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
        identity: Identity | None = None,
        retry_secret: bytes | None = None,
    ) -> NewSession:
        """Record a sign-in that the app has just verified, and return the session and its token.

        Args:
            user_id: The app's own stable name for the user, 1 to 255 bytes.
            ip_address: The user's IP address: a single address, without port or zone.
            user_agent: The User-Agent header as received. Any content is accepted.
            authenticate_time: When the credential check *began*, as an aware datetime. The default is now. If all of
                the user's sessions were revoked after this time, the authority rejects the sign-in.
            authentication_methods: How the user proved who they are, in the names of RFC 8176.
            lifetime: The absolute lifetime, at most the policy's. The default is the policy's.
            idle_timeout: The idle timeout, at least a minute. The default is the policy's.
            attributes: At most 16 texts that each validation returns. They cannot be changed later.
            actor_id: The id of another person who acts as the user, in the form of `user_id`. Such a session can
                neither list nor revoke sessions.
            identity: The user's sign-in at an identity provider. `revoke_identity` then ends the session.
            retry_secret: 32 random bytes. If this call raises `Unavailable`, call again with the same secret to get
                the same session. The client's own retries don't need it.

        Returns:
            The session and its token. Only this call returns the token.

        Raises:
            AuthenticationTooOld: The user's or the identity's sessions were revoked after `authenticate_time`.
            SessionLimitReached: The policy refuses the user another session.
            RetryStale: An earlier attempt of this call created a session that has since ended.
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
                identity=identity,
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
        """Say whether a token is valid now: `if session := client.validate(token)`.

        Args:
            token: The token that the user's device presented. The client rejects None, an empty text and anything
                that cannot be a token, without a call.
            ip_address: The IP address that the token came from. It is recorded as the latest one.
            user_id: If given, a session of another user is rejected.
            passive: Whether the look-up is not caused by the user. It then doesn't count as activity.

        Returns:
            The live session, or a rejection, which is falsy. An outage raises `Unavailable` instead, and must not
            sign the user out.
        """
        near = self._near
        if near is None:
            request = ValidationRequest(token, ip_address, user_id, passive)
            if not self._settings.batching:
                return self.run_operation(_core.validate(request))
            self._check_open()
            return self._validate(request)
        # Read the clock before the look-up: `NearCacheCore.lookup` says why.
        found = near.lookup(near.now(), token, ip_address, user_id, passive)
        if found is not None:
            return found
        self._check_open()
        near.follow()
        return self._validate(ValidationRequest(token, ip_address, user_id, passive))

    def validate_cached(
        self,
        token: Token,
        *,
        ip_address: IpAddress = None,
        user_id: str | None = None,
        passive: bool = False,
    ) -> Session | Rejection | None:
        """Return the answer of the near cache without waiting. The arguments are those of `validate`.

        Returns:
            The answer, or None if only a call can tell. Then use `validate`.
        """
        near = self._near
        if near is None:
            return None
        return near.lookup(near.now(), token, ip_address, user_id, passive)

    def require(
        self,
        token: Token,
        *,
        ip_address: IpAddress = None,
        user_id: str | None = None,
        passive: bool = False,
    ) -> Session:
        """Return the session of a valid token. The arguments are those of `validate`.

        Raises:
            SessionNotLive: The token is invalid; `rejection` says why.
        """
        return _core.session_or_raise(
            self.validate(token, ip_address=ip_address, user_id=user_id, passive=passive)
        )

    def validate_many(
        self, requests: Iterable[ValidationRequest]
    ) -> builtins.list[Session | Rejection]:
        """Validate many tokens, up to 1,000 of them in each call.

        Returns:
            One answer per request, as from `validate`, in the same order.
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
        """Return all sessions of the token's user, each once, the most recently active first.

        Args:
            token: The token of the user whose sessions to list.
            show_ended: Whether to add ended sessions that are still in the history (30 days unless configured).
            page_size: How many sessions to fetch per call, 1 to 200. The method fetches all pages.

        Raises:
            SessionNotLive: The token is invalid: the user must sign in.
            ReauthenticationRequired: The last proof of identity is older than the policy allows.
            ImpersonationForbidden: The session has an actor: another person acts as the user.
        """
        return self.run_operation(
            _core.list_sessions(token, show_ended=show_ended, page_size=page_size)
        )

    def revoke(self, token: Token, session_id: str) -> RevokedSession:
        """End one session of the token's user. Revoking a session that has already ended succeeds too.

        Raises:
            SessionNotLive: The token is invalid: the user must sign in.
            SessionNotFound: The user has no such session.
            ReauthenticationRequired: The last proof of identity is older than the policy allows.
            ImpersonationForbidden: The session has an actor: another person acts as the user.
        """
        return self.run_operation(_core.revoke(token, session_id))

    def name(self, token: Token, session_id: str, label: str) -> Session:
        """Store the user's own name of one of the user's live sessions. Tokens stay valid.

        Args:
            token: The token of the user who owns the session.
            session_id: The id of the session to name.
            label: The name: one line of at most 64 characters. An empty name removes the present one.

        Returns:
            The session with its new name. Near caches may answer with the earlier name for a while.

        Raises:
            SessionNotLive: The token is invalid: the user must sign in.
            SessionNotFound: The user has no live session with this id.
            ReauthenticationRequired: The last proof of identity is older than the policy allows.
            ImpersonationForbidden: The session has an actor: another person acts as the user.
        """
        return self.run_operation(_core.name(token, session_id, label))

    def revoke_others(self, token: Token) -> datetime:
        """Revoke every session of the token's user except the token's own.

        Returns:
            The moment after which no validator anywhere accepts any of them.

        Raises:
            SessionNotLive: The token is invalid: the user must sign in.
            ReauthenticationRequired: The last proof of identity is older than the policy allows.
            ImpersonationForbidden: The session has an actor: another person acts as the user.
        """
        return self.run_operation(_core.revoke_others(token))

    def revoke_identity(
        self, issuer: str, *, subject: str | None = None, sid: str | None = None, reason: str = ""
    ) -> datetime:
        """Revoke the sessions that were created with an identity, because its provider signs the user out.

        The API key needs the permission `terminate`. Nothing reveals whether there were such sessions.

        Args:
            issuer: The provider.
            subject: The user at the provider. Without a `sid`, all sessions of this user end.
            sid: The session at the provider. If it is given, only its sessions end.
            reason: The reason, for the audit log: at most 256 bytes.

        Returns:
            The moment after which no validator anywhere accepts any of them.
        """
        return self.run_operation(
            _core.revoke_identity(issuer, subject=subject, sid=sid, reason=reason)
        )

    def sign_out(self, token: Token) -> datetime:
        """End the token's own session. An invalid or missing token succeeds too.

        Returns:
            The moment after which no validator anywhere accepts the session. Without a token, the client makes no
            call and returns 1970-01-01.
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
        """Record that the user has just proved their identity again, and return a new token.

        The session keeps its id, and restarts its lifetime and its idle timeout. The old token becomes invalid at once.

        Args:
            token: The current token of the session.
            authentication_methods: How the user proved who they are, in the names of RFC 8176.
            authenticate_time: When the credential check began, as an aware datetime. The default is now.
            retry_secret: 32 random bytes. If this call raises `Unavailable`, call again with the same token and
                secret to get the same new token. The client's own retries don't need it.

        Raises:
            SessionNotLive: The token is invalid: the user must sign in.
            AuthenticationTooOld: All of the user's sessions were revoked after `authenticate_time`.
            RetryStale: An earlier attempt of this call returned a token that has since become invalid.
        """
        return self.run_operation(
            _core.reauthenticate(
                token,
                authentication_methods=authentication_methods,
                authenticate_time=authenticate_time,
                retry_secret=retry_secret,
            )
        )

    def on_end(self, token: Token, callback: EndCallback) -> EndSubscription:
        """Call `callback` once, when a token is no longer valid. The client needs a near cache.

        The callback is called by the `effective_time` of the ending, usually within 100 ms. Its argument is the error
        that `require` would raise:

        - `SessionNotLive`: The token is invalid; `rejection` says why. The reason is SUPERSEDED if the session got a
          newer token.
        - `Unavailable`: Nothing is known any more, because no answer came in time. The user may still be signed in.
        - `ClientClosed`: This client was closed.

        Args:
            token: The token of a connection that is about to stay open.
            callback: A function. It runs in a thread of the client's own.

        Returns:
            The subscription. Cancel it when the connection ends.

        Raises:
            SessionNotLive: The token is invalid already.
            Unavailable: The authority cannot answer, or the client already has 20,000 subscriptions.
            ConfigurationError: The client has no near cache.
        """
        near = self._near
        if near is None:
            raise ConfigurationError(
                "near_cache",
                "is off, but on_end needs it: pass near_cache=True to the client, or set "
                "SESSION_AUTHORITY_NEAR_CACHE=on",
            )
        if not callable(callback):
            raise TypeError(f"callback must be a function, not {type(callback).__name__}")
        self._check_open()
        near.follow()
        text = presentable(token)
        if not text:
            raise SessionNotLive("not_found", rejection=Rejection(RejectionReason.NOT_FOUND))
        keeper = near.keeper()
        subscription, is_live = keeper.subscribe(text)
        try:
            if not is_live:
                self.run_operation(operations.confirm(near.core, near.now, text))
            keeper.arm(subscription, callback)
        except BaseException:
            subscription.cancel()
            raise
        return subscription
