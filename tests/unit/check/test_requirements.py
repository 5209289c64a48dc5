"""Each requirement's verdict changes with the settings that it depends on."""

import re
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from session_authority_server.check.facts import Facts
from session_authority_server.check.report import REQUIREMENTS
from session_authority_server.check.requirement import (
    Finding,
    Requirement,
    Standard,
    Verdict,
)
from session_authority_server.config import Settings
from session_authority_server.domain.api_key import Permission
from session_authority_server.domain.policy import AtLimit
from tests.unit.check.installation import (
    DAY,
    EXPOSURE,
    HOUR,
    LOCAL,
    MINUTE,
    NOW,
    POLICY,
    POSTGRESQL,
    SECOND,
    SQLITE,
    a_key,
    an_installation,
    contents,
)

BY_ID = {each.id: each for each in REQUIREMENTS}
MET, NOT_MET, APP_DUTY = Verdict.MET, Verdict.NOT_MET, Verdict.APP_DUTY


def policy(**changes: Any) -> Facts:
    return an_installation(policy=replace(POLICY, **changes))


def exposure(**changes: Any) -> Facts:
    return an_installation(exposure=replace(EXPOSURE, **changes))


def postgresql(**changes: Any) -> Facts:
    return an_installation(condition=replace(POSTGRESQL, **changes))


def lives_for(length: timedelta, **changes: Any) -> Facts:
    """Return facts with one session of a given lifetime."""
    return an_installation(contents=contents(live_until=NOW + length), **changes)


def without(permission: Permission) -> Facts:
    """Return facts in which no active key has a permission."""
    rest = [a_key(each) for each in Permission if each is not permission]
    over = [
        a_key(permission, revoke_time=NOW - SECOND),
        a_key(permission, expire_time=NOW),
    ]
    return an_installation(contents=contents(*rest, *over))


CREATE, MANAGE, TERMINATE = Permission.CREATE, Permission.MANAGE, Permission.TERMINATE
# Facts that change the verdict of an installation without faults, and facts that almost do.
TURNS: dict[str, tuple[list[Facts], list[Facts]]] = {
    "7.1.1": (
        [policy(absolute_lifetime=90 * DAY + SECOND)],
        [policy(absolute_lifetime=90 * DAY), policy(idle_timeout=None)],
    ),
    "7.1.2": ([policy(session_limit=None)], [policy(session_limit=1, at_limit=AtLimit.REFUSE)]),
    "7.2.3": ([an_installation(token_secret_bits=127)], [an_installation(token_secret_bits=128)]),
    "7.2.4": ([without(CREATE)], [without(MANAGE)]),
    "7.3.1": (
        [policy(idle_timeout=None), lives_for(16 * MINUTE + SECOND)],
        [policy(idle_timeout=30 * DAY), lives_for(16 * MINUTE)],
    ),
    "7.3.2": (  # an absolute lifetime cannot be switched off
        [lives_for(12 * HOUR + MINUTE + SECOND)],
        [lives_for(12 * HOUR + MINUTE), policy(absolute_lifetime=3_650 * DAY, idle_timeout=None)],
    ),
    "7.4.1": (
        [
            postgresql(fsync=False),
            postgresql(full_page_writes=False),
            postgresql(synchronous_commit="off"),
            an_installation(condition=SQLITE, filesystem="tmpfs"),
            an_installation(condition=SQLITE, filesystem="nfs4"),
        ],
        [
            postgresql(synchronous_commit="local"),
            postgresql(standbys=0, waits_for_standbys=False),
            an_installation(condition=SQLITE, filesystem="ext4"),
            an_installation(condition=SQLITE),
            an_installation(
                filesystem="tmpfs"
            ),  # not of the database: the file system of PostgreSQL is not visible
        ],
    ),
    "7.4.2": ([without(TERMINATE)], [without(MANAGE)]),
    "7.4.3": ([without(MANAGE)], [without(TERMINATE)]),
    "7.4.4": ([without(MANAGE)], [without(TERMINATE)]),
    "7.4.5": ([without(TERMINATE)], [without(CREATE)]),
    "7.5.2": (
        [policy(max_authentication_age=None), without(MANAGE)],
        [policy(max_authentication_age=DAY)],
    ),
    "2.1.3-30-days": (
        [policy(absolute_lifetime=30 * DAY + SECOND), lives_for(DAY)],
        [policy(absolute_lifetime=30 * DAY), lives_for(12 * HOUR)],
    ),
    "2.2.3-24-hours": (
        [policy(absolute_lifetime=DAY + SECOND), lives_for(60 * DAY)],
        [policy(absolute_lifetime=DAY), lives_for(12 * HOUR)],
    ),
    "2.2.3-idle": (
        [policy(idle_timeout=HOUR + SECOND), policy(idle_timeout=None), lives_for(DAY)],
        [policy(idle_timeout=HOUR), lives_for(15 * MINUTE)],
    ),
    "2.3.3-12-hours": (
        [policy(absolute_lifetime=12 * HOUR + SECOND), lives_for(60 * DAY)],
        [policy(absolute_lifetime=HOUR), lives_for(12 * HOUR)],
    ),
    "2.3.3-idle": (
        [policy(idle_timeout=15 * MINUTE + SECOND), policy(idle_timeout=None), lives_for(HOUR)],
        [policy(idle_timeout=MINUTE), lives_for(15 * MINUTE)],
    ),
    "5.1-length": (
        [an_installation(token_secret_bits=63)],
        [an_installation(token_secret_bits=64)],
    ),
    "5.1-channel": (
        [
            exposure(tls=False),
            exposure(tls=False, insecure=True),
            exposure(tls=False, insecure=True, allow_plaintext=True),
            exposure(tls_fault="server.pem can't be read"),
            exposure(tls_dates=(NOW - DAY, NOW - SECOND)),
            exposure(tls_dates=(NOW + SECOND, NOW + DAY)),
        ],
        [
            an_installation(exposure=LOCAL),
            exposure(tls_dates=None),
            exposure(tls_dates=(NOW, NOW)),
        ],
    ),
    "5.1-logout": ([without(MANAGE), postgresql(fsync=False)], [without(CREATE)]),
}
# Verdicts that the program or the app alone decides.
FIXED = {
    "7.1.3": APP_DUTY,
    "7.2.1": MET,
    "7.2.2": MET,
    "7.5.1": APP_DUTY,
    "7.5.3": APP_DUTY,
    "7.6.1": APP_DUTY,
    "7.6.2": APP_DUTY,
    "2.1.3-overall": MET,
    "5.1-generator": APP_DUTY,
    "5.1-logoff-available": APP_DUTY,
    "5.1.1-secure": APP_DUTY,
    "5.1.1-scope": APP_DUTY,
    "5.1.1-http-only": APP_DUTY,
    "5.1.1-same-site": APP_DUTY,
    "5.1.1-contents": MET,
    "5.1.1-expiry": MET,
    "5.2-timeouts": MET,
    "5.2-activity": MET,
    "5.2-reauthentication": MET,
}
WORST = an_installation(
    policy=replace(
        POLICY,
        absolute_lifetime=3_650 * DAY,
        idle_timeout=None,
        session_limit=None,
        max_authentication_age=None,
    ),
    exposure=replace(EXPOSURE, tls=False),
    condition=replace(POSTGRESQL, fsync=False),
    token_secret_bits=0,
    contents=None,
)


