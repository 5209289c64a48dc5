"""Why streams end that their callers did not end."""

from enum import Enum

from session_authority_server.domain.errors import AuthorityError


class Cause(Enum):
    """Why a stream could not go on, and what is said of it."""

    CHANNEL_LOST = "the server could not be sure to hear of every change"
    SLOW = "the caller didn't read as fast as changes came"
    SILENT = "the caller sent no ping for long"
    DRAINING = "the server is shutting down"


class WatchInterrupted(AuthorityError):
    """The stream ended, so that its caller can be told of no more changes."""

    def __init__(self, cause: Cause) -> None:
        super().__init__(
            f"{cause.value}; forget what was kept under this stream, and open another one"
        )
        self.cause = cause


class TooManyStreams(AuthorityError):
    """As many callers watch as the server allows."""

    def __init__(self, limit: int) -> None:
        super().__init__(
            f"the server has {limit:,} streams already, the most that it allows; try again later"
        )
        self.limit = limit
