"""The history checker finds a violation of each rule, and none in valid histories."""

from dataclasses import replace

from tests.integration.race_history import (
    ANSWERS,
    EXPIRED_CODE,
    NOT_LIVE,
    OK,
    UNKNOWN,
    Call,
    Change,
    Count,
    History,
    Row,
    violations,
)


def create(session_id: str, at: float, *, user_id: str = "ann") -> Call:
    return Call("create", at, at + 1, user_id, session_id)


def a(
    kind: str,
    session_id: str,
    at: float,
    answer: str = OK,
    *,
    user_id: str = "ann",
    version: int = 0,
    target: str = "",
) -> Call:
    return Call(kind, at, at + 1, user_id, session_id, version, answer, target)


def found(*calls: Call, **more: object) -> list[str]:
    history = History(limit=3, calls=list(calls))
    history.kept = {call.session_id for call in calls if call.kind == "create"}
    for name, value in more.items():
        setattr(history, name, value)
    return list(violations(history))


def is_only_problem(problems: list[str], start: str) -> bool:
    return len(problems) == 1 and problems[0].startswith(start)


TWO = (create("s", 0), create("t", 2))
LATE = "accepted after its ending was answered"


def test_a_valid_history_has_no_violations() -> None:
    assert not found(
        *TWO,
        a("validate", "s", 4),
        a("reauthenticate", "s", 6),
        a("validate", "s", 8, "SUPERSEDED"),
        a("validate", "s", 8, version=1),
        a("revoke", "s", 10, version=1, target="t"),
        a("validate", "t", 12, "REVOKED"),
        a("revoke", "t", 14, NOT_LIVE, target="s"),
        a("sign_out", "s", 16, version=1),
        a("validate", "s", 18, "SIGNED_OUT", version=1),
        counts=[Count("ann", 3)],
        worker_said=2,
        worker_did=2,
    )


def test_a_call_that_overlaps_an_ending_may_have_either_result() -> None:
    ending = a("revoke", "s", 4, target="t")
    for answer in (OK, "REVOKED"):
        assert not found(*TWO, ending, a("validate", "t", 4.5, answer))


def test_an_acceptance_after_an_answered_revocation_is_a_violation() -> None:
    assert is_only_problem(
        found(*TWO, a("revoke", "s", 4, target="t"), a("validate", "t", 5.1)), LATE
    )


def test_an_acceptance_after_an_answered_sign_out_is_a_violation() -> None:
    assert is_only_problem(found(*TWO, a("sign_out", "s", 4), a("validate", "s", 5.1)), LATE)


def test_an_acceptance_after_revoking_all_others_is_a_violation() -> None:
    assert is_only_problem(found(*TWO, a("revoke_others", "s", 4), a("validate", "t", 5.1)), LATE)


def test_an_acceptance_of_a_superseded_token_is_a_violation() -> None:
    assert is_only_problem(found(*TWO, a("reauthenticate", "s", 4), a("validate", "s", 5.1)), LATE)


def test_a_call_that_succeeds_with_an_ended_session_is_a_violation() -> None:
    ended = (*TWO, a("sign_out", "s", 4))
    for kind in ("revoke", "revoke_others", "reauthenticate"):
        assert any(LATE in each for each in found(*ended, a(kind, "s", 5.1, target="t")))


def test_two_sessions_that_end_each_other_are_a_violation() -> None:
    for one, other in (
        (a("revoke", "s", 4, target="t"), a("revoke", "t", 4, target="s")),
        (a("revoke", "s", 4, target="t"), a("revoke_others", "t", 4)),
        (a("revoke_others", "s", 4), a("revoke_others", "t", 4)),
    ):
        assert is_only_problem(found(*TWO, one, other), "each ended the other")
        assert not found(*TWO, one, replace(other, answer=NOT_LIVE))


def test_revoking_all_others_keeps_the_caller_other_users_and_later_sign_ins() -> None:
    assert not found(
        *TWO,
        create("u", 0, user_id="bob"),
        create("v", 3.5),
        a("revoke_others", "s", 4),
        a("validate", "s", 6),
        a("validate", "u", 6, user_id="bob"),
        a("validate", "v", 6),
    )


def test_signing_out_with_a_replaced_token_explains_the_ending() -> None:
    ended = (*TWO, a("reauthenticate", "s", 4), a("sign_out", "s", 6))
    assert is_only_problem(found(*ended, a("validate", "s", 8, version=1)), LATE)


