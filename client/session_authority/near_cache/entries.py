"""The cached sessions: a bounded LRU cache that is cheap for the garbage collector.

The most recently used entries are *hot*: they are decoded and can be returned at once. The others are *cold*: each is
one `bytes` in a plain dict. Cold entries take half of the memory, and the garbage collector does not traverse them.

A look-up makes an entry hot. The least recently used hot entry then becomes cold. So the cold entries, followed by the
hot ones, are always in the order of their use.
"""

import math
from collections import OrderedDict
from collections.abc import Callable
from hashlib import blake2b
from itertools import islice
from struct import Struct
from typing import TypeAlias

from session_authority.session import Session

HOT_LIMIT_SESSIONS = 1024
HOT_SHARE = 16
"""At most one in this many sessions is hot, but always up to 64. A decoded session takes another kilobyte."""

DISPLACED_SHARE = 64
"""When the cache is full, one in this many sessions is removed."""

USE_NOTED_SECONDS = 1.0
"""An entry's use is noted at most this often, because noting it costs more than the look-up."""

_HEADER = Struct("=ddqqB")
_HASH_BITS = (1 << 60) - 1  # the largest int that Python stores in 32 bytes
_TUPLE_LIMIT_KEYS = 64

Decode: TypeAlias = Callable[[bytes], Session]
_Keys: TypeAlias = bytes | tuple[bytes, ...] | set[bytes]


def key_of(text: str) -> bytes:
    """Return the key of a token: a digest, so that a memory dump reveals no token.

    Hashing takes most of the time of a hit, and BLAKE2b is faster in Python than SHA-256. The argument `digest_size`
    could shorten the key by 32 bytes, but makes the call slower.
    """
    return blake2b(text.encode()).digest()


class Entry:
    """One hot session.

    Attributes:
        session: The answer.
        user_id: The session's user.
        ip_address: The latest address that it was used from, as the app gave it; None if the app gave none.
        dead_at: When the cache must stop answering with it.
        due_at: When its use must be reported again.
        check_at: From this time, a use must check `dead_at` and `due_at`, and be noted. Never later than `dead_at`.
    """

    __slots__ = (
        "_encoded",
        "_session_hash",
        "_user_hash",
        "check_at",
        "dead_at",
        "due_at",
        "ip_address",
        "session",
        "user_id",
    )

    def __init__(
        self,
        session: Session,
        encoded: bytes,
        dead_at: float,
        due_at: float,
        ip_address: str | None,
    ) -> None:
        self.session = session
        self.user_id = session.user_id
        self.ip_address = ip_address
        self.dead_at = dead_at
        self.due_at = due_at
        self.check_at = -math.inf
        self._encoded = encoded
        self._session_hash = _hash_of_session(session.session_id)
        self._user_hash = _hash_of_user(session.user_id)

    @property
    def hashes(self) -> tuple[int, int]:
        """The hashes of the session's id and the user's id."""
        return self._session_hash, self._user_hash

    def to_bytes(self) -> bytes:
        """Encode the entry, including its times and hashes."""
        address = (self.ip_address or "").encode()
        header = _HEADER.pack(
            self.dead_at, self.due_at, self._session_hash, self._user_hash, len(address)
        )
        return b"".join((header, address, self._encoded))

    @classmethod
    def from_bytes(cls, packed: bytes, decode: Decode) -> "Entry":
        """Decode the result of `to_bytes`."""
        dead_at, due_at, _, _, length = _HEADER.unpack_from(packed)
        start = _HEADER.size + length
        address, encoded = packed[_HEADER.size : start], packed[start:]
        return cls(decode(encoded), encoded, dead_at, due_at, address.decode() or None)


