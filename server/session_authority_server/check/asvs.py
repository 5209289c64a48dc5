"""Judge an installation by each requirement of OWASP ASVS 5.0, chapter 7."""

from collections.abc import Sequence

from session_authority_server.check.facts import Facts
from session_authority_server.check.nist import LONGEST_JUSTIFIED
from session_authority_server.check.requirement import (
    Finding,
    Judge,
    Requirement,
    Standard,
    always,
    app_duty,
    limit_with_exceptions,
    met,
    no_key_permits,
    not_met,
    span,
)
from session_authority_server.domain.api_key import Permission

# ASVS 5.0, 7.2.3.
_MIN_ENTROPY_BITS = 128


def limits_are_documented(facts: Facts) -> Finding:
    """Judge 7.1.1."""
    lifetime, idle = facts.policy.absolute_lifetime, facts.policy.idle_timeout
    setting = "absolute_lifetime_seconds"
    limits = f"A new session ends after {span(lifetime)} at the latest, " + (
        f"or after {span(idle)} without use" if idle else "used or not"
    )
    if lifetime > LONGEST_JUSTIFIED:
        return not_met(
            f"{limits}. The written justification covers up to {span(LONGEST_JUSTIFIED)}: shorten the lifetime, or "
            "write your own justification and accept this requirement",
            setting=setting,
        )
    return met(
        f"{limits}; the justification is below and in docs/understand/security.md", setting=setting
    )


def number_of_sessions_is_documented(facts: Facts) -> Finding:
    """Judge 7.1.2."""
    limit, at_limit = facts.policy.session_limit, facts.policy.at_limit.value
    if limit is None:
        return not_met("The number of sessions per user is not limited", setting="session_limit")
    return met(
        f"A user may have {limit:,} sessions at once. A sign-in at the limit: {at_limit}",
        setting="session_limit",
    )


def tokens_are_unguessable(facts: Facts) -> Finding:
    """Judge 7.2.3."""
    bits = facts.token_secret_bits
    if bits < _MIN_ENTROPY_BITS:
        return not_met(f"A token has {bits} random bits")
    return met(f"A token has {bits} random bits from the operating system's generator")


def idle_timeout_ends_sessions(facts: Facts) -> Finding:
    """Judge 7.3.1."""
    idle = facts.policy.idle_timeout
    if idle is None:
        return not_met("There is no idle timeout", setting="idle_timeout_seconds")
    if until := facts.longer_limits_until(idle):
        return not_met(
            limit_with_exceptions(f"It is {span(idle)}", until),
            setting="idle_timeout_seconds",
        )
    return met(
        f"A new session ends after {span(idle)} without use",
        duty="Mark validations that no user caused as passive",
        setting="idle_timeout_seconds",
    )


def lifetime_ends_sessions(facts: Facts) -> Finding:
    """Judge 7.3.2."""
    lifetime, setting = facts.policy.absolute_lifetime, "absolute_lifetime_seconds"
    if until := facts.longer_limits_until(lifetime):
        return not_met(limit_with_exceptions(f"It is {span(lifetime)}", until), setting=setting)
    return met(
        f"A new session ends at most {span(lifetime)} after its user was authenticated",
        setting=setting,
    )


def ended_sessions_stay_ended(facts: Facts) -> Finding:
    """Judge 7.4.1."""
    if reasons := list(facts.durability_faults()):
        return not_met(
            f"A crash of the database can bring ended sessions back: {', '.join(reasons)}"
        )
    # Name this exception for every database with standbys. `synchronous_standby_names` can change later, and our role
    # may lack the right to see which standbys commits wait for.
    unless = (
        ", unless a standby takes over that commits don't wait for" if facts.has_standbys else ""
    )
    return met(
        f"Each validation asks the authority, and no race or crash brings an ended session back{unless}",
        duty="Validate at each request; cache answers in the client's own cache only",
    )


def session_management_needs_recent_authentication(facts: Facts) -> Finding:
    """Judge 7.5.2."""
    setting = "max_authentication_age_seconds"
    age = facts.policy.max_authentication_age
    if not facts.may(Permission.MANAGE):
        return no_key_permits(facts, Permission.MANAGE)
    if age is None:
        return not_met(
            "Users can list and end their sessions, no matter how long ago they were authenticated",
            setting=setting,
        )
    return met(
        f"Users can list and end their sessions for {span(age)} after they were authenticated",
        duty="Show the list, and re-authenticate the user if the authority refuses it",
        setting=setting,
    )


