"""The keys that sign security events."""

import json
import logging
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from jwt.exceptions import InvalidAlgorithmError, InvalidSignatureError

from session_authority_server.background import signing_keys
from session_authority_server.background.signing_keys import SigningKeys, UnusableSigningKeys
from tests.support.transmitter import key_file, pem


class Watch:
    """A monotonic clock that a test moves."""

    now = 0.0

    def __call__(self) -> float:
        return self.now

    def pass_time(self) -> None:
        self.now += signing_keys.CHECK_SECONDS


def published(keys: SigningKeys) -> list[Any]:
    found: list[Any] = json.loads(keys.published())["keys"]
    return found


def verified(keys: SigningKeys, token: str) -> Any:
    """Verify a token with the published keys, as a receiver does."""
    key_set = jwt.PyJWKSet.from_json(keys.published())
    key = key_set[jwt.get_unverified_header(token)["kid"]]
    return jwt.decode(token, key, ["RS256"])


def test_the_first_key_signs_and_all_are_published(tmp_path: Path) -> None:
    keys = SigningKeys(key_file(tmp_path, 0, 1))
    token = keys.sign({"iss": "x"})
    first, second = published(keys)
    assert jwt.get_unverified_header(token) == {
        "alg": "RS256",
        "typ": "secevent+jwt",
        "kid": first["kid"],
    }
    assert first["kid"] != second["kid"]
    assert verified(keys, token) == {"iss": "x"}


def test_only_public_numbers_are_published(tmp_path: Path) -> None:
    [key] = published(SigningKeys(key_file(tmp_path)))
    assert key.keys() == {"kty", "use", "alg", "n", "e", "kid"}
    assert (key["use"], key["alg"]) == ("sig", "RS256")


def test_a_key_keeps_its_id(tmp_path: Path) -> None:
    [before] = published(SigningKeys(key_file(tmp_path, 1)))
    _, after = published(SigningKeys(key_file(tmp_path, 0, 1)))
    assert before == after


def test_keys_rotate_without_a_restart(tmp_path: Path) -> None:
    watch = Watch()
    keys = SigningKeys(key_file(tmp_path, 0), watch)
    old = keys.sign({})
    for numbers in ((0, 1), (1, 0)):
        key_file(tmp_path, *numbers)
        watch.pass_time()
        verified(keys, old)
    new = keys.sign({})
    kid = jwt.get_unverified_header(new)["kid"]
    assert kid == published(keys)[0]["kid"] != jwt.get_unverified_header(old)["kid"]
    verified(keys, new)


def test_old_keys_stay_in_use_while_the_file_is_unusable(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    watch = Watch()
    path = key_file(tmp_path)
    keys = SigningKeys(path, watch)
    before = keys.published()
    path.write_text("no key")
    for _ in range(2):
        watch.pass_time()
        assert keys.published() == before
    path.unlink()
    watch.pass_time()
    assert keys.published() == before
    assert [each.levelname for each in caplog.records] == ["ERROR"]
    key_file(tmp_path, 1)
    watch.pass_time()
    assert keys.published() != before
    assert caplog.records[-1].levelname == "INFO"


def test_the_file_is_not_read_for_each_token(tmp_path: Path) -> None:
    path = key_file(tmp_path)
    keys = SigningKeys(path, Watch())
    path.unlink()
    assert keys.sign({})


@pytest.mark.parametrize("algorithm", ["HS256", "none"])
def test_a_token_of_another_algorithm_is_not_ours(tmp_path: Path, algorithm: str) -> None:
    keys = SigningKeys(key_file(tmp_path))
    [public] = published(keys)
    secret: Any = None if algorithm == "none" else public["n"]
    forged = jwt.encode({}, secret, algorithm, {"kid": public["kid"]})
    with pytest.raises(InvalidAlgorithmError):
        verified(keys, forged)


def test_a_changed_token_is_not_ours(tmp_path: Path) -> None:
    keys = SigningKeys(key_file(tmp_path))
    head, _, signature = keys.sign({"sub": "ada"}).split(".")
    _, other, _ = keys.sign({"sub": "bob"}).split(".")
    with pytest.raises(InvalidSignatureError):
        verified(keys, f"{head}.{other}.{signature}")


def encoded(key: Any, passphrase: bytes = b"") -> bytes:
    encryption = BestAvailableEncryption(passphrase) if passphrase else NoEncryption()
    text: bytes = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)
    return text


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "has 0 keys"),
        (pem() * 11, "has 11 keys"),
        (b"x" * 70_000, "larger than 64 KiB"),
        (pem() + pem(2, 1024), "key 2 is not RSA with at least 2048 bits"),
        (encoded(ec.generate_private_key(ec.SECP256R1())), "key 1 is not RSA"),
        (encoded(load_pem_private_key(pem(), None), b"secret"), "has a passphrase"),
        (pem().replace(b"MII", b"!!!"), "is no private key"),
    ],
)
def test_an_unusable_file_is_refused_with_the_reason(
    tmp_path: Path, content: bytes, problem: str
) -> None:
    path = tmp_path / "events.pem"
    path.write_bytes(content)
    with pytest.raises(UnusableSigningKeys, match=problem):
        SigningKeys(path)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnusableSigningKeys, match="can't be read"):
        SigningKeys(tmp_path / "missing.pem")


def test_no_key_is_shown(tmp_path: Path) -> None:
    keys = SigningKeys(key_file(tmp_path))
    assert "PRIVATE" not in repr(keys) + repr(vars(keys)["_keys"])
