"""What the two clients have in common: how they are made, and how they show themselves."""

import os
from collections.abc import Callable
from typing import Generic, Protocol, Self, TypeVar

import grpc

from session_authority._outage_log import OutageLog
from session_authority._settings import DEFAULT_ADDRESS, DEFAULT_DEADLINE_SECONDS, Settings
from session_authority.errors import ClientClosed
from session_authority.near_cache.core import NearCacheCore
from session_authority.near_cache.forking import forget_in_children
from session_authority.near_cache.settings import NearCache
from session_authority.near_cache.statistics import NearCacheStatistics

_Key = TypeVar("_Key")
_Connection = TypeVar("_Connection")


class _Near(Protocol):
    """What moves the near cache of either client."""

    core: NearCacheCore
    now: Callable[[], float]


_NearCache = TypeVar("_NearCache", bound=_Near)


class ConfiguredClient(Generic[_Key, _Connection, _NearCache]):
    """A client that knows its settings and whether it is still open."""

    def __init__(
        self,
        address: str = DEFAULT_ADDRESS,
        *,
        api_key: str | None = None,
        deadline_seconds: float = DEFAULT_DEADLINE_SECONDS,
        tls: bool | None = None,
        root_certificates: bytes | None = None,
        channel_credentials: grpc.ChannelCredentials | None = None,
        client_certificate: bytes | None = None,
        client_key: bytes | None = None,
        near_cache: NearCache | bool = False,
        batching: bool = True,
    ) -> None:
        """Take the settings; nothing connects yet.

        Args:
            address: Where the authority listens, as `host:port` or another target in gRPC's syntax. All
                addresses that a name resolves to share the load.
            api_key: The key that this program identifies itself with.
            deadline_seconds: How long one RPC may take in all, its retries included.
            tls: Whether to encrypt. Unless given, everything is but what stays on this host: a loopback
                address or a Unix socket. False is for a network that is encrypted already.
            root_certificates: The authorities to trust, as PEM; the system's unless given.
            channel_credentials: Credentials for the channel in place of those that the other arguments
                describe.
            client_certificate: The certificate that this program shows to an authority that asks for one,
                as PEM, followed by those that lead to its own authority.
            client_key: The private key of that certificate, as PEM without a passphrase.
            near_cache: Whether to keep answers in memory for as long as the authority vouches for them, and
                with which settings (docs/near-cache.md). The API key has to permit watching.
            batching: Whether calls of `validate` that wait at the same time share one RPC.

        Raises:
            ConfigurationError: An argument has no usable value.
        """
        self._settings = Settings(
            address=address,
            api_key=api_key,
            deadline_seconds=deadline_seconds,
            tls=tls,
            root_certificates=root_certificates,
            channel_credentials=channel_credentials,
            client_certificate=client_certificate,
            client_key=client_key,
            near_cache=(NearCache() if near_cache else None)
            if isinstance(near_cache, bool)
            else near_cache,
            batching=batching,
        )
        self._outages = OutageLog(self._settings.address)
        self._connections: dict[_Key, _Connection] = {}
        self._closed = False
        self._near: _NearCache | None = None
        if self._settings.near_cache is not None:
            self._near = self._new_near(self._settings.near_cache)
            forget_in_children(self)

    @classmethod
    def from_env(cls) -> Self:
        """Make a client from the environment; what is unset or empty has its default.

        `SESSION_AUTHORITY_ADDRESS` (127.0.0.1:50551), `SESSION_AUTHORITY_API_KEY`,
        `SESSION_AUTHORITY_DEADLINE_SECONDS` (5), `SESSION_AUTHORITY_TLS` ("on" or "off"; on unless
        the address is local), and the paths of PEM files: `SESSION_AUTHORITY_TLS_ROOT_CERTIFICATES`,
        `SESSION_AUTHORITY_TLS_CLIENT_CERTIFICATE` and `SESSION_AUTHORITY_TLS_CLIENT_KEY`. Also
        `SESSION_AUTHORITY_NEAR_CACHE` ("on" or "off"; off unless set) and `SESSION_AUTHORITY_BATCHING` ("on" or
        "off"; on unless set).

        Raises:
            ConfigurationError: A variable has no usable value; the message names it.
        """
        settings = Settings.from_env(os.environ)
        return cls(
            settings.address,
            api_key=settings.api_key,
            deadline_seconds=settings.deadline_seconds,
            tls=settings.tls,
            root_certificates=settings.root_certificates,
            client_certificate=settings.client_certificate,
            client_key=settings.client_key,
            near_cache=settings.near_cache or False,
            batching=settings.batching,
        )

    @property
    def address(self) -> str:
        """Where the authority listens, as given."""
        return self._settings.address

    @property
    def near_cache_statistics(self) -> NearCacheStatistics | None:
        """What the near cache has done in this process so far; None without one."""
        near = self._near
        return None if near is None else near.core.statistics(near.now())

    def forget_in_child(self) -> None:
        """Begin with an empty near cache in a process that has just forked off."""
        if self._settings.near_cache is not None:
            self._near = self._new_near(self._settings.near_cache)

    def _new_near(self, settings: NearCache) -> _NearCache:
        raise NotImplementedError

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._settings.address!r})"

    def _check_open(self) -> None:
        if self._closed:
            raise ClientClosed