def test_signing_out_with_a_token_that_may_be_forgotten_proves_no_ending() -> None:
    renewals = [a("reauthenticate", "s", 4 + n, version=n) for n in range(16)]
    assert not found(*TWO, *renewals, a("sign_out", "s", 30), a("validate", "s", 32, version=16))


def test_a_revocation_by_an_operator_ends_exactly_the_users_sessions() -> None:
    ended = (*TWO, create("u", 2, user_id="bob"), a("revoke_user", "s", 4))
    assert not found(
        *ended,
        a("validate", "s", 6, "REVOKED"),
        a("validate", "t", 6, "REVOKED"),
        a("validate", "u", 6, user_id="bob"),
    )
    for session_id in ("s", "t"):
        assert is_only_problem(found(*ended, a("validate", session_id, 6)), LATE)
    assert is_only_problem(
        found(*ended, a("validate", "u", 6, "REVOKED", user_id="bob")), "rejected without a cause"
    )


def test_an_acceptance_after_a_rejection_is_a_violation() -> None:
    back = found(
        *TWO,
        a("revoke", "s", 4, "NOT_LIVE", target="t"),
        a("validate", "s", 5.1),
    )
    assert is_only_problem(back, "accepted after it was rejected")
    by_limit = [create(f"n{number}", 3) for number in range(4)]
    back = found(*TWO, *by_limit, a("validate", "s", 5, "LIMIT"), a("validate", "s", 6.1))
    assert is_only_problem(back, "accepted after it was rejected")


def test_a_rejection_without_a_cause_is_a_violation() -> None:
    for reason in ("REVOKED", "SIGNED_OUT", "LIMIT", "EXPIRED", "SUPERSEDED"):
        assert is_only_problem(
            found(*TWO, a("validate", "s", 4, reason)), "rejected without a cause"
        )


def test_revoking_all_others_does_not_explain_the_callers_own_ending() -> None:
    calls = (*TWO, a("revoke_others", "s", 4), a("validate", "s", 6, "REVOKED"))
    assert is_only_problem(found(*calls), "rejected without a cause")


def test_revoking_all_others_does_not_explain_the_ending_of_a_later_sign_in() -> None:
    calls = (*TWO, a("revoke_others", "s", 4), create("u", 6), a("validate", "u", 8, "REVOKED"))
    assert is_only_problem(found(*calls), "rejected without a cause")


def test_an_early_expiry_is_a_violation() -> None:
    lifetimes = {"s": 5.0}
    assert not found(*TWO, a("validate", "s", 5, "EXPIRED"), lifetimes=lifetimes)
    early = found(*TWO, a("validate", "s", 3, "EXPIRED"), lifetimes=lifetimes)
    assert is_only_problem(early, "rejected without a cause")


def test_more_sessions_than_the_limit_are_a_violation() -> None:
    assert is_only_problem(found(*TWO, counts=[Count("ann", 4)]), "above the limit")


def test_an_unexpected_answer_is_a_violation() -> None:
    for kind in (
        "create",
        "validate",
        "revoke",
        "revoke_others",
        "revoke_user",
        "sign_out",
        "reauthenticate",
    ):
        problems = found(a(kind, "s", 4, "InternalError"), kept=set())
        assert is_only_problem(problems, "answered wrongly")
    assert is_only_problem(found(*TWO, a("validate", "s", 4, "NOT_FOUND")), "answered wrongly")


def test_one_session_created_by_two_calls_is_a_violation() -> None:
    assert is_only_problem(found(create("s", 0), create("s", 2)), "one session made by 2 calls")


def test_a_lost_session_whose_creation_was_answered_is_a_violation() -> None:
    assert is_only_problem(found(*TWO, kept={"s"}), "answered and lost: t")


def test_a_session_that_no_call_created_is_a_violation() -> None:
    assert is_only_problem(found(*TWO, kept={"s", "t", "u"}), "made and not answered: ['u']")


def test_a_session_whose_creation_got_no_answer_may_exist() -> None:
    unknown = a("create", "", 4, UNKNOWN)
    assert not found(*TWO, unknown, kept={"s", "t", "u"})
    assert is_only_problem(found(*TWO, unknown, kept={"s", "t", "u", "v"}), "made and not answered")


