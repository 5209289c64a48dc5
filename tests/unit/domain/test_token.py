from datetime import UTC, datetime
from uuid import UUID

import pytest

from session_authority_server.domain import token as tokens
from session_authority_server.domain.token import (
    TOKEN_LENGTH,
    TOKEN_PATTERN,
    Proof,
    Token,
    hash_secret,
    mask_tokens,
    mint,
    parse,
    parse_proof,
    proves,
)

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
ID = UUID("01890a5d-ac96-774b-bcce-b302099a8057")
KNOWN = Token(ID, bytes(range(32)))
# This encoding must never change, because issued tokens must stay valid.
KNOWN_TEXT = "ses_0DIVCQv7ghbX0uAteC6RFR3JZRWStraz6Z0JB1oChQB4MIrpQLgv4fQNCr5meK1uunj5qc"
LARGEST = "z" * 70


def test_the_encoding_of_a_token_never_changes() -> None:
    assert KNOWN.encode() == KNOWN_TEXT
    assert parse(KNOWN_TEXT) == KNOWN


@pytest.mark.parametrize(
    "text",
    [
        "",
        "ses_",
        KNOWN_TEXT[:-1],
        KNOWN_TEXT + "0",
        " " + KNOWN_TEXT,
        KNOWN_TEXT + "\n",
        KNOWN_TEXT.upper(),
        KNOWN_TEXT.removeprefix("ses_"),
        "sak_" + KNOWN_TEXT.removeprefix("ses_"),
        "ses_" + "0" * 70,
        "ses_" + LARGEST,
        "ses_" + "é" * 70,
        "ses_" + "-" * 70,
        "ses_" + "\0" * 70,
        "ses_" + "٣" * 70,
    ],
)
def test_an_invalid_token_is_refused(text: str) -> None:
    assert parse(text) is None
    assert parse_proof(text) is None


def test_minted_tokens_are_new_each_time() -> None:
    minted = [mint(NOW) for _ in range(100)]
    assert len({token.id for token in minted}) == 100
    assert len({token.secret for token in minted}) == 100
    assert {len(token.secret) for token in minted} == {32}


def test_the_smallest_and_the_largest_value_can_be_encoded() -> None:
    for token in (Token(UUID(int=0), b"\0" * 32), Token(UUID(int=2**128 - 1), b"\xff" * 32)):
        assert len(token.encode()) == TOKEN_LENGTH
        assert parse(token.encode()) == token


def test_only_the_secret_itself_matches_its_hash() -> None:
    kept = hash_secret(KNOWN.secret)
    assert kept != KNOWN.secret
    assert proves(KNOWN.secret, kept)
    assert not proves(b"x" * 32, kept)
    assert not proves(kept, kept)


def test_the_cached_proof_has_the_id_and_the_hash_of_the_secret() -> None:
    proof = parse_proof(KNOWN_TEXT)
    assert proof == (ID, hash_secret(KNOWN.secret))
    assert proof.matches(hash_secret(KNOWN.secret))
    assert not proof.matches(hash_secret(b"x" * 32))


def test_the_cache_of_proofs_is_bounded_and_holds_no_secret(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cached: dict[bytes, Proof] = {}
    monkeypatch.setattr(tokens, "_proofs", cached)
    monkeypatch.setattr(tokens, "PROOFS_LIMIT", 3)
    minted = [mint(NOW) for _ in range(5)]
    for _ in range(2):
        assert [parse_proof(token.encode()) for token in minted] == [
            token.proof for token in minted
        ]
    assert len(cached) == 3
    assert list(cached.values()) == [token.proof for token in minted[2:]]
    for key, proof in cached.items():
        for token in minted:
            assert token.secret not in (key, proof.secret_hash)
            assert token.encode().encode() != key
    parse_proof("ses_" + "0" * 70)
    assert len(cached) == 3, "made-up tokens evict nothing"


def test_tokens_and_keys_are_masked_anywhere_in_a_text() -> None:
    key = KNOWN.encode("sak_")
    text = f'a {KNOWN_TEXT}, "{key}"; token={KNOWN_TEXT}'
    assert mask_tokens(text) == 'a ses_…, "sak_…"; token=ses_…'
    assert mask_tokens("nothing here") == "nothing here"


def test_scanners_find_a_leaked_token() -> None:
    assert TOKEN_PATTERN.findall(f"curl -H 'x: {KNOWN_TEXT}'") == [KNOWN_TEXT]
    assert TOKEN_PATTERN.findall("ses_short") == []
