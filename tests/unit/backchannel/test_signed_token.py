"""Signed tokens: which are read, and which keys verify them."""

import base64
import hashlib
import hmac
import json
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from session_authority.backchannel.signed_token import (
    BadSignature,
    Fault,
    Refused,
    UnknownKey,
    keys_of,
    parse,
    verify,
)
from tests.support.provider_tokens import SigningKey, key_set, logout_claims, signing_key

ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS512", "ES256", "ES384", "ES512", "EdDSA")


def encoded(part: object) -> str:
    raw = part if isinstance(part, bytes) else json.dumps(part).encode()
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def token_of(header: object, payload: object = None, signature: bytes = b"s") -> str:
    payload = logout_claims() if payload is None else payload
    return f"{encoded(header)}.{encoded(payload)}.{encoded(signature)}"


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_token_is_verified_with_the_key_of_its_kid(algorithm: str) -> None:
    key = signing_key(f"key-{algorithm}", algorithm)
    token = parse(key.sign(logout_claims()))
    assert (token.algorithm, token.key_id, token.token_type) == (
        algorithm,
        key.key_id,
        "logout+jwt",
    )
    verify(token, keys_of(key_set(signing_key("other"), key)))


def test_a_key_without_alg_and_use_verifies() -> None:
    key = signing_key()
    verify(parse(key.sign(logout_claims())), keys_of(key_set(key.public(alg=None, use=None))))


def test_a_token_without_kid_is_verified_if_only_one_key_fits() -> None:
    key, curve = signing_key(), signing_key("curve", "ES256")
    token = parse(key.sign(logout_claims(), kid=None))
    verify(token, keys_of(key_set(key, curve)))
    with pytest.raises(UnknownKey, match="the token needs a kid"):
        verify(token, keys_of(key_set(key, signing_key("second"))))


@pytest.mark.parametrize(
    "text",
    [
        "",
        ".",
        "..",
        "a.b.c",
        "é.é.é",
        "x" * 60_000,
        "." * 60_000,
        token_of([]),
        token_of("RS256"),
        token_of({"alg": "RS256"}, b"not JSON"),
        token_of({"alg": "RS256"}, b"\xff"),
        token_of({"alg": "RS256"}, []),
        token_of({"alg": "RS256"}, b"[" * 20_000),
        token_of(b"[" * 20_000),
        token_of({"alg": "RS256"}, b'{"iat":' + b"9" * 5_000 + b"}"),
        token_of({"alg": "RS256", "kid": 7}),
        token_of({"alg": "RS256", "crit": ["exp"], "exp": 1}),
        token_of({"alg": "RS256", "b64": False, "crit": ["b64"]}),
        token_of({"alg": "RS256"}) + "!",
    ],
)
def test_garbage_is_refused(text: str) -> None:
    with pytest.raises(Refused) as refused:
        parse(text)
    assert refused.value.fault is Fault.INVALID_REQUEST
    assert refused.value.__cause__ is refused.value.__context__ is None


def test_an_encrypted_token_is_refused() -> None:
    with pytest.raises(Refused, match="signed but not encrypted"):
        parse("a.b.c.d.e")


@pytest.mark.parametrize(
    "algorithm", ["none", "None", "nOnE", "HS256", "HS512", "ES256K", "", None, 7, ["RS256"]]
)
def test_other_algorithms_are_refused(algorithm: object) -> None:
    with pytest.raises(Refused, match="alg must be one of ES256"):
        parse(token_of({"alg": algorithm}))


def test_the_extension_b64_is_refused() -> None:
    with pytest.raises(Refused, match="crit names an extension"):
        parse(token_of({"alg": "RS256", "b64": True, "crit": ["b64"]}))


def test_typ_must_be_a_text() -> None:
    with pytest.raises(Refused, match="typ must be a text"):
        parse(token_of({"alg": "RS256", "typ": 7}))