def _if_permitted(permission: Permission, finding: Finding) -> Judge:
    """Return a judge that finds the requirement not met if no caller has the permission."""

    def judge(facts: Facts) -> Finding:
        return finding if facts.may(permission) else no_key_permits(facts, permission)

    return judge


def _asvs(number: str, level: int, text: str, judge: Judge) -> Requirement:
    return Requirement(id=number, standard=Standard.ASVS, level=level, text=text, judge=judge)


REQUIREMENTS: Sequence[Requirement] = (
    _asvs(
        "7.1.1",
        2,
        "Idle and absolute limits are documented, deviations from NIST SP 800-63B justified",
        limits_are_documented,
    ),
    _asvs(
        "7.1.2",
        2,
        "How many sessions a user may have, and what happens at the limit, is documented",
        number_of_sessions_is_documented,
    ),
    _asvs(
        "7.1.3",
        2,
        "With federated identities, the documentation says how sessions end together",
        always(
            app_duty(
                "The authority does not talk to identity providers",
                "Document how the provider's session and this one end together",
            )
        ),
    ),
    _asvs(
        "7.2.1",
        1,
        "Tokens are verified by a trusted backend",
        always(
            met(
                "The authority verifies each token against its database",
                duty="Validate in the backend",
            )
        ),
    ),
    _asvs(
        "7.2.2",
        1,
        "Tokens are made for the session, not static keys",
        always(met("Each sign-in gets its own token, which ends with the session")),
    ),
    _asvs(
        "7.2.3",
        1,
        "Reference tokens are unique, and have at least 128 bits of entropy from a secure generator",
        tokens_are_unguessable,
    ),
    _asvs(
        "7.2.4",
        1,
        "Authentication and re-authentication give a new token and end the old one",
        _if_permitted(
            Permission.CREATE,
            met(
                "CreateSession returns a new token, and ReauthenticateSession replaces the token",
                duty="Call one of them at each authentication, and sign out the browser's earlier session",
            ),
        ),
    ),
    _asvs("7.3.1", 2, "Inactivity ends a session", idle_timeout_ends_sessions),
    _asvs("7.3.2", 2, "An absolute lifetime ends a session", lifetime_ends_sessions),
    _asvs("7.4.1", 1, "An ended session can't be used any more", ended_sessions_stay_ended),
    _asvs(
        "7.4.2",
        1,
        "All sessions end when their account is disabled or deleted",
        _if_permitted(
            Permission.TERMINATE,
            app_duty(
                "RevokeUserSessions and EraseUser end them all, including sign-ins in progress",
                "Call one of them when an account is disabled or deleted",
            ),
        ),
    ),
    _asvs(
        "7.4.3",
        2,
        "After a change of credentials, users can end their other sessions",
        _if_permitted(
            Permission.MANAGE,
            app_duty(
                "RevokeOtherSessions ends them in one call",
                "Offer it after each change of credentials",
            ),
        ),
    ),
    _asvs(
        "7.4.4",
        2,
        "Every page that needs a session shows how to log out",
        _if_permitted(
            Permission.MANAGE,
            app_duty("SignOut ends the current session", "Show it on every page"),
        ),
    ),
    _asvs(
        "7.4.5",
        2,
        "Administrators can end the sessions of one user or of all",
        _if_permitted(
            Permission.TERMINATE,
            met("RevokeUserSessions, RevokeAllSessions and `session-authority revoke` end them"),
        ),
    ),
    _asvs(
        "7.5.1",
        2,
        "Sensitive changes of an account require full re-authentication",
        always(
            app_duty(
                "Each session holds when and how its user was authenticated",
                "Authenticate the user before such a change, then call ReauthenticateSession",
            )
        ),
    ),
    _asvs(
        "7.5.2",
        2,
        "Users can list their sessions and, after authenticating again, end any of them",
        session_management_needs_recent_authentication,
    ),
    _asvs(
        "7.5.3",
        3,
        "Highly sensitive operations require a further factor",
        always(
            app_duty(
                "Each session holds the methods by which its user was authenticated",
                "Verify the further factor, and pass its method to ReauthenticateSession",
            )
        ),
    ),
    _asvs(
        "7.6.1",
        2,
        "With federated identities, session lifetime and termination behave as documented",
        always(
            app_duty(
                "CreateSession accepts a lifetime for each session, and RevokeOneSession ends the session",
                "Choose a lifetime that the provider permits, and end the session when the provider ends its own",
            )
        ),
    ),
    _asvs(
        "7.6.2",
        2,
        "A session begins only with the user's consent or action",
        always(
            app_duty(
                "The authority creates a session only on request",
                "Create sessions only after a user's action, not merely because a provider's session exists",
            )
        ),
    ),
)
