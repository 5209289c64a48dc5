"""Only the canonical form of a token is accepted."""

from datetime import UTC, datetime, timedelta
from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from session_authority_server.domain import token as tokens
from session_authority_server.domain.token import (
    SESSION_PREFIX,
    SUPERSEDED_HASHES_KEPT,
    TOKEN_LENGTH,
    Token,
    hash_secret,
    is_superseded,
    mask_tokens,
    parse,
    supersede,
)

DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
secrets = st.binary(min_size=32, max_size=32)
any_token = st.builds(Token, st.uuids(), secrets)
prefixes = st.text(st.characters(codec="ascii"), min_size=1, max_size=6).map(
    lambda text: f"{text}_"
)
moments = st.datetimes(datetime(1970, 1, 2), datetime(2999, 1, 1)).map(  # noqa: DTZ001
    lambda moment: moment.replace(tzinfo=UTC)
)


@given(any_token)
def test_a_token_survives_encoding_and_parsing(token: Token) -> None:
    text = token.encode()
    assert parse(text) == token
    assert len(text) == TOKEN_LENGTH
    assert text.startswith(SESSION_PREFIX)


@given(any_token, st.data())
def test_a_token_with_one_changed_character_is_refused(token: Token, data: st.DataObject) -> None:
    text = token.encode()
    at = data.draw(st.integers(0, len(text) - 1))
    other = data.draw((st.sampled_from(DIGITS) | st.characters()).filter(lambda c: c != text[at]))
    assert parse(text[:at] + other + text[at + 1 :]) is None


@given(any_token, st.data())
def test_a_shortened_or_extended_token_is_refused(token: Token, data: st.DataObject) -> None:
    text = token.encode()
    at = data.draw(st.integers(0, len(text)))
    assert parse(text[:at] + data.draw(st.sampled_from(DIGITS)) + text[at:]) is None
    assert parse(text[:at] + text[at + 1 :]) is None or at == len(text)


@given(any_token, st.integers(0, TOKEN_LENGTH - 2))
def test_a_token_with_two_swapped_neighbours_is_refused(token: Token, at: int) -> None:
    text = token.encode()
    swapped = text[:at] + text[at + 1] + text[at] + text[at + 2 :]
    assert parse(swapped) is None or swapped == text


@given(st.text() | st.text(DIGITS, min_size=70, max_size=70).map(lambda text: "ses_" + text))
def test_any_other_text_is_refused(text: str) -> None:
    assert parse(text) is None


@given(
    any_token.map(Token.encode)
    | st.text()
    | st.tuples(any_token.map(Token.encode), st.sampled_from([" ", "\n", "=", "\0", "Ａ"])).map(  # noqa: RUF001
        "".join
    )
)
def test_an_accepted_text_is_the_encoding_of_its_token(text: str) -> None:
    token = parse(text)
    assert token is None or token.encode() == text


@given(any_token, prefixes, prefixes)
def test_a_token_of_one_kind_is_not_accepted_as_another(token: Token, one: str, other: str) -> None:
    assert parse(token.encode(one), one) == token
    assert one == other or parse(token.encode(one), other) is None
    # even with the other prefix
    assert one == other or parse(other + token.encode(one).removeprefix(one), other) is None


@given(st.lists(secrets, unique=True, max_size=40), secrets)
def test_the_latest_superseded_secrets_are_recognised(given_up: list[bytes], other: bytes) -> None:
    kept = b""
    for secret in given_up:
        kept = supersede(hash_secret(secret), kept)
    known = given_up[-SUPERSEDED_HASHES_KEPT:]
    assert all(is_superseded(hash_secret(secret), kept) for secret in known)
    assert not any(
        is_superseded(hash_secret(secret), kept) for secret in given_up[:-SUPERSEDED_HASHES_KEPT]
    )
    assert is_superseded(hash_secret(other), kept) == (other in known)


@given(moments, moments)
def test_ids_have_version_7_and_sort_by_time(one: datetime, other: datetime) -> None:
    first, second = tokens.new_id(one), tokens.new_id(other)
    assert (first.version, first.variant) == (7, UUID(int=0x8 << 60).variant)
    assert first.int >> 80 == (one - datetime.fromtimestamp(0, UTC)) // timedelta(milliseconds=1)
    if one.timestamp() + 0.002 < other.timestamp():
        assert first < second


@given(any_token, st.text(), st.text())
def test_no_token_is_left_in_a_masked_text(token: Token, before: str, after: str) -> None:
    text = token.encode()
    masked = mask_tokens(f"{before} {text} {after}")
    assert text not in masked
    assert text[-40:] not in masked
