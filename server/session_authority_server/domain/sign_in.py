"""The checks of the fields that describe a sign-in."""

import ipaddress
import re
import unicodedata
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

from session_authority_server.domain.errors import InvalidRequest, Violation
from session_authority_server.domain.identity import Identity
from session_authority_server.domain.policy import (
    CLOCK_SKEW_ALLOWANCE,
    MINIMUM_IDLE_TIMEOUT,
    MINIMUM_LIFETIME,
    Policy,
)

USER_ID_LIMIT_BYTES = 255
REASON_LIMIT_BYTES = 256
ATTRIBUTES_LIMIT = 16
ATTRIBUTE_KEY_LIMIT_BYTES = 64
ATTRIBUTE_VALUE_LIMIT_BYTES = 256
METHODS_LIMIT = 16
METHOD_LIMIT_CHARACTERS = 32
RETRY_SECRET_BYTES = 32
IP_ADDRESS_LIMIT_CHARACTERS = 64
LABEL_LIMIT_CHARACTERS = 64
IDENTITY_LIMIT_BYTES = 1_024
_UNFIT_FOR_A_LINE = frozenset({"Cc", "Zl", "Zp"})  # categories of Unicode
# Bidirectional embeddings, overrides and isolates. They could reorder the text around a name.
_TURNED_TEXT = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
# Letters and symbols that fonts show as blanks.
_BLANKS = frozenset("\u115f\u1160\u2800\u3164\uffa0")
_METHOD = re.compile(rf"[!-~]{{1,{METHOD_LIMIT_CHARACTERS}}}")


class Violations:
    """Collects all problems of a request, so that the caller can correct them together."""

    def __init__(self) -> None:
        self._found: list[Violation] = []

    def add(self, field: str, description: str) -> None:
        """Note a problem with a field, and how to correct it."""
        self._found.append(Violation(field, description))

    def raise_if_any(self) -> None:
        """Raise InvalidRequest if any problem was noted."""
        if self._found:
            raise InvalidRequest(self._found)


def check_user_id(user_id: str, violations: Violations, field: str = "user_id") -> None:
    """Require 1 to 255 bytes without control characters."""
    size = len(user_id.encode())
    if not 1 <= size <= USER_ID_LIMIT_BYTES:
        violations.add(
            field, f"has {size} bytes; it must have 1 to {USER_ID_LIMIT_BYTES}, in UTF-8"
        )
    elif not user_id.isprintable() and _has_control_character(user_id):
        violations.add(field, "has a control character; it must have none")


def check_actor_id(actor_id: str, violations: Violations) -> str | None:
    """Check the id of the person who acts as the user, and return it.

    Return None if it is empty: then the user signs in personally.
    """
    if not actor_id:
        return None
    check_user_id(actor_id, violations, "actor_id")
    return actor_id


def check_identity(identity: Identity, violations: Violations) -> None:
    """Require an issuer and a subject. Each text has at most 1,024 bytes without control characters."""
    check_identity_text("identity.issuer", identity.issuer, violations)
    check_identity_text("identity.subject", identity.subject, violations)
    if identity.sid:
        check_identity_text("identity.sid", identity.sid, violations)


def check_identity_text(field: str, text: str, violations: Violations) -> None:
    """Require 1 to 1,024 bytes without control characters."""
    size = len(text.encode())
    if not 1 <= size <= IDENTITY_LIMIT_BYTES:
        violations.add(
            field, f"has {size} bytes; it must have 1 to {IDENTITY_LIMIT_BYTES:,}, in UTF-8"
        )
    elif _has_control_character(text):
        violations.add(field, "has a control character; it must have none")


def check_reason(reason: str, violations: Violations) -> None:
    """Require at most 256 bytes without control characters."""
    size = len(reason.encode())
    if size > REASON_LIMIT_BYTES:
        violations.add("reason", f"has {size} bytes; at most {REASON_LIMIT_BYTES} are allowed")
    elif _has_control_character(reason):
        violations.add("reason", "has a control character; it must have none")


def check_label(label: str, violations: Violations) -> str | None:
    """Return the name that a user gives to a session, without white space around it; None for an empty name."""
    label = label.strip()
    if len(label) > LABEL_LIMIT_CHARACTERS:
        violations.add(
            "label", f"has {len(label)} characters; at most {LABEL_LIMIT_CHARACTERS} are allowed"
        )
    elif any(unicodedata.category(character) in _UNFIT_FOR_A_LINE for character in label):
        violations.add("label", "has a control character or a line break; it must have none")
    elif not _TURNED_TEXT.isdisjoint(label):
        violations.add(
            "label", "has a character that turns the direction of text; it must have none"
        )
    elif label and not any(map(_is_visible, label)):
        violations.add("label", "has no visible character")
    return label or None


def _is_visible(character: str) -> bool:
    return unicodedata.category(character)[0] not in "CMZ" and character not in _BLANKS


