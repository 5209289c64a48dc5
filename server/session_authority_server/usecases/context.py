from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime

from session_authority_server.background.activity import Activity
from session_authority_server.background.superseded import SupersededTokens
from session_authority_server.domain.clock import Clock
from session_authority_server.domain.errors import SessionNotLive
from session_authority_server.domain.policy import Policy
from session_authority_server.ports import NO_AUDIT, Audit, SessionStore


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """What every use-case works with.

    Attributes:
        store: Keeps sessions.
        clock: Tells the time.
        policy: The operator's rules.
        audit: Records what happened.
        activity: Records when sessions are used.
        superseded: Acts on the use of superseded tokens.
    """

    store: SessionStore
    clock: Clock
    policy: Policy
    audit: Audit = NO_AUDIT
    activity: Activity
    superseded: SupersededTokens

    def effective_time(self) -> datetime:
        """Return the moment after which no validator accepts what has been ended by now."""
        return self.policy.effective_time(self.clock.now())

    @contextmanager
    def reporting_failed_proof(self) -> Iterator[None]:
        """Record a failed proof in the audit log, and act on the use of a superseded token.

        Apart from the transaction, which a failed proof rolls back.
        """
        try:
            yield
        except SessionNotLive as error:
            if error.rejected is not None:
                self.audit.record(error.rejected)
            if error.superseded is not None:
                self.superseded.used(error.superseded)
            raise
