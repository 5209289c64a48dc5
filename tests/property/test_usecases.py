"""The use cases over a real store agree with the reference model, at every instant and in any order."""

from collections.abc import Awaitable
from datetime import datetime, timedelta

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import invariant, precondition, rule

from session_authority_server.background.activity import DECISIVE
from session_authority_server.domain.errors import (
    SessionNotFound,
    SessionNotLive,
)
from session_authority_server.domain.liveness import ending_of
from session_authority_server.domain.policy import AtLimit, SupersededUse
from session_authority_server.domain.session import Ending, EndReason, Session
from session_authority_server.domain.token import first_id
from session_authority_server.domain.verdict import Rejection, RejectionReason
from session_authority_server.usecases.erase_user import Erasure
from session_authority_server.usecases.list_sessions import Listing
from session_authority_server.usecases.operator_revoke import KeyRevocation
from session_authority_server.usecases.reauthenticate_session import (
    Reauthentication,
)
from session_authority_server.usecases.revoke_session import Revocation
from session_authority_server.usecases.validate_sessions import Validation
from tests.property.reference_model import ADMIN, USER, Known, by_ending
from tests.property.sign_ins import KEY, LIMIT, USERS, SignIns, choices
from tests.support.engines import MINUTE
from tests.support.soak import soaked

pytestmark = pytest.mark.soak