def test_a_token_that_is_signed_with_the_public_key_as_a_secret_is_refused() -> None:
    key = signing_key()
    for secret in (
        key.private.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        ),
        json.dumps(key.public()).encode(),
    ):
        for algorithm in ("HS256", "RS256"):
            start = token_of({"alg": algorithm, "kid": key.key_id}).rpartition(".")[0]
            signature = hmac.new(secret, start.encode(), hashlib.sha256).digest()
            with pytest.raises(Refused):
                verify(parse(f"{start}.{encoded(signature)}"), keys_of(key_set(key)))


def test_a_symmetric_key_in_the_key_set_verifies_nothing() -> None:
    secret = {"kty": "oct", "k": encoded(b"0" * 32), "kid": "first", "alg": "HS256"}
    assert keys_of(key_set(secret, {**secret, "alg": "RS256"})) == ()


def test_the_algorithm_of_a_token_must_fit_the_key() -> None:
    key = signing_key()
    as_other = SigningKey(key.key_id, "PS256", key.private).sign(logout_claims())
    with pytest.raises(UnknownKey):
        verify(parse(as_other), keys_of(key_set(key)))
    curve = signing_key("curve", "ES256")
    with pytest.raises(UnknownKey):
        verify(parse(curve.sign(logout_claims())), keys_of(key_set(key.public(kid="curve"))))


def test_a_changed_token_has_a_bad_signature() -> None:
    key = signing_key()
    header, _, signature = key.sign(logout_claims()).split(".")
    forged = f"{header}.{encoded(logout_claims(sub='bob'))}.{signature}"
    with pytest.raises(BadSignature) as refused:
        verify(parse(forged), keys_of(key_set(key)))
    assert refused.value.fault is Fault.INVALID_KEY
    assert refused.value.__cause__ is refused.value.__context__ is None
    with pytest.raises(BadSignature):
        verify(parse(f"{header}.{encoded(logout_claims())}."), keys_of(key_set(key)))


def test_another_key_with_the_same_kid_does_not_verify() -> None:
    thief = SigningKey("first", "RS256", signing_key("second").private)
    with pytest.raises(BadSignature):
        verify(parse(thief.sign(logout_claims())), keys_of(key_set(signing_key())))


def test_a_short_key_verifies_nothing() -> None:
    short = SigningKey("short", "RS256", rsa.generate_private_key(65537, 1024))
    with pytest.warns(match="2048"):
        token = parse(short.sign(logout_claims()))
    with pytest.raises(BadSignature):
        verify(token, keys_of(key_set(short)))


@pytest.mark.parametrize(
    "changes",
    [
        {"use": "enc"},
        {"use": 7},
        {"key_ops": ["sign"]},
        {"key_ops": "verify"},
        {"alg": "RS1"},
        {"alg": 7},
        {"alg": "none"},
        {"kty": "EC"},
        {"kty": 7},
        {"kty": None},
        {"n": None},
        {"n": "!"},
        {"e": 7},
        {"kid": 7},
    ],
)
def test_a_key_that_may_not_verify_is_skipped(changes: dict[str, Any]) -> None:
    other = signing_key("second")
    found = keys_of(key_set(signing_key().public(**changes), other))
    assert [each.key_id for each in found] == ["second"]


def test_a_private_key_in_the_key_set_is_skipped() -> None:
    key = signing_key()
    private = jwt.get_algorithm_by_name(key.algorithm).to_jwk(key.private, as_dict=True)
    shown = {**private, "kid": key.key_id, "key_ops": ["verify"]}
    assert keys_of(key_set(shown)) == ()


@pytest.mark.parametrize(
    "document", [b"", b"[]", b"{}", b'{"keys": {}}', b"<html>", b"[" * 20_000, b"\xff", b"null"]
)
def test_a_document_without_keys_is_refused(document: bytes) -> None:
    with pytest.raises(ValueError):
        keys_of(document)


def test_members_that_are_no_keys_are_skipped() -> None:
    assert keys_of(json.dumps({"keys": [7, "key", None, [], {}]}).encode()) == ()


def test_nothing_of_a_token_is_in_its_repr() -> None:
    text = signing_key().sign(logout_claims())
    assert text not in repr(parse(text))
    assert "ada" not in repr(parse(text))
    assert "RSAPublicKey" not in repr(keys_of(key_set(signing_key())))
