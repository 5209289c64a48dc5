"""What a token is kept under: a digest, so that a dump of the memory of a cache opens no session."""

from hashlib import blake2b


def key_of(text: str) -> bytes:
    """Give the key of a presentable token, all of which goes into it.

    BLAKE2b, because a hit costs little more than this: in Python it takes less than SHA-256. Whole, because to ask
    for a shorter digest or to cut it would cost more than its 32 bytes are worth.
    """
    return blake2b(text.encode()).digest()