class Sessions(SignIns):
    """Two users, a manual clock, and a worker that runs at random."""

    # Ending

    @precondition(lambda self: self.known)
    @rule(choice=choices, old=st.booleans())
    def sign_out_of_one(self, choice: int, old: bool) -> None:
        known = self.pick(choice)
        token = known.old_tokens[-1] if old and known.old_tokens else known.token
        assert self.run(self.usecases.sign_out(token)) == self.effective_time
        if known.is_live(self.now):
            known.recorded = Ending(self.now, EndReason.SIGNED_OUT, USER)

    @precondition(lambda self: self.known)
    @rule(choice=choices, target_choice=choices)
    def revoke_one(self, choice: int, target_choice: int) -> None:
        proof, target = self.pick(choice), self.pick(target_choice)

        def call() -> Awaitable[Revocation]:
            return self.usecases.revoke(proof.token, str(target.session_id))

        if not proof.is_live(self.now):
            self.fails(SessionNotLive, call)
            return
        if proof.user_id != target.user_id:
            self.fails(SessionNotFound, call)
            return
        revocation = self.run(call())
        assert revocation.current == (proof is target)
        assert revocation.already_ended == (not target.is_live(self.now))
        assert revocation.effective_time == self.effective_time
        if target.is_live(self.now):
            reason = EndReason.SIGNED_OUT if proof is target else EndReason.REVOKED
            target.recorded = Ending(self.now, reason, USER)
        assert ending_of(revocation.session, self.now) == target.ending(self.now)

    @precondition(lambda self: self.known)
    @rule(choice=choices)
    def revoke_all_others(self, choice: int) -> None:
        proof = self.pick(choice)
        if not proof.is_live(self.now):
            self.fails(SessionNotLive, lambda: self.usecases.revoke_others(proof.token))
            return
        assert self.run(self.usecases.revoke_others(proof.token)) == self.effective_time
        self.swept[proof.user_id] = self.now
        for each in self.known:
            if each.user_id == proof.user_id and each is not proof:
                each.sweep(self.now, USER)

    # Operators

    @rule(user_id=st.sampled_from(USERS))
    def revoke_sessions_of_a_user(self, user_id: str) -> None:
        assert self.run(self.usecases.revoke_user(user_id)) == self.effective_time
        self.swept[user_id] = self.now
        for each in self.known:
            if each.user_id == user_id:
                each.sweep(self.now, ADMIN)

    @rule()
    def revoke_sessions_of_all_users(self) -> None:
        assert self.run(self.usecases.revoke_all()) == self.effective_time
        self.swept = dict.fromkeys(USERS, self.now)
        for each in self.known:
            each.sweep(self.now, ADMIN)

    @precondition(lambda self: self.known)
    @rule(choice=choices, by=st.sampled_from(["id", "token", "old token"]))
    def revoke_one_by_id(self, choice: int, by: str) -> None:
        known, asked = self.pick(choice), self.usecases
        old = known.old_tokens[-1] if by == "old token" and known.old_tokens else known.token
        by_id = by == "id"
        call = asked.revoke_by_id(str(known.session_id)) if by_id else asked.revoke_by_token(old)
        assert self.run(call) == self.effective_time
        if known.is_live(self.now):
            known.recorded = Ending(self.now, EndReason.REVOKED, ADMIN)

    @rule(minutes_ago=st.sampled_from([0, 1, 60]))
    def revoke_sessions_of_the_key(self, minutes_ago: int) -> None:
        since = self.now - minutes_ago * MINUTE
        done = self.run(self.usecases.revoke_key(KEY, since))
        assert done == KeyRevocation(self.effective_time, None)
        for each in self.known:
            made_since = each.session_id >= first_id(since)  # to the millisecond
            if each.made_by_key and made_since and each.is_live(self.now):
                each.recorded = Ending(self.now, EndReason.REVOKED, ADMIN)

    @rule(user_id=st.sampled_from(USERS))
    def erase(self, user_id: str) -> None:
        erasure = self.run(self.usecases.erase_user(user_id))
        assert erasure == Erasure(self.effective_time, complete=True)
        self.swept[user_id] = self.now
        gone = [each for each in self.known if each.user_id == user_id]
        self.known = [each for each in self.known if each not in gone]
        self.purged += gone

    @precondition(lambda self: any(each.old_tokens for each in self.known))
    @rule(choice=choices)
    def use_a_superseded_token(self, choice: int) -> None:
        able = [each for each in self.known if each.old_tokens]
        known = able[choice % len(able)]
        answer = self.run(self.usecases.validate(Validation(known.old_tokens[-1])))
        assert self.reason(answer) is RejectionReason.SUPERSEDED
        self.note_reuse(known)

    # Reads

    def verdict(self, known: Known) -> EndReason | None:
        ending = known.ending(self.now)
        return None if ending is None else ending.reason

    @staticmethod
    def reason(answer: Session | Rejection) -> EndReason | RejectionReason | None:
        if isinstance(answer, Session):
            return None
        names = EndReason.__members__
        return names.get(answer.reason.name, answer.reason)

    @precondition(lambda self: self.known)
    @rule(choice=choices)
    def use_one(self, choice: int) -> None:
        known = self.pick(choice)
        answer = self.run(self.usecases.validate(Validation(known.token)))
        assert self.reason(answer) == self.verdict(known)
        if known.is_live(self.now):
            known.use(self.now, self.policy.last_active_resolution, DECISIVE)

    @precondition(lambda self: self.known)
    @rule()
    def use_all(self) -> None:
        answers = self.run(
            self.usecases.validate_all([Validation(each.token) for each in self.known])
        )
        assert [self.reason(each) for each in answers] == [
            self.verdict(each) for each in self.known
        ]
        for each in self.known:
            if each.is_live(self.now):
                each.use(self.now, self.policy.last_active_resolution, DECISIVE)

    @precondition(lambda self: self.known)
    @rule(choice=choices, page_size=st.sampled_from([0, 0, 1, 2]), show_ended=st.booleans())
    def list_all(self, choice: int, page_size: int, show_ended: bool) -> None:
        proof, now = self.pick(choice), self.now

        def listing(page_token: str = "") -> Listing:
            return Listing(
                session_token=proof.token,
                page_size=page_size,
                page_token=page_token,
                show_ended=show_ended,
            )

        if not proof.is_live(now):
            self.fails(SessionNotLive, lambda: self.usecases.list(listing()))
            return
        expected = self.live(proof.user_id)
        if show_ended:
            expected += by_ending(
                [
                    each
                    for each in self.known
                    if each.user_id == proof.user_id and not each.is_live(now)
                ],
                now,
            )
        page = self.run(self.usecases.list(listing()))
        found = list(page.sessions)
        while page.next_page_token:
            page = self.run(self.usecases.list(listing(page.next_page_token)))
            # A session that is used while pages are read may appear again at the end of the live sessions.
            seen = {each.session_id for each in found}
            found += [each for each in page.sessions if each.session_id not in seen]
        assert page.current == proof.session_id
        assert [each.session_id for each in found] == [each.session_id for each in expected]
        assert [each.last_active_time for each in found] == [
            each.last_active_time for each in expected
        ]
        assert [ending_of(each, now) for each in found] == [each.ending(now) for each in expected]

    # Time and upkeep

    @rule(seconds=st.sampled_from([0.000_001, 1, 1, 4, 6, 10, 30, 59, 60, 300, 600, 1800, 3600]))
    def let_time_pass(self, seconds: float) -> None:
        self.clock.advance(timedelta(seconds=seconds))

    @rule()
    def write_activity(self) -> None:
        self.run(self.usecases.activity.flush())
        for each in self.known:
            each.flush(self.now)

    @rule()
    def run_expire(self) -> None:
        cutoff = self.now - self.pace.safety_lag
        due = [
            each for each in self.known if each.recorded is None and self.is_purgeable(each, cutoff)
        ]
        assert self.run(self.expire()) == len(due)
        for each in due:
            each.recorded = each.ending(self.now)

    def is_purgeable(self, known: Known, cutoff: datetime) -> bool:
        ending = known.ending(self.now)
        # If a session expired before a later sweep, its age counts from its expiry.
        late = ending and ending.reason is EndReason.EXPIRED and ending.time > cutoff
        return not known.is_live(cutoff) and not late

    @rule()
    def run_purge(self) -> None:
        before = self.now - self.policy.history_retention
        old = [
            each
            for each in self.known
            if (each.recorded and each.recorded.time < before) or each.expire_time < before
        ]
        closed = [secret for secret, each in self.attempted.items() if each.expire_time <= self.now]
        assert self.run(self.purge()) >= len(old)
        self.known = [each for each in self.known if each not in old]
        self.purged += old
        for secret in closed:
            if isinstance(self.attempted[secret].request, Reauthentication):
                del self.attempted[secret]

    # Invariants

    @invariant()
    def every_token_is_answered_as_the_model_says(self) -> None:
        questions: list[tuple[str, EndReason | RejectionReason | None]] = []
        for each in self.known:
            questions.append((each.token, self.verdict(each)))
            if (
                self.superseded_use is SupersededUse.REJECT
            ):  # under that policy, validation would end sessions
                old = each.old_tokens[-16:]
                questions += [(token, RejectionReason.SUPERSEDED) for token in old]
        for each in self.purged:
            questions.append((each.token, RejectionReason.NOT_FOUND))
        if not questions:
            return
        asked = [Validation(token, passive=True) for token, _ in questions]
        answers = self.run(self.usecases.validate_all(asked))
        assert [self.reason(answer) for answer in answers] == [reason for _, reason in questions]

    @invariant()
    def no_user_has_more_sessions_than_allowed(self) -> None:
        assert all(len(self.live(user_id)) <= LIMIT for user_id in USERS)


class RefusingSessions(Sessions):
    """The same tests with a policy that refuses sign-ins over the limit."""

    at_limit = AtLimit.REFUSE


class WarySessions(Sessions):
    """The same tests with a policy that ends a session if its superseded token is used."""

    superseded_use = SupersededUse.END_SESSION


class PostgreSQLSessions(Sessions):
    """The same tests on PostgreSQL, with fewer examples, since only the statements differ."""

    engine_kind = "postgresql"


_settings = settings(
    max_examples=soaked(long=300, short=5),
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
TestSessions = Sessions.TestCase
TestSessions.settings = _settings
TestRefusingSessions = RefusingSessions.TestCase
TestRefusingSessions.settings = _settings
TestWarySessions = WarySessions.TestCase
TestWarySessions.settings = _settings
TestPostgreSQLSessions = PostgreSQLSessions.TestCase
TestPostgreSQLSessions.settings = settings(_settings, max_examples=soaked(long=100, short=3))
