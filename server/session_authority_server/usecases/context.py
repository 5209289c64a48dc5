from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime

from session_authority_server.background.activity import Activity
from session_authority_server.background.superseded import SupersededTokens
from session_authority_server.domain.clock import Clock
from session_authority_server.domain.errors import SessionNotLive
from session_authority_server.domain.policy import Policy
from session_authority_server.ports.store import NO_AUDIT, Audit, Locate, SessionStore, nowhere


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """The dependencies of every use-case.

    Attributes:
        store: Keeps sessions.
        clock: Gives the present time.
        policy: The operator's rules.
        audit: Records events.
        activity: Records the use of sessions.
        superseded: Handles the use of superseded tokens.
        locate: Finds the location of an IP address.
    """

    store: SessionStore
    clock: Clock
    policy: Policy
    audit: Audit = NO_AUDIT
    activity: Activity
    superseded: SupersededTokens
    locate: Locate = nowhere

    def effective_time(self) -> datetime:
        """Return the moment after which no validator accepts a session that has ended by now."""
        return self.policy.effective_time(self.clock.now())

    @contextmanager
    def reporting_failed_proof(self) -> Iterator[None]:
        """Record a rejected token in the audit log, and handle the use of a superseded token.

        This happens outside the transaction, because a rejected token rolls the transaction back.
        """
        try:
            yield
        except SessionNotLive as error:
            if error.rejected is not None:
                self.audit.record(error.rejected)
            if error.superseded is not None:
                self.superseded.used(error.superseded)
            raise
