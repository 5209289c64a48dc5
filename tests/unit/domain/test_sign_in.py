from collections.abc import Mapping
from datetime import timedelta

import pytest

from session_authority_server.domain import sign_in as checks
from session_authority_server.domain.errors import InvalidRequest
from session_authority_server.domain.policy import Policy
from session_authority_server.domain.sign_in import Violations
from tests.support.engines import DAY, MINUTE, SECOND, START

INSTANT = timedelta(microseconds=1)


def fields(violations: Violations) -> list[str]:
    """Return the names of the invalid fields."""
    try:
        violations.raise_if_any()
    except InvalidRequest as refusal:
        return [violation.field for violation in refusal.violations]
    return []


# All fields together


def test_a_valid_sign_in_has_no_violations() -> None:
    Violations().raise_if_any()


def test_every_violation_is_returned_at_once_with_its_field() -> None:
    violations = Violations()
    checks.check_user_id("", violations)
    checks.check_retry_secret(b"short", violations)
    with pytest.raises(InvalidRequest, match=r"user_id.*; .*retry_secret") as refusal:
        violations.raise_if_any()
    assert [violation.field for violation in refusal.value.violations] == [
        "user_id",
        "retry_secret",
    ]


# User id


@pytest.mark.parametrize(
    "user_id", ["a", "a" * 255, "é" * 127, "user 42", "me@example.com", "漢字", "\u200d", "0"]
)
def test_a_user_id_may_be_any_text_of_1_to_255_bytes(user_id: str) -> None:
    violations = Violations()
    checks.check_user_id(user_id, violations)
    assert fields(violations) == []


@pytest.mark.parametrize("user_id", ["", "a" * 256, "é" * 128, "a\0", "a\n", "\x7f", "\x85"])
def test_a_user_id_beyond_the_limit_or_with_control_characters_is_refused(user_id: str) -> None:
    violations = Violations()
    checks.check_user_id(user_id, violations)
    assert fields(violations) == ["user_id"]


# Address


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("", None),
        ("192.0.2.1", "192.0.2.1"),
        ("2001:0DB8:0:0:0:0:0:1", "2001:db8::1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("::FFFF:C000:0201", "192.0.2.1"),
        ("::1", "::1"),
        ("::", "::"),
    ],
)
def test_an_address_is_stored_in_its_canonical_form(text: str, canonical: str | None) -> None:
    violations = Violations()
    assert checks.check_ip_address(text, violations) == canonical
    assert fields(violations) == []


@pytest.mark.parametrize(
    "text",
    [
        "localhost",
        "192.0.2.1:443",
        "[::1]",
        "fe80::1%eth0",
        "::ffff:192.0.2.1%eth0",
        "192.0.2.0/24",
        "192.0.2.256",
        "192.0.2.01",
        "3221225985",
        " 192.0.2.1",
        "1" * 65,
        "fe80::1%" + "a" * 1000,
    ],
)
def test_an_invalid_address_is_refused(text: str) -> None:
    violations = Violations()
    assert checks.check_ip_address(text, violations) is None
    assert fields(violations) == ["ip_address"]


# Time and methods


def test_the_default_time_of_the_credential_check_is_now() -> None:
    violations = Violations()
    assert checks.check_authenticate_time(None, START, violations) == START
    hour_ago = START - 60 * MINUTE
    assert checks.check_authenticate_time(hour_ago, START, violations) == hour_ago
    assert fields(violations) == []


def test_a_time_ahead_by_the_allowed_skew_counts_as_now() -> None:
    violations = Violations()
    assert checks.check_authenticate_time(START + 5 * SECOND, START, violations) == START
    assert fields(violations) == []
    checks.check_authenticate_time(START + 5 * SECOND + INSTANT, START, violations)
    assert fields(violations) == ["authenticate_time"]


@pytest.mark.parametrize("methods", [[], ["pwd"], ["x" * 32], ["!", "~"], ["pwd"] * 16])
def test_sixteen_methods_of_thirty_two_characters_are_allowed(methods: list[str]) -> None:
    violations = Violations()
    checks.check_authentication_methods(methods, violations)
    assert fields(violations) == []


@pytest.mark.parametrize(
    ("methods", "refused"),
    [
        (["pwd"] * 17, ["authentication_methods"]),
        (["pwd", ""], ["authentication_methods[1]"]),
        (["x" * 33], ["authentication_methods[0]"]),
        (["a b", "ok", "é", "pwd\n"], [f"authentication_methods[{n}]" for n in (0, 2, 3)]),
    ],
)
def test_methods_over_a_limit_are_refused_with_their_index(
    methods: list[str], refused: list[str]
) -> None:
    violations = Violations()
    checks.check_authentication_methods(methods, violations)
    assert fields(violations) == refused