def found(facts: Facts, requirement: str) -> Finding:
    return BY_ID[requirement].judge(facts)


def test_every_requirement_of_both_standards_is_judged_once() -> None:
    asvs = [each.id for each in REQUIREMENTS if each.standard is Standard.ASVS]
    assert asvs == [
        *("7.1.1", "7.1.2", "7.1.3", "7.2.1", "7.2.2", "7.2.3", "7.2.4", "7.3.1", "7.3.2"),
        *("7.4.1", "7.4.2", "7.4.3", "7.4.4", "7.4.5", "7.5.1", "7.5.2", "7.5.3"),
        *("7.6.1", "7.6.2"),
    ]
    assert len(BY_ID) == len(REQUIREMENTS)
    assert set(BY_ID) == set(TURNS) | set(FIXED)
    assert not set(TURNS) & set(FIXED)


def test_levels_are_those_of_the_standards() -> None:
    first = {"7.2.1", "7.2.2", "7.2.3", "7.2.4", "7.4.1", "7.4.2"}
    for each in REQUIREMENTS:
        if each.standard is Standard.ASVS:
            assert each.level == (1 if each.id in first else 3 if each.id == "7.5.3" else 2)
        else:
            section = each.id.partition("-")[0]
            assert each.level == {"2.2.3": 2, "2.3.3": 3}.get(section, 1)
    shoulds = {each.id for each in REQUIREMENTS if not each.shall}
    assert shoulds == {"2.1.3-30-days", "2.2.3-24-hours", "2.2.3-idle", "2.3.3-idle"}


@pytest.mark.parametrize("requirement", TURNS)
def test_a_verdict_changes_with_its_facts(requirement: str) -> None:
    spoilt, alike = TURNS[requirement]
    whole = found(an_installation(), requirement).verdict
    assert whole is not NOT_MET
    for facts in spoilt:
        assert found(facts, requirement).verdict is NOT_MET
    for facts in alike:
        assert found(facts, requirement).verdict is whole


@pytest.mark.parametrize("requirement", FIXED)
def test_a_verdict_that_no_setting_changes_is_the_same_for_every_installation(
    requirement: str,
) -> None:
    for facts in (an_installation(), WORST):
        assert found(facts, requirement).verdict is FIXED[requirement]


