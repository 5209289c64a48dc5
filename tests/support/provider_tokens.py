"""Tokens of an identity provider, and the keys that sign them."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from session_authority.backchannel import Provider

ISSUER = "https://id.example"
CLIENT_ID = "shop"
PROVIDER = Provider(ISSUER, CLIENT_ID, f"{ISSUER}/keys")
LOGOUT_EVENT = "http://schemas.openid.net/event/backchannel-logout"
SESSION_REVOKED = "https://schemas.openid.net/secevent/caep/event-type/session-revoked"
NOON = datetime(2030, 1, 1, 12, tzinfo=UTC)


@dataclass(frozen=True)
class SigningKey:
    """A private key of the provider.

    Attributes:
        key_id: Its `kid`.
        algorithm: The algorithm that it signs with.
        private: The key.
    """

    key_id: str
    algorithm: str
    private: Any = field(repr=False)

    def public(self, **changes: Any) -> dict[str, Any]:
        """Return the public key as a JWK. A change to None removes a member."""
        made = jwt.get_algorithm_by_name(self.algorithm).to_jwk(
            self.private.public_key(), as_dict=True
        )
        made |= {"kid": self.key_id, "use": "sig", "alg": self.algorithm, **changes}
        if "key_ops" not in changes:
            made.pop("key_ops", None)
        return {name: value for name, value in made.items() if value is not None}

    def sign(self, claims: object, **header: Any) -> str:
        """Return a token. A header of None is left out."""
        given = {"kid": self.key_id, "typ": "logout+jwt", **header}
        payload = claims if isinstance(claims, bytes) else json.dumps(claims).encode()
        kept = {name: value for name, value in given.items() if value is not None}
        if "typ" not in kept:
            kept["typ"] = ""  # PyJWT removes it
        signer = jwt.PyJWS()
        return signer.encode(payload, self.private, self.algorithm, headers=kept)


@cache
def signing_key(key_id: str = "first", algorithm: str = "RS256") -> SigningKey:
    """Return the key with a name. Each name has one key while the tests run."""
    private: Any
    match algorithm[:2]:
        case "ES":
            curves = {"ES256": ec.SECP256R1(), "ES384": ec.SECP384R1(), "ES512": ec.SECP521R1()}
            private = ec.generate_private_key(curves[algorithm])
        case "Ed":
            private = ed25519.Ed25519PrivateKey.generate()
        case _:
            private = rsa.generate_private_key(65537, 2048)
    return SigningKey(key_id, algorithm, private)


def key_set(*keys: SigningKey | Mapping[str, Any]) -> bytes:
    """Return a JWK set."""
    shown = [each.public() if isinstance(each, SigningKey) else each for each in keys]
    return json.dumps({"keys": shown}).encode()


def logout_claims(now: datetime = NOON, **changes: Any) -> dict[str, Any]:
    """Return the claims of a valid logout token. A change to `...` removes a claim."""
    seconds = int(now.timestamp())
    claims = {
        "iss": ISSUER,
        "aud": CLIENT_ID,
        "iat": seconds,
        "exp": seconds + 120,
        "jti": "one",
        "events": {LOGOUT_EVENT: {}},
        "sub": "ada",
        "sid": "there-1",
        **changes,
    }
    return {name: value for name, value in claims.items() if value is not ...}


def event_claims(now: datetime = NOON, **changes: Any) -> dict[str, Any]:
    """Return the claims of a valid security event. A change to `...` removes a claim."""
    claims = {
        "iss": ISSUER,
        "aud": CLIENT_ID,
        "iat": int(now.timestamp()),
        "jti": "one",
        "events": {SESSION_REVOKED: {"event_timestamp": int(now.timestamp())}},
        "sub_id": {"format": "iss_sub", "iss": ISSUER, "sub": "ada"},
        **changes,
    }
    return {name: value for name, value in claims.items() if value is not ...}