def check_ip_address(text: str, violations: Violations) -> str | None:
    """Return an address in canonical form; None for an empty text. An IPv4-mapped address becomes IPv4."""
    if not text:
        return None
    if len(text) <= IP_ADDRESS_LIMIT_CHARACTERS:
        try:
            address = ipaddress.ip_address(text)
        except ValueError:
            pass
        else:
            if not isinstance(address, ipaddress.IPv6Address):
                return str(address)
            if address.scope_id is None:
                return str(address.ipv4_mapped or address)
    violations.add(
        "ip_address",
        "is not an IP address; give one IPv4 or IPv6 address without port or zone, or leave it empty",
    )
    return None


def check_authenticate_time(
    given: datetime | None, now: datetime, violations: Violations
) -> datetime:
    """Return when the credential check began. The default is the present; the result is never later."""
    if given is None:
        return now
    if given > now + CLOCK_SKEW_ALLOWANCE:
        violations.add(
            "authenticate_time",
            "lies in the future; give the time at which the credential check began",
        )
    return min(given, now)


def check_authentication_methods(methods: Sequence[str], violations: Violations) -> None:
    """Require at most 16 names of 1 to 32 printable characters without spaces."""
    if len(methods) > METHODS_LIMIT:
        violations.add(
            "authentication_methods",
            f"has {len(methods)} entries; at most {METHODS_LIMIT} are allowed",
        )
        return
    for index, method in enumerate(methods):
        if not _METHOD.fullmatch(method):
            violations.add(
                f"authentication_methods[{index}]",
                f"must be 1 to {METHOD_LIMIT_CHARACTERS} printable ASCII characters without spaces, "
                'for example "pwd" (RFC 8176)',
            )


def check_lifetime(given: timedelta | None, policy: Policy, violations: Violations) -> timedelta:
    """Check a given absolute lifetime against the policy's limits, and return it.

    Return the policy's lifetime if none is given.
    """
    if given is None:
        return policy.absolute_lifetime
    if not MINIMUM_LIFETIME <= given <= policy.absolute_lifetime:
        violations.add(
            "lifetime",
            f"is {given.total_seconds():.10g} s; it must be at least "
            f"{MINIMUM_LIFETIME.total_seconds():.0f} s and at most the policy's "
            f"{policy.absolute_lifetime.total_seconds():.10g} s",
        )
    return given


def check_idle_timeout(
    given: timedelta | None, policy: Policy, violations: Violations
) -> timedelta | None:
    """Check a given idle timeout against the policy's limits, and return it.

    Return the policy's idle timeout, which may be None, if none is given.
    """
    if given is None:
        return policy.idle_timeout
    longest = policy.idle_timeout or policy.absolute_lifetime
    if not MINIMUM_IDLE_TIMEOUT <= given <= longest:
        violations.add(
            "idle_timeout",
            f"is {given.total_seconds():.10g} s; it must be at least "
            f"{MINIMUM_IDLE_TIMEOUT.total_seconds():.0f} s and at most the policy's "
            f"{longest.total_seconds():.10g} s",
        )
    return given


def check_attributes(attributes: Mapping[str, str], violations: Violations) -> None:
    """Require at most 16 entries with keys of 1 to 64 and values of at most 256 bytes."""
    if len(attributes) > ATTRIBUTES_LIMIT:
        violations.add(
            "attributes", f"has {len(attributes)} entries; at most {ATTRIBUTES_LIMIT} are allowed"
        )
        return
    for key, value in sorted(attributes.items()):
        shown = key if len(key) <= ATTRIBUTE_KEY_LIMIT_BYTES and key.isprintable() else "…"
        if not 1 <= len(key.encode()) <= ATTRIBUTE_KEY_LIMIT_BYTES:
            violations.add(
                f"attributes[{shown}]",
                f"has a key that is not 1 to {ATTRIBUTE_KEY_LIMIT_BYTES} bytes long",
            )
        if _has_control_character(key) or "\0" in value:
            violations.add(
                f"attributes[{shown}]",
                "has a control character in the key or a null character in the value",
            )
        if len(value.encode()) > ATTRIBUTE_VALUE_LIMIT_BYTES:
            violations.add(
                f"attributes[{shown}]",
                f"has a value of {len(value.encode())} bytes; at most {ATTRIBUTE_VALUE_LIMIT_BYTES} are allowed",
            )


def check_retry_secret(retry_secret: bytes, violations: Violations) -> None:
    """Require a secret of 32 bytes, or none."""
    if retry_secret and len(retry_secret) != RETRY_SECRET_BYTES:
        violations.add(
            "retry_secret",
            f"has {len(retry_secret)} bytes; give {RETRY_SECRET_BYTES} random bytes or none",
        )


def _has_control_character(text: str) -> bool:
    return any(unicodedata.category(character) == "Cc" for character in text)
