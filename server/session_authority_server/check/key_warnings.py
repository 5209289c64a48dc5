"""Warnings about API keys that are unused, never expire, or have unneeded permissions."""

from collections.abc import Iterator
from datetime import datetime, timedelta

from session_authority_server.check.facts import Facts
from session_authority_server.check.requirement import CheckWarning, span
from session_authority_server.domain.api_key import ApiKey, Permission

# The check warns if a key, or a permission of a key, was not used for this long.
UNUSED_AFTER = timedelta(days=30)
# The check warns this long before a key or a certificate expires.
EXPIRES_SOON = timedelta(days=14)
_DEVELOPMENT = "development"


def keys_are_unused_or_too_powerful(facts: Facts) -> Iterator[CheckWarning]:
    """Warn of keys that are unused, never expire, or have unneeded permissions."""
    if facts.contents is None:
        return
    if not facts.active_keys and not facts.exposure.insecure:
        yield CheckWarning(
            "no-keys",
            "API keys",
            "there is no active API key, so the server refuses every call",
            "run: session-authority keys create NAME --permission PERMISSION",
        )
    for key in facts.active_keys:
        about = f"key {key.key_id} ({key.name})"
        if key.key_id == facts.development_key_id or (
            key.name == _DEVELOPMENT and key.permissions == frozenset(Permission)
        ):
            yield CheckWarning(
                "development-key",
                about,
                "the development key is active, and has all permissions",
                f"give each program its own key, then run: session-authority keys revoke {key.key_id}",
            )
        yield from _expiry_warnings(key, about, facts.now)
        yield from _use_warnings(key, about, facts)


def _expiry_warnings(key: ApiKey, about: str, now: datetime) -> Iterator[CheckWarning]:
    if key.expire_time is None:
        yield CheckWarning(
            "key-without-expiry",
            about,
            "it never expires",
            f"run: session-authority keys rotate {key.key_id} --expires-in 90d",
        )
    elif key.expire_time - now <= EXPIRES_SOON:
        yield CheckWarning(
            "key-expires-soon",
            about,
            f"it expires at {key.expire_time:%Y-%m-%d %H:%M} UTC",
            f"if no newer key replaces it, run: session-authority keys rotate {key.key_id}",
        )


def _use_warnings(key: ApiKey, about: str, facts: Facts) -> Iterator[CheckWarning]:
    now = facts.now
    if key.last_used_time is None:
        if now - key.create_time >= UNUSED_AFTER:
            yield CheckWarning(
                "key-never-used",
                about,
                f"it was created {span(timedelta(days=(now - key.create_time).days))} ago and never used",
                f"run: session-authority keys revoke {key.key_id}",
            )
        return
    uses = facts.contents.uses.get(key.key_id, {}) if facts.contents else {}
    # Uses from before recording began are unknown, and a new program may not have used all permissions yet.
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
            f"it did not use these permissions in the last {span(UNUSED_AFTER)}: {', '.join(unused)}",
            "create a key with fewer permissions, and revoke this one",
        )