# Lifetime and idle timeout

STRICT = Policy(absolute_lifetime=DAY, idle_timeout=60 * MINUTE)
LOOSE = Policy(absolute_lifetime=DAY)


@pytest.mark.parametrize("lifetime", [SECOND, MINUTE, DAY])
def test_a_lifetime_up_to_the_policys_is_accepted(lifetime: timedelta) -> None:
    violations = Violations()
    assert checks.check_lifetime(lifetime, STRICT, violations) == lifetime
    assert fields(violations) == []


@pytest.mark.parametrize("lifetime", [-SECOND, timedelta(0), SECOND - INSTANT, DAY + INSTANT])
def test_a_lifetime_over_the_policys_is_refused(lifetime: timedelta) -> None:
    violations = Violations()
    checks.check_lifetime(lifetime, STRICT, violations)
    assert fields(violations) == ["lifetime"]


@pytest.mark.parametrize(
    ("policy", "idle_timeout"),
    [(STRICT, MINUTE), (STRICT, 60 * MINUTE), (LOOSE, MINUTE), (LOOSE, DAY)],
)
def test_an_idle_timeout_up_to_the_policys_is_accepted(
    policy: Policy, idle_timeout: timedelta
) -> None:
    violations = Violations()
    assert checks.check_idle_timeout(idle_timeout, policy, violations) == idle_timeout
    assert fields(violations) == []


@pytest.mark.parametrize(
    ("policy", "idle_timeout"),
    [
        (STRICT, timedelta(0)),
        (STRICT, MINUTE - INSTANT),
        (STRICT, 60 * MINUTE + INSTANT),
        (LOOSE, DAY + INSTANT),
    ],
)
def test_an_idle_timeout_over_the_policys_is_refused(
    policy: Policy, idle_timeout: timedelta
) -> None:
    violations = Violations()
    checks.check_idle_timeout(idle_timeout, policy, violations)
    assert fields(violations) == ["idle_timeout"]


def test_the_defaults_are_the_policys_limits() -> None:
    violations = Violations()
    assert checks.check_lifetime(None, STRICT, violations) == DAY
    assert checks.check_idle_timeout(None, STRICT, violations) == 60 * MINUTE
    assert checks.check_idle_timeout(None, LOOSE, violations) is None


# Attributes


@pytest.mark.parametrize(
    "attributes",
    [
        {},
        {f"key {n}": "" for n in range(16)},
        {"k" * 64: "v" * 256},
        {"é" * 32: "é" * 128},
        {"k": "line\nbreak"},
    ],
)
def test_attributes_within_the_limits_are_accepted(attributes: Mapping[str, str]) -> None:
    violations = Violations()
    checks.check_attributes(attributes, violations)
    assert fields(violations) == []


@pytest.mark.parametrize(
    ("attributes", "refused"),
    [
        ({str(n): "" for n in range(17)}, ["attributes"]),
        ({"": "v"}, ["attributes[]"]),
        ({"k" * 65: "v"}, ["attributes[…]"]),
        ({"é" * 33: "v"}, [f"attributes[{'é' * 33}]"]),
        ({"k": "v" * 257}, ["attributes[k]"]),
        ({"k": "é" * 129}, ["attributes[k]"]),
        ({"k\n": "v"}, ["attributes[…]"]),
        ({"k": "\0"}, ["attributes[k]"]),
        ({"b": "v" * 300, "a": "\0"}, ["attributes[a]", "attributes[b]"]),
    ],
)
def test_attributes_over_a_limit_are_refused_by_key(
    attributes: Mapping[str, str], refused: list[str]
) -> None:
    violations = Violations()
    checks.check_attributes(attributes, violations)
    assert fields(violations) == refused


@pytest.mark.parametrize(("size", "refused"), [(0, []), (32, []), (31, ["retry_secret"])])
def test_a_retry_secret_has_32_bytes_or_is_empty(size: int, refused: list[str]) -> None:
    violations = Violations()
    checks.check_retry_secret(b"r" * size, violations)
    assert fields(violations) == refused


def test_an_error_never_contains_a_secret() -> None:
    violations = Violations()
    checks.check_retry_secret(b"topsecret", violations)
    with pytest.raises(InvalidRequest) as refusal:
        violations.raise_if_any()
    assert "topsecret" not in str(refusal.value)
