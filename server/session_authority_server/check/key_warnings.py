"""Warnings about API keys: unused, without an end, or with more permissions than needed."""

from collections.abc import Iterator
from datetime import datetime, timedelta

from session_authority_server.check.facts import Facts
from session_authority_server.check.requirement import CheckWarning, span
from session_authority_server.domain.api_key import ApiKey, Permission

# After how long without a use the check warns of a key, or of a permission of a key.
UNUSED_AFTER = timedelta(days=30)
# How long before the end of a key or a certificate the check warns.
EXPIRES_SOON = timedelta(days=14)
_DEVELOPMENT = "development"


def keys_are_unused_or_too_powerful(facts: Facts) -> Iterator[CheckWarning]:
    """Warn of keys that are not used, do not end, or can do more than they are used for."""
    if facts.contents is None:
        return
    if not facts.good_keys and not facts.exposure.insecure:
        yield CheckWarning(
            "no-keys",
            "API keys",
            "there is no good API key, so every call is refused",
            "session-authority keys create NAME --permission PERMISSION",
        )
    for key in facts.good_keys:
        about = f"key {key.key_id} ({key.name})"
        if key.key_id == facts.development_key_id or (
            key.name == _DEVELOPMENT and key.permissions == frozenset(Permission)
        ):
            yield CheckWarning(
                "development-key",
                about,
                "the key for development is good, and may do everything",
                f"give programs keys of their own, then: session-authority keys revoke {key.key_id}",
            )
        yield from _expiry_warnings(key, about, facts.now)
        yield from _use_warnings(key, about, facts)


def _expiry_warnings(key: ApiKey, about: str, now: datetime) -> Iterator[CheckWarning]:
    if key.expire_time is None:
        yield CheckWarning(
            "key-without-expiry",
            about,
            "it never expires",
            f"session-authority keys rotate {key.key_id} --expires-in 90d",
        )
    elif key.expire_time - now <= EXPIRES_SOON:
        yield CheckWarning(
            "key-expires-soon",
            about,
            f"it expires at {key.expire_time:%Y-%m-%d %H:%M} UTC",
            f"unless its program has a successor: session-authority keys rotate {key.key_id}",
        )


def _use_warnings(key: ApiKey, about: str, facts: Facts) -> Iterator[CheckWarning]:
    now = facts.now
    if key.last_used_time is None:
        if now - key.create_time >= UNUSED_AFTER:
            yield CheckWarning(
                "key-never-used",
                about,
                f"it was made {span(timedelta(days=(now - key.create_time).days))} ago and never used",
                f"session-authority keys revoke {key.key_id}",
            )
        return
    uses = facts.contents.uses.get(key.key_id, {}) if facts.contents else {}
    # What was used before uses were recorded is not known; nor what a new program has not come to yet.
    if not uses or now - min(use.first_time for use in uses.values()) < UNUSED_AFTER:
        return
    unused = [
        permission.value
        for permission in Permission
        if permission in key.permissions
        and (permission not in uses or now - uses[permission].last_time >= UNUSED_AFTER)
    ]
    if unused:
        yield CheckWarning(
            "unused-permission",
            about,
            f"in the last {span(UNUSED_AFTER)} it used no {', '.join(unused)}",
            "make one that permits less, and revoke this one",
        )
