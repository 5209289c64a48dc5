import base64
import struct
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import IntEnum
from hashlib import sha256
from typing import Self
from uuid import UUID

from session_authority_server.domain.errors import InvalidRequest, Violation
from session_authority_server.ports.store import PageKey

_VERSION = 1
# version, section, show_ended, has_key, digest of the user id, as_of, time of the key, session id of the key
_LAYOUT = struct.Struct(">BBBB8sqq16s")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


class Section(IntEnum):
    """The parts of a list, in their order."""

    LIVE = 1
    USED_SINCE = 2
    ENDED = 3


@dataclass(frozen=True, slots=True)
class PageToken:
    """The position in a list at which the next page begins.

    It is not secret and proves nothing. The session token alone decides whose sessions are listed.
    """

    user_id: str
    show_ended: bool
    as_of: datetime
    section: Section
    after: PageKey | None

    def next_section(self, *, first_page: bool) -> "PageToken | None":
        """Return the start of the next section; None after the last one."""
        section = self.section
        if section is Section.LIVE and not first_page:
            section = Section.USED_SINCE
        elif section is not Section.ENDED and self.show_ended:
            section = Section.ENDED
        else:
            return None
        return PageToken(self.user_id, self.show_ended, self.as_of, section, None)

    def encode(self) -> str:
        """Return the position as text."""
        after = self.after or PageKey(_EPOCH, UUID(int=0))
        packed = _LAYOUT.pack(
            _VERSION,
            self.section,
            self.show_ended,
            self.after is not None,
            _digest(self.user_id),
            (self.as_of - _EPOCH) // _MICROSECOND,
            (after.time - _EPOCH) // _MICROSECOND,
            after.session_id.bytes,
        )
        return base64.urlsafe_b64encode(packed).decode().rstrip("=")

    @classmethod
    def decode(cls, text: str, user_id: str, show_ended: bool) -> Self:
        """Return the position in a user's list that a text encodes.

        Raises:
            InvalidRequest: If the text is not a position in this list.
        """
        try:
            packed = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
            version, section, ended, has_key, digest, as_of, time, session_id = _LAYOUT.unpack(
                packed
            )
            place = cls(
                user_id,
                bool(ended),
                _EPOCH + as_of * _MICROSECOND,
                Section(section),
                PageKey(_EPOCH + time * _MICROSECOND, UUID(bytes=session_id)) if has_key else None,
            )
        except (ValueError, struct.error, OverflowError):
            raise _invalid() from None
        if version != _VERSION or digest != _digest(user_id) or place.show_ended != show_ended:
            raise _invalid()
        if place.as_of < _EPOCH:
            raise _invalid()
        return place


def _digest(user_id: str) -> bytes:
    return sha256(user_id.encode()).digest()[:8]


def _invalid() -> InvalidRequest:
    problem = (
        "does not belong to this list; give the next_page_token of the previous page with the same "
        "show_ended and a token of the same user, or leave it empty to get the first page"
    )
    return InvalidRequest([Violation("page_token", problem)])
