"""Each warning appears exactly when its condition is met."""

from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from session_authority_server.check.database_condition import Backlog, SqliteCondition
from session_authority_server.check.facts import Facts, File
from session_authority_server.check.requirement import CheckWarning
from session_authority_server.check.warnings import WARNINGS
from session_authority_server.domain.api_key import Permission
from session_authority_server.domain.privacy import EraseAddresses, KeepAddresses, KeepUserAgents
from session_authority_server.domain.receiver import ReceiverState
from session_authority_server.store.schema import SchemaVersion
from tests.contract.reporting import a_receiver
from tests.unit.check.installation import (
    DAY,
    EXPOSURE,
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
    used,
)

RECEIVER = a_receiver()
VALIDATE, CREATE, TERMINATE = Permission.VALIDATE, Permission.CREATE, Permission.TERMINATE


def warnings(facts: Facts) -> list[CheckWarning]:
    return [warning for judge in WARNINGS for warning in judge(facts)]


def policy(**changes: Any) -> Facts:
    return an_installation(policy=replace(POLICY, **changes))


def exposure(**changes: Any) -> Facts:
    return an_installation(exposure=replace(EXPOSURE, **changes))


def postgresql(**changes: Any) -> Facts:
    return an_installation(condition=replace(POSTGRESQL, **changes))


def tables(**changes: Any) -> Facts:
    return an_installation(contents=contents(**changes))


def one_key(*permissions: Permission, used_: Any = None, **changes: Any) -> Facts:
    key = a_key(*(permissions or (VALIDATE,)), **changes)
    uses = None if used_ is None else {key.key_id: used_}
    return an_installation(contents=contents(key, uses=uses))


def file(mode: int) -> Facts:
    return an_installation(files=[File(path=Path("/a"), holds="keys", mode=mode)])


def version(current: str | None, *, known: bool, oldest_program: str | None) -> Facts:
    at = SchemaVersion(current, "0007", known=known, oldest_program=oldest_program)
    return an_installation(schema=at, contents=contents() if at.serves else None)


