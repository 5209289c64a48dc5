"""Signed tokens of a provider: how they are read, and how their signatures are verified. Nothing here does I/O."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

try:
    import jwt
except ImportError as error:
    raise ImportError(
        f"session_authority.backchannel needs PyJWT ({error}); "
        "install session-authority with its extra `backchannel`"
    ) from None

from session_authority.backchannel.provider import Provider

LEEWAY_SECONDS = 60
"""How far the clocks of the provider and of this program may differ."""
_ALGORITHMS: Mapping[tuple[str, str], Sequence[str]] = {
    ("RSA", ""): ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"),
    ("EC", "P-256"): ("ES256",),
    ("EC", "P-384"): ("ES384",),
    ("EC", "P-521"): ("ES512",),
    ("OKP", "Ed25519"): ("EdDSA",),
}
"""The algorithms by kind of key: type and curve. All are asymmetric, so that no public key can make a signature."""
_KNOWN = frozenset(name for names in _ALGORITHMS.values() for name in names)
_JWS = jwt.PyJWS(sorted(_KNOWN), {"verify_signature": True, "enforce_minimum_key_length": True})
# The largest whole number that JSON programs agree on. It keeps arithmetic with times exact.
_TIME_LIMIT = 2**53


class Fault(StrEnum):
    """The kind of fault of a token, in the words of RFC 8935."""

    INVALID_REQUEST = "invalid_request"
    INVALID_KEY = "invalid_key"
    INVALID_ISSUER = "invalid_issuer"
    INVALID_AUDIENCE = "invalid_audience"


class Refused(Exception):
    """A token breaks a rule. The message names the rule and contains nothing of the token.

    Attributes:
        fault: The kind of fault.
    """

    def __init__(self, problem: str, fault: Fault = Fault.INVALID_REQUEST) -> None:
        super().__init__(problem)
        self.fault = fault


class UnknownKey(Refused):
    """The provider's keys, as far as known, contain none that can have made the signature."""


class BadSignature(Refused):
    """The key did not make the signature."""


@dataclass(frozen=True, slots=True)
class Key:
    """A public key of a provider.

    Attributes:
        key_id: Its `kid`, if any.
        algorithms: The algorithms that it may be used with.
        public_key: The key, as PyJWT uses it.
    """

    key_id: str | None
    algorithms: Sequence[str]
    public_key: Any = field(repr=False)


@dataclass(frozen=True, slots=True)
class SignedToken:
    """A token whose signature has not been verified yet.

    Attributes:
        text: The token.
        token_type: Its `typ` in lower case and without `application/`; "" if it has none.
        algorithm: Its `alg`.
        key_id: Its `kid`, if any.
        claims: Its claims.
    """

    text: str = field(repr=False)
    token_type: str
    algorithm: str
    key_id: str | None
    claims: Mapping[str, Any] = field(repr=False)

    def text_claim(self, name: str) -> str:
        """Return a claim that must be a text."""
        value = self.claims.get(name)
        if not isinstance(value, str) or not value:
            raise Refused(f"{name} must be a text")
        return value

    def time_claim(self, name: str) -> float:
        """Return a claim that must be a time, in seconds since 1970."""
        value = self.claims.get(name)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise Refused(f"{name} must be a time")
        if not 0 <= value < _TIME_LIMIT:
            raise Refused(f"{name} must be a time")
        return value

    def event(self, name: str) -> Mapping[str, Any] | None:
        """Return an event of the token; None if the token has no such event."""
        events = self.claims.get("events")
        if not isinstance(events, dict) or not events:
            raise Refused("events must be an object with the event")
        if name not in events:
            return None
        event = events[name]
        if not isinstance(event, dict):
            raise Refused("the event must be an object")
        return event


def parse(text: str) -> SignedToken:
    """Read a token, without verifying its signature.

    Raises:
        Refused: It is not a signed token, or its algorithm is not accepted.
    """
    if text.count(".") == 4:
        raise Refused("the token must be signed but not encrypted")
    try:
        read = _JWS.decode_complete(text, options={"verify_signature": False})
        claims = json.loads(read["payload"])
    except (jwt.InvalidTokenError, ValueError, RecursionError):
        claims = None
    if not isinstance(claims, dict):  # outside of `except`, because the error can hold the token
        raise Refused("the token is not a signed token with claims")
    header = read["header"]
    algorithm, kind = header.get("alg"), header.get("typ", "")
    if not isinstance(algorithm, str) or algorithm not in _KNOWN:
        raise Refused(f"alg must be one of {', '.join(sorted(_KNOWN))}")
    if not isinstance(kind, str):
        raise Refused("typ must be a text")
    if "crit" in header:
        raise Refused("crit names an extension that is not supported")
    return SignedToken(
        text=text,
        token_type=kind.lower().removeprefix("application/"),
        algorithm=algorithm,
        key_id=header.get("kid"),
        claims=claims,
    )


