"""The sessions that are kept: bounded, the least recently used out, and cheap for the garbage collector.

The most recently used ones are *hot*: decoded, to be answered at once. The others are *cold*: each is one `bytes`
in a plain dict, which takes half of the memory. The collector looks into no `bytes`, and into no dict of them. An entry
is in one of the two; one that is asked for becomes hot, and the least recently used hot one becomes cold, so that the
cold ones followed by the hot ones are always in the order of their use.
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
"""One session in so many is hot at most, but no fewer than 64 are: a decoded one takes a kilobyte more."""

DISPLACED_SHARE = 64
"""When there is no more room, one in so many has to go."""

USE_NOTED_SECONDS = 1.0
"""How old what is known of an entry's use may be: to note each use would cost more than to find the entry."""

_HEADER = Struct("=ddqqB")
_HASH_BITS = (1 << 60) - 1  # what Python keeps in 32 bytes
_TUPLE_LIMIT_KEYS = 64

Decode: TypeAlias = Callable[[bytes], Session]
_Keys: TypeAlias = bytes | tuple[bytes, ...] | set[bytes]


def key_of(text: str) -> bytes:
    """Return the key that a presentable token is kept under: a digest, so that a memory dump opens no session.

    BLAKE2b takes less time in Python than SHA-256, and a hit costs little more than this. A shorter digest would cost
    more time than its 32 bytes are worth.
    """
    return blake2b(text.encode()).digest()


class Entry:
    """One hot session.

    Attributes:
        session: The answer.
        user_id: Whose session it is.
        ip_address: The latest address that it was used from, as the app gave it; None where it never gave one.
        dead_at: From when on it is not to be answered.
        due_at: From when on its use is to be reported.
        look_at: From when on its use asks for more than an answer; never after it is dead.
    """

    __slots__ = (
        "_encoded",
        "_session_hash",
        "_user_hash",
        "dead_at",
        "due_at",
        "ip_address",
        "look_at",
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
        self.look_at = -math.inf
        self._encoded = encoded
        self._session_hash = _hash_of_session(session.session_id)
        self._user_hash = _hash_of_user(session.user_id)

    @property
    def hashes(self) -> tuple[int, int]:
        """The hashes of the session's and the user's id."""
        return self._session_hash, self._user_hash

    def to_bytes(self) -> bytes:
        """Give all of it as bytes."""
        address = (self.ip_address or "").encode()
        header = _HEADER.pack(
            self.dead_at, self.due_at, self._session_hash, self._user_hash, len(address)
        )
        return b"".join((header, address, self._encoded))

    @classmethod
    def from_bytes(cls, packed: bytes, decode: Decode) -> "Entry":
        """Give back what `to_bytes` gave."""
        dead_at, due_at, _, _, length = _HEADER.unpack_from(packed)
        start = _HEADER.size + length
        address, encoded = packed[_HEADER.size : start], packed[start:]
        return cls(decode(encoded), encoded, dead_at, due_at, address.decode() or None)


class Entries:
    """What is kept, by the key of the token; also found by session and by user.

    The callers hold a lock, but for reading `hot`.

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
        # By hash: that two ids share one makes a change forget both, and spares us the ids.
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
        """Count an entry as the latest used, where it has not been forgotten meanwhile."""
        if key in self.hot:
            self.hot.move_to_end(key)
        entry.look_at = min(entry.dead_at, entry.due_at, now + USE_NOTED_SECONDS)

    def put(self, key: bytes, entry: Entry) -> int:
        """Keep an entry in place of the key's earlier one, and say how many others had to go."""
        self.remove(key)
        self.hot[key] = entry
        session_hash, user_hash = entry.hashes
        _add(self._by_session, session_hash, key)
        _add(self._by_user, user_hash, key)
        self._demote_oldest_hot()
        return self._evict_oldest() if len(self) > self._max_sessions else 0

    def remove(self, key: bytes) -> bool:
        """Forget an entry; say whether there was one."""
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
        """Forget a session, whatever its tokens; say how many entries that were."""
        return self._remove_all(self._by_session.pop(_hash_of_session(session_id), None))

    def remove_user(self, user_id: str) -> int:
        """Forget a user's sessions; say how many entries that were."""
        return self._remove_all(self._by_user.pop(_hash_of_user(user_id), None))

    def clear(self) -> int:
        """Forget everything; say how many entries that were."""
        count = len(self)
        for each in (self.hot, self._cold, self._by_session, self._by_user):
            each.clear()
        return count

    def _evict_oldest(self) -> int:
        # Some at once: to find where a dict begins takes as long as much has been taken from there.
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
    # Most have one key. The garbage collector has to follow a set for as long as it lives, but no `bytes`, and a
    # tuple of them only once.
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