LONG_AGO = NOW - 40 * DAY
# Facts that cause each warning, and facts that almost do.
WARRANTED: dict[str, tuple[list[Facts], list[Facts]]] = {
    "schema": (
        [
            version("0005", known=True, oldest_program=None),
            version(None, known=True, oldest_program=None),
            version("0009", known=False, oldest_program="0008"),
        ],
        [version("0007", known=True, oldest_program=None)],
    ),
    "schema-newer": ([version("0009", known=False, oldest_program="0007")], []),
    "insecure": ([an_installation(exposure=replace(LOCAL, insecure=True))], []),
    "plaintext-listener": (
        [exposure(tls=False, allow_plaintext=True), exposure(tls=False)],
        [an_installation(exposure=LOCAL)],
    ),
    "certificate-not-valid": (
        [
            exposure(tls_dates=(NOW - DAY, NOW - SECOND)),
            exposure(tls_dates=(NOW + SECOND, NOW + DAY)),
        ],
        [exposure(tls_dates=(NOW, NOW)), exposure(tls_dates=None)],
    ),
    "certificate-expires-soon": (
        [
            exposure(tls_dates=(NOW - 60 * DAY, NOW + 14 * DAY)),
            exposure(tls_dates=(NOW - 3 * DAY, NOW + DAY)),
        ],
        [
            exposure(tls_dates=(NOW - 60 * DAY, NOW + 14 * DAY + SECOND)),
            exposure(tls_dates=(NOW - 3 * DAY, NOW + DAY + SECOND)),
        ],
    ),
    "plaintext-metrics": (
        [exposure(metrics_listen="0.0.0.0:9000", metrics_is_loopback=False)],
        [exposure(metrics_listen="127.0.0.1:9000", metrics_is_loopback=True)],
    ),
    "plaintext-database": (
        [postgresql(encrypted=False)],
        [postgresql(encrypted=False, is_local=True), an_installation(condition=SQLITE)],
    ),
    "unverified-database": (
        [postgresql(verified=False), an_installation(watch_is_verified=False)],
        [
            postgresql(verified=False, is_local=True),
            postgresql(verified=False, encrypted=False),  # a worse warning covers this
        ],
    ),
    "open-file": ([file(0o644), file(0o602), file(0o601)], [file(0o600), file(0o660)]),
    "not-durable": (
        [
            postgresql(fsync=False),
            postgresql(synchronous_commit="off"),
            an_installation(condition=SQLITE, filesystem="ramfs"),
            an_installation(condition=SQLITE, filesystem="cifs"),
        ],
        [an_installation(condition=SQLITE, filesystem="xfs")],
    ),
    "open-schema": ([postgresql(open_schemas="public")], [an_installation(condition=SQLITE)]),
    "several-names": (
        [an_installation(condition=SQLITE, hard_links=2)],
        [an_installation(condition=SQLITE, hard_links=1)],
    ),
    "journal-mode": (
        [an_installation(condition=SqliteCondition(journal_mode="delete"))],
        [an_installation(condition=SQLITE)],
    ),
    "no-standby": ([postgresql(standbys=0)], [an_installation(condition=SQLITE)]),
    "no-state-directory": (
        [an_installation(state_directory=None)],
        [an_installation(state_directory=None, condition=SQLITE)],
    ),
    "state-directory-vanishes": (
        [
            an_installation(state_filesystem="tmpfs"),
            an_installation(state_filesystem="overlay"),
            an_installation(state_directory=Path("/run/authority")),
        ],
        [an_installation(state_filesystem="xfs")],
    ),
    "asynchronous-standby": (
        [
            postgresql(waits_for_standbys=False),
            postgresql(standbys=2, asynchronous_standbys=1),
        ],
        [postgresql(standbys=2)],
    ),
    "weak-commit": (
        [postgresql(synchronous_commit="local"), postgresql(synchronous_commit="remote_write")],
        [postgresql(synchronous_commit="remote_apply")],
    ),
    "clock-skew": (
        [an_installation(clock_skew=SECOND), an_installation(clock_skew=-SECOND)],
        [an_installation(clock_skew=0.99 * SECOND)],
    ),
    "future-times": (
        [tables(latest_time=NOW + 3 * SECOND)],
        [
            tables(latest_time=NOW + SECOND),
            tables(latest_time=NOW - DAY),
            an_installation(
                contents=contents(latest_time=NOW + 3 * SECOND), clock_skew=-2 * SECOND
            ),
        ],
    ),
    "no-keys": (
        [
            one_key(revoke_time=NOW),
            one_key(expire_time=NOW),
        ],
        [],
    ),
    "development-key": (
        [
            one_key(*Permission, name="development"),
            replace(
                (known := one_key(VALIDATE, name="renamed")),
                development_key_id=known.active_keys[0].key_id,
            ),
        ],
        [one_key(VALIDATE, name="development")],
    ),
    "key-without-expiry": ([one_key(expire_time=None)], []),
    "key-expires-soon": (
        [one_key(expire_time=NOW + 14 * DAY), one_key(expire_time=NOW + SECOND)],
        [one_key(expire_time=NOW + 14 * DAY + SECOND)],
    ),
    "key-never-used": (
        [one_key(last_used_time=None, create_time=NOW - 30 * DAY, used_={})],
        [one_key(last_used_time=None, create_time=NOW - 30 * DAY + SECOND, used_={})],
    ),
    "unused-permission": (
        [
            one_key(VALIDATE, CREATE, used_=used(VALIDATE, first=LONG_AGO, last=NOW)),
            # The key was used once.
            one_key(
                VALIDATE,
                CREATE,
                used_={
                    **used(VALIDATE, first=LONG_AGO, last=NOW),
                    **used(CREATE, first=LONG_AGO, last=NOW - 30 * DAY),
                },
            ),
        ],
        [
            # Uses have been recorded only for a short time.
            one_key(
                VALIDATE, CREATE, used_=used(VALIDATE, first=NOW - 30 * DAY + SECOND, last=NOW)
            ),
            # The key was used before uses were recorded.
            one_key(VALIDATE, CREATE, used_={}),
            one_key(
                VALIDATE,
                CREATE,
                used_={
                    **used(VALIDATE, first=LONG_AGO, last=NOW),
                    **used(CREATE, first=NOW - 30 * DAY + SECOND, last=NOW - 30 * DAY + SECOND),
                },
            ),
        ],
    ),
    "backlog": (
        [
            tables(overdue_since=NOW - 10 * MINUTE),
            tables(backlog=Backlog(sweep_time=NOW - 10 * MINUTE, erase_time=None)),
            tables(backlog=Backlog(sweep_time=None, erase_time=NOW - 10 * MINUTE)),
        ],
        [
            tables(overdue_since=NOW - 10 * MINUTE + SECOND),
            replace(tables(overdue_since=NOW - 50 * MINUTE), worker_interval=6 * MINUTE),
        ],
    ),
    "partitions-missing": (
        [tables(sign_ins_until=NOW + 14 * DAY), tables(sign_ins_until=NOW - DAY)],
        [tables(sign_ins_until=NOW + 14 * DAY + SECOND)],
    ),
    "receiver-parked": (
        [tables(receivers=[replace(RECEIVER, state=ReceiverState.PARKED)])],
        [tables(receivers=[RECEIVER, replace(RECEIVER, state=ReceiverState.PAUSED)])],
    ),
    "events-dropped": (
        [tables(receivers=[replace(RECEIVER, dropped=1)])],
        [tables(receivers=[RECEIVER])],
    ),
    "no-event-key": (
        [replace(tables(receivers=[RECEIVER]), has_event_key=False)],
        [tables(receivers=[RECEIVER]), an_installation(has_event_key=False)],
    ),
    "no-audit-log": ([an_installation(audit_log="")], [an_installation(audit_log="-")]),
    "short-history": (
        [policy(history_retention=timedelta(0))],
        [policy(history_retention=DAY)],
    ),
    "long-history": (
        [
            policy(history_retention=91 * DAY),
            policy(history_retention=91 * DAY, keep_ip_addresses=KeepAddresses.NONE),
            policy(history_retention=91 * DAY, keep_user_agents=KeepUserAgents.NONE),
        ],
        [
            policy(history_retention=90 * DAY),
            policy(history_retention=91 * DAY, erase_addresses=EraseAddresses.AT_END),
            policy(
                history_retention=91 * DAY,
                keep_ip_addresses=KeepAddresses.TRUNCATED,
                keep_user_agents=KeepUserAgents.NONE,
            ),
        ],
    ),
    "addresses-outlive-erasure": (
        [replace(policy(erase_addresses=EraseAddresses.AT_END), audit_addresses=True)],
        [
            an_installation(audit_addresses=True),
            replace(
                policy(erase_addresses=EraseAddresses.AT_END), audit_addresses=True, audit_log=""
            ),
        ],
    ),
}


