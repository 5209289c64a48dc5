from dataclasses import replace
from uuid import uuid4

import pytest

from session_authority_server.domain.retry import Attempt, new_salt
from tests.support.engines import START

ATTEMPT = Attempt("create", "key-1", "ann", b"r" * 32, ["pwd", None, {"a": "b"}])
SALT = b"s" * 32


def test_a_repetition_is_recognised_and_derives_the_same_secret() -> None:
    again = Attempt("create", "key-1", "ann", b"r" * 32, ["pwd", None, {"a": "b"}])
    assert again.retry_hash == ATTEMPT.retry_hash
    assert again.parameters_hash == ATTEMPT.parameters_hash
    assert again.derive_secret(SALT) == ATTEMPT.derive_secret(SALT)
    assert len(again.derive_secret(SALT)) == 32


@pytest.mark.parametrize(
    "other",
    [
        replace(ATTEMPT, purpose="reauthenticate"),
        replace(ATTEMPT, caller="key-2"),
        replace(ATTEMPT, retry_secret=b"R" * 32),
        replace(ATTEMPT, purpose="createk", caller="ey-1"),
    ],
)
def test_a_call_with_another_purpose_caller_or_secret_is_no_repetition(other: Attempt) -> None:
    assert other.retry_hash != ATTEMPT.retry_hash
    assert other.derive_secret(SALT) != ATTEMPT.derive_secret(SALT)


@pytest.mark.parametrize(
    "other",
    [
        replace(ATTEMPT, subject="bob"),
        replace(ATTEMPT, parameters=["pwd", None, {"a": "c"}]),
        replace(ATTEMPT, parameters=[]),
    ],
)
def test_another_user_or_parameter_is_a_mismatch(other: Attempt) -> None:
    assert other.retry_hash == ATTEMPT.retry_hash
    assert other.parameters_hash != ATTEMPT.parameters_hash


def test_the_order_of_a_map_does_not_matter() -> None:
    one = replace(ATTEMPT, parameters={"a": "1", "b": "2"})
    other = replace(ATTEMPT, parameters={"b": "2", "a": "1"})
    assert one.parameters_hash == other.parameters_hash


def test_without_the_salt_the_secret_cannot_be_derived() -> None:
    assert ATTEMPT.derive_secret(SALT) != ATTEMPT.derive_secret(b"t" * 32)
    assert len({new_salt() for _ in range(100)}) == 100


def test_the_stored_attempt_has_only_hashes_and_the_salt() -> None:
    answered = ATTEMPT.answered(uuid4(), SALT, START)
    kept = [answered.retry_hash, answered.parameters_hash, answered.salt]
    assert not any(ATTEMPT.retry_secret in each for each in kept)
    assert ATTEMPT.derive_secret(SALT) not in kept
