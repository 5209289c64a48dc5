from datetime import UTC, datetime, timedelta

import pytest

from session_authority_server.domain import api_key
from session_authority_server.domain import token as tokens
from session_authority_server.domain.api_key import KeyState, Permission, issue
from session_authority_server.domain.errors import InvalidRequest

NOON = datetime(2026, 1, 15, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
VALIDATE = frozenset([Permission.VALIDATE])


def test_a_key_has_the_form_of_a_session_token_with_another_prefix() -> None:
    key, presented = issue("shop", VALIDATE, NOON, None)

    parsed = api_key.parse(presented)

    assert parsed is not None
    assert parsed.id == key.key_id
    assert tokens.proves(parsed.secret, key.secret_hash)
    assert presented.startswith("sak_")
    assert len(presented) == tokens.TOKEN_LENGTH
    assert tokens.parse(presented) is None
    assert tokens.parse("ses_" + presented[4:]) is None, "the checksum covers the prefix"


def test_a_session_token_is_not_accepted_as_a_key() -> None:
    assert api_key.parse(tokens.mint(NOON).encode()) is None


def test_a_key_is_valid_until_just_before_it_expires() -> None:
    key, _ = issue("shop", VALIDATE, NOON, HOUR)
    assert key.state(NOON + HOUR - timedelta.resolution) is KeyState.ACTIVE
    assert key.state(NOON + HOUR) is KeyState.EXPIRED


def test_a_key_without_a_lifetime_never_expires() -> None:
    key, _ = issue("shop", VALIDATE, NOON, None)
    assert key.state(NOON + timedelta(days=100_000)) is KeyState.ACTIVE


@pytest.mark.parametrize(
    ("name", "permissions", "lifetime", "field"),
    [
        ("", VALIDATE, None, "name"),
        ("x" * 101, VALIDATE, None, "name"),
        ("a\nb", VALIDATE, None, "name"),
        (" a", VALIDATE, None, "name"),
        ("sak_" + "7" * 70, VALIDATE, None, "name"),
        ("shop", frozenset[Permission](), None, "permissions"),
        ("shop", VALIDATE, timedelta(0), "lifetime"),
        ("shop", VALIDATE, timedelta(days=3_651), "lifetime"),
    ],
)
def test_an_invalid_argument_is_named(
    name: str, permissions: frozenset[Permission], lifetime: timedelta | None, field: str
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        issue(name, permissions, NOON, lifetime)
    assert [violation.field for violation in caught.value.violations] == [field]
    assert name not in str(caught.value) or len(name) < 3


def test_the_repr_of_a_key_does_not_contain_its_secret() -> None:
    key, presented = issue("shop", VALIDATE, NOON, None)
    assert "secret" not in repr(key)
    assert presented not in repr(key)
    assert "shop" in repr(key)