def test_an_unanswered_ending_allows_both_acceptance_and_rejection() -> None:
    unknown = a("sign_out", "s", 4, UNKNOWN)
    assert not found(*TWO, unknown, a("validate", "s", 6, "SIGNED_OUT"))
    assert not found(*TWO, unknown, a("validate", "s", 6))


def test_an_internal_error_is_a_violation_for_every_call() -> None:
    problem = "InternalError: the authority failed"
    for kind in ANSWERS:
        assert is_only_problem(found(*TWO, a(kind, "s", 6, problem)), "answered wrongly")


def test_more_reported_endings_than_recorded_endings_are_a_violation() -> None:
    assert is_only_problem(
        found(*TWO, worker_said=3, worker_did=2), "workers recorded 3 endings of 2"
    )


def test_an_overdue_session_that_the_workers_missed_is_a_violation() -> None:
    assert is_only_problem(found(*TWO, overdue={"s"}), "left out by the workers: s")


# Rows in the database


ROW = Row("old", user_epoch=0, last_active=10.0, expire=100.0)
ENDED = replace(ROW, ended=50.0, reason=2)


def changed(
    before: Row, after: Row, at: float = 60.0, *, epoch: int = 0, epoch_since: float | None = None
) -> list[str]:
    return found(changes=[Change("s", at, before, after, epoch, epoch_since)])


def test_allowed_changes_of_a_row_are_no_violation() -> None:
    touched = replace(ROW, last_active=59.0)
    assert not changed(ROW, touched)
    assert not changed(ROW, ENDED)
    assert not changed(ROW, replace(ROW, secret="new", last_active=60.0, expire=160.0))
    assert not changed(ROW, replace(ROW, user_epoch=1), epoch=1)


def test_a_change_after_the_ending_is_a_violation() -> None:
    for after in (
        ROW,
        replace(ENDED, last_active=11.0),
        replace(ENDED, ended=55.0),
        replace(ENDED, secret="new"),
    ):
        assert is_only_problem(changed(ENDED, after), "changed after its end")
    assert not changed(
        ENDED, replace(ENDED, user_epoch=1)
    )  # a sweep covered the session, and another ending was recorded


def test_a_last_activity_that_moves_back_is_a_violation() -> None:
    assert is_only_problem(changed(ROW, replace(ROW, last_active=9.0)), "last activity moved back")
    renewed = replace(ROW, secret="new", last_active=9.0)
    assert is_only_problem(changed(ROW, renewed), "last activity moved back")


def test_a_touch_after_the_lifetime_is_a_violation() -> None:
    touched = replace(ROW, last_active=99.0)
    assert not changed(ROW, touched, at=99.9)
    assert is_only_problem(changed(ROW, touched, at=100.0), "touched after it had expired")


def test_a_touch_after_a_sweep_is_a_violation() -> None:
    touched = replace(ROW, last_active=40.0)
    assert is_only_problem(
        changed(ROW, touched, epoch=1, epoch_since=59.0), "touched after it was swept"
    )
    for since in (59.9, 61.0, None):  # the sweep may not be visible yet
        assert not changed(ROW, touched, epoch=1, epoch_since=since)
    spared = replace(ROW, user_epoch=1)
    assert not changed(spared, replace(spared, last_active=40.0), epoch=1, epoch_since=59.0)


def test_impossible_values_in_a_row_are_a_violation() -> None:
    assert not found(rows={"s": ENDED, "t": ROW})
    for row, problem in (
        (replace(ENDED, last_active=52.0), "active after its end"),
        (replace(ENDED, ended=101.0), "ended after it had expired"),
        (replace(ENDED, reason=EXPIRED_CODE), "expired at another time than its own"),
    ):
        assert is_only_problem(found(rows={"s": row}), problem)
    assert not found(rows={"s": replace(ENDED, ended=100.0, reason=EXPIRED_CODE)})


def test_a_use_that_was_not_recorded_is_a_violation() -> None:
    used = (*TWO, a("validate", "s", 40))
    assert not found(*used, rows={"s": replace(ROW, last_active=39.5)})
    assert is_only_problem(found(*used, rows={"s": ROW}), "used and not recorded")
    assert not found(*used, rows={"s": ENDED})  # the last use before the ending may be lost
    assert not found(
        *used, a("revoke", "t", 42, target="s"), a("validate", "s", 44, "REVOKED"), rows={"s": ROW}
    )
    assert is_only_problem(
        found(*used, rows={"s": replace(ROW, last_active=39.5)}, monotonic_zero=1_000.0),
        "used and not recorded",
    )