def addressed(
    token: SignedToken, providers: Sequence[Provider]
) -> tuple[Provider, frozenset[str], Sequence[Provider]]:
    """Find the provider whose issuer and client id a token names.

    Returns:
        The provider, the audiences of the token, and all providers with this issuer.

    Raises:
        Refused: No provider has this issuer, or none of them this client id.
    """
    issuer = token.text_claim("iss")
    of_issuer = [each for each in providers if each.issuer == issuer]
    if not of_issuer:
        raise Refused("iss is not the issuer of a configured provider", Fault.INVALID_ISSUER)
    given = token.claims.get("aud")
    named = given if isinstance(given, list) else [given]
    if not all(isinstance(each, str) for each in named):
        raise Refused("aud must be a text or a list of texts", Fault.INVALID_AUDIENCE)
    audiences = frozenset(named)
    for provider in of_issuer:
        if provider.client_id in audiences:
            return provider, audiences, of_issuer
    raise Refused("aud does not contain the client id", Fault.INVALID_AUDIENCE)


def check_age(token: SignedToken, now: datetime, limit_seconds: float) -> float:
    """Check when a token was issued, and return the time until which it is accepted.

    Raises:
        Refused: The token comes from the future, or is older than the limit.
    """
    age = now.timestamp() - token.time_claim("iat")
    if age < -LEEWAY_SECONDS:
        raise Refused("iat is in the future; compare the clocks")
    if age > limit_seconds + LEEWAY_SECONDS:
        raise Refused(f"iat is more than {limit_seconds:.0f} seconds ago")
    return token.time_claim("iat") + limit_seconds + LEEWAY_SECONDS


def check_expiry(token: SignedToken, now: datetime) -> None:
    """Refuse a token that has expired, or has no valid `exp`."""
    if now.timestamp() >= token.time_claim("exp") + LEEWAY_SECONDS:
        raise Refused("the token has expired")


def verify(token: SignedToken, keys: Sequence[Key]) -> None:
    """Verify the signature of a token.

    Raises:
        UnknownKey: None of the keys can have made the signature.
        BadSignature: The key did not make the signature.
    """
    fitting = [
        each
        for each in keys
        if token.algorithm in each.algorithms and token.key_id in (None, each.key_id)
    ]
    if not fitting:
        raise UnknownKey("the provider has no such key", Fault.INVALID_KEY)
    if len(fitting) > 1:
        raise UnknownKey(
            "the provider has several such keys; the token needs a kid", Fault.INVALID_KEY
        )
    try:
        _JWS.decode_complete(token.text, fitting[0].public_key, [token.algorithm])
    except jwt.PyJWTError:
        valid = False
    else:
        valid = True
    if not valid:
        raise BadSignature("the signature is not valid", Fault.INVALID_KEY)


def keys_of(document: bytes) -> tuple[Key, ...]:
    """Return the keys of a JWK set that can verify signatures. Other keys are skipped.

    Raises:
        ValueError: The document is not a JWK set.
    """
    try:
        given = json.loads(document)
    except RecursionError:
        given = None
    keys = given.get("keys") if isinstance(given, dict) else None
    if not isinstance(keys, list):
        raise ValueError("it is not a JWK set")  # noqa: TRY004 - the document is wrong
    return tuple(key for each in keys if (key := _key(each)) is not None)


def _key(given: object) -> Key | None:
    """Return a key, or None if it can't or may not verify signatures of tokens."""
    # A key set with a private key has given the key away, so its signatures prove nothing.
    if not isinstance(given, dict) or "d" in given:
        return None
    operations = given.get("key_ops", ["verify"])
    if given.get("use", "sig") != "sig" or not isinstance(operations, list):
        return None
    kind, curve, key_id = given.get("kty"), given.get("crv", ""), given.get("kid")
    if not all(isinstance(each, str) for each in (kind, curve, key_id or "")):
        return None
    algorithms = _ALGORITHMS.get((str(kind), str(curve)), ())
    if "alg" in given:
        algorithms = [name for name in algorithms if name == given["alg"]]
    if not algorithms or "verify" not in operations:
        return None
    try:
        return Key(key_id, tuple(algorithms), jwt.PyJWK(given, algorithms[0]).key)
    except jwt.PyJWTError:
        return None
