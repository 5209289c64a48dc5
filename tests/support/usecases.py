"""The use cases with one context, for tests."""

from collections.abc import Callable, Sequence
from functools import partial

from session_authority_server.background.activity import Activity
from session_authority_server.background.superseded import SupersededTokens
from session_authority_server.domain.clock import Clock
from session_authority_server.domain.errors import InvalidRequest
from session_authority_server.domain.event import Event
from session_authority_server.domain.policy import Policy
from session_authority_server.domain.session import Session
from session_authority_server.domain.verdict import Rejection
from session_authority_server.ports.store import SessionStore
from session_authority_server.usecases.context import Context
from session_authority_server.usecases.create_session import create_session
from session_authority_server.usecases.erase_user import erase_user
from session_authority_server.usecases.list_sessions import list_sessions
from session_authority_server.usecases.name_session import name_session
from session_authority_server.usecases.operator_revoke import (
    revoke_all_sessions,
    revoke_identity_sessions,
    revoke_key_sessions,
    revoke_session_by_id,
    revoke_session_by_token,
    revoke_user_sessions,
)
from session_authority_server.usecases.reauthenticate_session import reauthenticate_session
from session_authority_server.usecases.revoke_session import revoke_other_sessions, revoke_session
from session_authority_server.usecases.sign_out import sign_out
from session_authority_server.usecases.validate_sessions import (
    NotYetRecorded,
    Validation,
    batch_verdicts,
    check_count,
    record_use,
    validate_sessions,
)


class Recorder:
    """An audit log that keeps its events in memory."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def record(self, *events: Event) -> None:
        self.events += events

    async def wait_for_room(self) -> None:
        pass


class UseCases:
    """Every use case, as a method that takes only the request.

    Attributes:
        reused: The sessions whose superseded tokens were used.
    """

    def __init__(
        self,
        store: SessionStore,
        clock: Clock,
        policy: Policy,
        reports: Callable[[], bool] = lambda: False,
    ) -> None:
        self.reused: list[Session] = []
        self.activity = Activity(store, clock, policy)
        self.superseded = SupersededTokens(store, clock, policy, self.reused.append, reports)
        self.context = context = Context(
            store=store,
            clock=clock,
            policy=policy,
            activity=self.activity,
            superseded=self.superseded,
        )
        self.create = partial(create_session, context)
        self.list = partial(list_sessions, context)
        self.revoke = partial(revoke_session, context)
        self.name = partial(name_session, context)
        self.revoke_others = partial(revoke_other_sessions, context)
        self.sign_out = partial(sign_out, context)
        self.reauthenticate = partial(reauthenticate_session, context)
        self.revoke_user = partial(revoke_user_sessions, context)
        self.revoke_all = partial(revoke_all_sessions, context)
        self.revoke_identity = partial(revoke_identity_sessions, context)
        self.revoke_by_id = partial(revoke_session_by_id, context)
        self.revoke_by_token = partial(revoke_session_by_token, context)
        self.revoke_key = partial(revoke_key_sessions, context)
        self.erase_user = partial(erase_user, context)

    async def validate(self, asked: Validation) -> Session | Rejection:
        """Answer one question, as ValidateSession does."""
        [outcome] = await validate_sessions(self.context, [asked])
        if isinstance(outcome, InvalidRequest):
            raise outcome
        if isinstance(outcome, NotYetRecorded):
            await record_use(self.context, [outcome])
            return outcome.session
        return outcome

    async def validate_all(self, asked: Sequence[Validation]) -> list[Session | Rejection]:
        """Answer many questions, as BatchValidateSessions does."""
        outcomes = await validate_sessions(self.context, check_count(asked))
        return await batch_verdicts(self.context, outcomes)