def test_an_installation_without_faults_has_no_warnings() -> None:
    assert warnings(an_installation()) == []


@pytest.mark.parametrize("name", WARRANTED)
def test_a_warning_appears_exactly_when_its_condition_is_met(name: str) -> None:
    warranted, unwarranted = WARRANTED[name]
    for facts in warranted:
        assert name in [each.name for each in warnings(facts)]
    for facts in unwarranted:
        assert name not in [each.name for each in warnings(facts)]


@pytest.mark.parametrize("name", WARRANTED)
def test_each_warning_has_a_subject_a_reason_and_a_remedy(name: str) -> None:
    for facts in WARRANTED[name][0]:
        given = [each for each in warnings(facts) if each.name == name]
        for each in given:
            assert each.about
            assert each.why
            assert each.remedy
            assert not each.why.endswith(".")


def test_every_warning_is_tested_here_and_documented() -> None:
    given = {
        each.name
        for warranted, unwarranted in WARRANTED.values()
        for facts in (*warranted, *unwarranted)
        for each in warnings(facts)
    }
    assert given == set(WARRANTED)
    text = (Path(__file__).parents[3] / "docs" / "operate" / "check.md").read_text()
    for name in WARRANTED:
        assert f"| `{name}` |" in text


def test_a_warning_about_a_key_names_its_unused_permissions() -> None:
    facts = one_key(VALIDATE, CREATE, TERMINATE, used_=used(VALIDATE, first=LONG_AGO, last=NOW))
    [warning] = warnings(facts)
    assert ": create, terminate" in warning.why
    assert str(facts.active_keys[0].key_id) in warning.about
    assert "shop" in warning.about


def test_ended_keys_cause_no_warnings() -> None:
    over = a_key(expire_time=None, revoke_time=NOW, last_used_time=None)
    good = a_key(VALIDATE)
    assert warnings(an_installation(contents=contents(good, over))) == []


def test_missing_tables_cause_no_warnings_about_their_contents() -> None:
    names = [each.name for each in warnings(version("0005", known=True, oldest_program=None))]
    assert names == ["schema"]


def test_no_warning_shows_a_secret() -> None:
    key = a_key()
    for watched in (one_key(expire_time=None), one_key(*Permission, name="development")):
        for each in warnings(watched):
            assert key.secret_hash.hex() not in repr(each)
            assert "sak_" not in repr(each)