class Entries:
    """The cached entries by token key, with indexes by session and by user.

    Callers must hold a lock, except to read `hot`.

    Attributes:
        hot: The decoded entries, the least recently used first.
    """

    def __init__(
        self, max_sessions: int, decode: Decode, hot_limit: int = HOT_LIMIT_SESSIONS
    ) -> None:
        self._max_sessions = max_sessions
        self._hot_limit = min(max_sessions, hot_limit, max(max_sessions // HOT_SHARE, 64))
        self._decode = decode
        self.hot: OrderedDict[bytes, Entry] = OrderedDict()
        self._cold: dict[bytes, bytes] = {}
        # Hashes take less memory than ids. If two ids have the same hash, a change of one removes both.
        self._by_session: dict[int, _Keys] = {}
        self._by_user: dict[int, _Keys] = {}

    def __len__(self) -> int:
        return len(self.hot) + len(self._cold)

    def get(self, key: bytes) -> Entry | None:
        """Find an entry, and make it hot."""
        entry = self.hot.get(key)
        if entry is not None:
            return entry
        packed = self._cold.pop(key, None)
        if packed is None:
            return None
        entry = Entry.from_bytes(packed, self._decode)
        self.hot[key] = entry
        self._demote_oldest_hot()
        return entry

    def note_use(self, key: bytes, entry: Entry, now: float) -> None:
        """Mark an entry as the most recently used, unless it has been removed."""
        if key in self.hot:
            self.hot.move_to_end(key)
        entry.check_at = min(entry.dead_at, entry.due_at, now + USE_NOTED_SECONDS)

    def put(self, key: bytes, entry: Entry) -> int:
        """Store an entry, replacing an earlier one of the key. Return how many others were removed to make room."""
        self.remove(key)
        self.hot[key] = entry
        session_hash, user_hash = entry.hashes
        _add(self._by_session, session_hash, key)
        _add(self._by_user, user_hash, key)
        self._demote_oldest_hot()
        return self._evict_oldest() if len(self) > self._max_sessions else 0

    def remove(self, key: bytes) -> bool:
        """Remove an entry. Return whether there was one."""
        entry = self.hot.pop(key, None)
        if entry is not None:
            session_hash, user_hash = entry.hashes
        else:
            packed = self._cold.pop(key, None)
            if packed is None:
                return False
            _, _, session_hash, user_hash, _ = _HEADER.unpack_from(packed)
        _discard(self._by_session, session_hash, key)
        _discard(self._by_user, user_hash, key)
        return True

    def remove_session(self, session_id: str) -> int:
        """Remove all entries of a session, which may have several tokens. Return their number."""
        return self._remove_all(self._by_session.pop(_hash_of_session(session_id), None))

    def remove_user(self, user_id: str) -> int:
        """Remove all entries of a user. Return their number."""
        return self._remove_all(self._by_user.pop(_hash_of_user(user_id), None))

    def clear(self) -> int:
        """Remove all entries. Return their number."""
        count = len(self)
        for each in (self.hot, self._cold, self._by_session, self._by_user):
            each.clear()
        return count

    def _evict_oldest(self) -> int:
        # Remove many entries at once. A removed item leaves a gap in the dict. To find the first item, Python must skip
        # all gaps before it. One at a time, each search would take longer than the last.
        count = max(self._max_sessions // DISPLACED_SHARE, 1)
        return sum(map(self.remove, list(islice(self._cold or self.hot, count))))

    def _demote_oldest_hot(self) -> None:
        while len(self.hot) > self._hot_limit:
            key, entry = self.hot.popitem(last=False)
            self._cold[key] = entry.to_bytes()

    def _remove_all(self, keys: _Keys | None) -> int:
        return sum(map(self.remove, _each(keys))) if keys is not None else 0


def _hash_of_session(session_id: str) -> int:
    return hash(session_id) & _HASH_BITS


def _hash_of_user(user_id: str) -> int:
    return hash(user_id) & _HASH_BITS


def _each(keys: _Keys) -> tuple[bytes, ...]:
    return (keys,) if isinstance(keys, bytes) else tuple(keys)


def _add(index: dict[int, _Keys], hash_: int, key: bytes) -> None:
    # Most sessions and users have a single key, which is stored as `bytes`. A few keys are stored as a tuple. This
    # saves work for the garbage collector. It never traverses `bytes`, and traverses a tuple of `bytes` only once, but
    # a set every time.
    keys = index.get(hash_)
    if keys is None:
        index[hash_] = key
    elif isinstance(keys, set):
        keys.add(key)
    else:
        more = (*_each(keys), key)
        index[hash_] = more if len(more) <= _TUPLE_LIMIT_KEYS else set(more)


def _discard(index: dict[int, _Keys], hash_: int, key: bytes) -> None:
    keys = index.get(hash_)
    if isinstance(keys, set):
        keys.discard(key)
        if not keys:
            del index[hash_]
    elif keys is not None:
        left = tuple(each for each in _each(keys) if each != key)
        if len(left) > 1:
            index[hash_] = left
        elif left:
            index[hash_] = left[0]
        else:
            del index[hash_]