@pytest.mark.parametrize("requirement", REQUIREMENTS, ids=BY_ID)
def test_each_finding_says_why_and_names_settings_that_exist(requirement: Requirement) -> None:
    for facts in (an_installation(), WORST):
        finding = requirement.judge(facts)
        assert finding.why
        assert not finding.why.endswith(".")
        assert finding.setting in {"", *Settings.model_fields}
        assert bool(finding.duty) or finding.verdict is not APP_DUTY


@pytest.mark.parametrize(
    ("requirement", "setting"),
    [
        ("7.1.1", "absolute_lifetime_seconds"),
        ("7.1.2", "session_limit"),
        ("7.3.1", "idle_timeout_seconds"),
        ("7.5.2", "max_authentication_age_seconds"),
        ("2.1.3-30-days", "absolute_lifetime_seconds"),
        ("2.2.3-idle", "idle_timeout_seconds"),
        ("2.3.3-12-hours", "absolute_lifetime_seconds"),
        ("5.1-channel", "tls_certificate"),
    ],
)
def test_a_finding_names_the_setting_that_changes_it(requirement: str, setting: str) -> None:
    keys = contents()  # without `manage`, 7.5.2 depends on that permission first
    for facts in (an_installation(), replace(WORST, contents=keys)):
        assert found(facts, requirement).setting == setting


@pytest.mark.parametrize(
    ("lifetime", "justified"),
    [(31 * DAY, True), (90 * DAY, True), (90 * DAY + SECOND, False)],
)
def test_only_the_first_level_justifies_a_lifetime_up_to_90_days(
    lifetime: Any, justified: bool
) -> None:
    facts = policy(absolute_lifetime=lifetime)
    assert found(facts, "2.1.3-30-days").justified is justified
    assert not found(facts, "2.2.3-24-hours").justified
    assert not found(facts, "2.3.3-12-hours").justified
    assert not found(policy(absolute_lifetime=DAY), "2.1.3-30-days").justified


def test_sessions_beyond_the_limits_are_reported_with_their_time_and_a_remedy() -> None:
    for requirement in ("7.3.1", "7.3.2", "2.1.3-30-days", "2.3.3-12-hours", "2.3.3-idle"):
        why = found(lives_for(60 * DAY), requirement).why
        assert "until at least 2026-07-31 12:00 UTC" in why
        assert "session-authority revoke --all" in why


def test_sessions_beyond_the_limits_are_justified_like_the_limits() -> None:
    assert found(lives_for(90 * DAY), "2.1.3-30-days").justified
    assert not found(lives_for(91 * DAY), "2.1.3-30-days").justified
    assert not found(lives_for(60 * DAY), "2.2.3-24-hours").justified


def test_a_slow_clock_makes_no_session_longer() -> None:
    behind = -HOUR
    assert found(lives_for(15 * MINUTE - behind, clock_skew=behind), "7.3.1").verdict is MET
    assert found(lives_for(16 * MINUTE, clock_skew=HOUR), "7.3.1").verdict is NOT_MET


@pytest.mark.parametrize("changes", [{}, {"waits_for_standbys": False}, {"standbys": 2}])
def test_the_finding_mentions_commits_that_a_standby_may_not_have(changes: dict[str, Any]) -> None:
    assert "unless a standby takes over" in found(postgresql(**changes), "7.4.1").why
    for facts in (postgresql(standbys=0), an_installation(condition=SQLITE)):
        assert "standby" not in found(facts, "7.4.1").why


def test_the_app_must_encrypt_if_plaintext_is_allowed() -> None:
    finding = found(exposure(tls=False, allow_plaintext=True), "5.1-channel")
    assert finding.verdict is APP_DUTY
    assert "in front" in finding.why


@pytest.mark.parametrize("requirement", ["7.2.4", "7.4.5", "7.5.2", "5.1-logout"])
def test_keys_that_could_not_be_read_are_not_reported_as_missing(requirement: str) -> None:
    finding = found(an_installation(contents=None), requirement)
    assert finding.verdict is NOT_MET
    assert "could not be read" in finding.why
    assert "No active API key" not in finding.why


def test_without_key_checks_every_caller_has_every_permission() -> None:
    facts = replace(without(MANAGE), exposure=replace(LOCAL, insecure=True))
    for requirement in ("7.4.3", "7.4.4", "7.5.2", "5.1-logout"):
        assert found(facts, requirement).verdict is not NOT_MET


def test_durations_are_in_readable_units() -> None:
    said = found(policy(absolute_lifetime=DAY, idle_timeout=HOUR), "5.2-timeouts").why
    assert re.search(r"\(1 day\).* \(1 hour\)", said)
    said = found(policy(absolute_lifetime=90 * SECOND), "2.1.3-overall").why
    assert "90 seconds" in said
