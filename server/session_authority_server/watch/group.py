from session_authority_server.domain.changes import Changes
from session_authority_server.watch.stream import Stream


class Group:
    """Streams that are told of changes at the same time, and what they are yet to be told.

    Attributes:
        streams: Those, in the order in which they came.
        changes: What is to be said to all of them.
        answered: The pings that are to be answered after that.
    """

    def __init__(self) -> None:
        self.streams: dict[Stream, None] = {}
        self.changes = Changes()
        self.answered: dict[Stream, int] = {}

    @property
    def is_due(self) -> bool:
        """Whether there is anything to say."""
        return bool(self.answered) or bool(self.streams and self.changes)

    def take_changes(self) -> Changes:
        """Return what is to be said to all, which then has been said."""
        changes, self.changes = self.changes, Changes()
        return changes

    def take_answered(self) -> dict[Stream, int]:
        """Return the pings that are to be answered, which then have been."""
        answered, self.answered = self.answered, {}
        return answered

    def forget(self, stream: Stream) -> None:
        """Forget a stream, and what there is to say once nobody is there."""
        self.streams.pop(stream, None)
        self.answered.pop(stream, None)
        if not self.streams:
            self.changes = Changes()
