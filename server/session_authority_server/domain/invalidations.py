from dataclasses import dataclass, field
from uuid import UUID


@dataclass(slots=True)
class Changes:
    """Sessions whose cached answers are now invalid: they ended, or got another token.

    Attributes:
        session_ids: Single sessions.
        user_ids: Users whose sessions are all meant.
        everybody: Whether every session is meant.
    """

    session_ids: set[UUID] = field(default_factory=set)
    user_ids: set[str] = field(default_factory=set)
    everybody: bool = False

    def __bool__(self) -> bool:
        return self.everybody or bool(self.session_ids or self.user_ids)

    def __len__(self) -> int:
        """Return how many ids there are."""
        return len(self.session_ids) + len(self.user_ids)

    def add(self, others: "Changes") -> None:
        """Merge others into this set."""
        self.session_ids |= others.session_ids
        self.user_ids |= others.user_ids
        self.everybody = self.everybody or others.everybody
