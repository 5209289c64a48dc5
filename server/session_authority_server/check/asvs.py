"""OWASP ASVS 5.0, chapter 7: every requirement, and what an installation is judged by."""

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

# What 7.2.3 asks for.
_ENTROPY_BITS = 128


def limits_are_documented(facts: Facts) -> Finding:
    """Judge 7.1.1."""
    lifetime, idle = facts.policy.absolute_lifetime, facts.policy.idle_timeout
    setting = "absolute_lifetime_seconds"
    limits = f"A session that begins now lives {span(lifetime)} at most, and unused " + (
        span(idle) if idle else "as long"
    )
    if lifetime > LONGEST_JUSTIFIED:
        return not_met(
            f"{limits}. The written justification covers up to {span(LONGEST_JUSTIFIED)}: live shorter, or "
            "write one and accept this requirement",
            setting=setting,
        )
    return met(
        f"{limits}; the justification is below and in docs/understand/security.md", setting=setting
    )


def number_of_sessions_is_documented(facts: Facts) -> Finding:
    """Judge 7.1.2."""
    limit, at_limit = facts.policy.session_limit, facts.policy.at_limit.value
    if limit is None:
        return not_met("A user may have any number of sessions at once", setting="session_limit")
    return met(
        f"A user may have {limit:,} sessions at once; a sign-in beyond: {at_limit}",
        setting="session_limit",
    )


def tokens_are_unguessable(facts: Facts) -> Finding:
    """Judge 7.2.3."""
    bits = facts.token_secret_bits
    if bits < _ENTROPY_BITS:
        return not_met(f"A token has {bits} random bits")
    return met(f"A token has {bits} bits from the system's generator, and names nothing else")


def idle_timeout_ends_sessions(facts: Facts) -> Finding:
    """Judge 7.3.1."""
    idle = facts.policy.idle_timeout
    if idle is None:
        return not_met("Sessions may stay unused", setting="idle_timeout_seconds")
    if until := facts.exceeded_until(idle):
        return not_met(
            limit_with_exceptions(f"It is {span(idle)}", until),
            setting="idle_timeout_seconds",
        )
    return met(
        f"A session that begins now and is unused for {span(idle)} ends",
        duty="Mark validations that no user caused as passive",
        setting="idle_timeout_seconds",
    )


def lifetime_ends_sessions(facts: Facts) -> Finding:
    """Judge 7.3.2."""
    lifetime, setting = facts.policy.absolute_lifetime, "absolute_lifetime_seconds"
    if until := facts.exceeded_until(lifetime):
        return not_met(limit_with_exceptions(f"It is {span(lifetime)}", until), setting=setting)
    return met(
        f"A session that begins now ends {span(lifetime)} after its user was authenticated, at the latest",
        setting=setting,
    )


def ended_sessions_stay_ended(facts: Facts) -> Finding:
    """Judge 7.4.1."""
    if reasons := list(facts.forgets()):
        return not_met(
            f"A crash can bring ended sessions back: {', '.join(reasons)} in the database"
        )
    # Which of them commits wait for is not always ours to see, and changes.
    unless = (
        ", unless a standby takes over whose disk commits don't wait for"
        if facts.has_standbys
        else ""
    )
    return met(
        f"Each validation asks the authority, and no race or crash brings an ended session back{unless}",
        duty="Ask at each request, and remember no answer but by the client's own cache",
    )


def session_management_needs_recent_authentication(facts: Facts) -> Finding:
    """Judge 7.5.2."""
    setting = "max_authentication_age_seconds"
    age = facts.policy.max_authentication_age
    if not facts.may(Permission.MANAGE):
        return no_key_permits(facts, Permission.MANAGE)
    if age is None:
        return not_met(
            "Users see and end any session of theirs, however long ago they were authenticated",
            setting=setting,
        )
    return met(
        f"Users see and end any session of theirs within {span(age)} of being authenticated",
        duty="Show the list, and re-authenticate the user when it is refused",
        setting=setting,
    )


def _permitted(permission: Permission, otherwise: Finding) -> Judge:
    """Return what finds a requirement not met as long as nobody may do what it takes."""

    def judge(facts: Facts) -> Finding:
        return otherwise if facts.may(permission) else no_key_permits(facts, permission)

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
        "How many sessions a user may have, and what happens beyond, is documented",
        number_of_sessions_is_documented,
    ),
    _asvs(
        "7.1.3",
        2,
        "Where identities are federated, how sessions end together is documented",
        always(
            app_duty(
                "The authority knows no identity provider",
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
                "The authority verifies them, and no token says by itself that it is good",
                duty="Validate in the backend",
            )
        ),
    ),
    _asvs(
        "7.2.2",
        1,
        "Tokens are made for the session, not static keys",
        always(met("Each sign-in gets a token of its own, which ends with its session")),
    ),
    _asvs(
        "7.2.3",
        1,
        "Reference tokens are unique, and random by at least 128 bits of a secure generator",
        tokens_are_unguessable,
    ),
    _asvs(
        "7.2.4",
        1,
        "Authentication and re-authentication give a new token and end the old one",
        _permitted(
            Permission.CREATE,
            met(
                "CreateSession gives a new token, and ReauthenticateSession replaces it at its commit",
                duty="Call them whenever a user was authenticated, and sign out what the browser had before",
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
        _permitted(
            Permission.TERMINATE,
            app_duty(
                "RevokeUserSessions and EraseUser end them all, with sign-ins under way",
                "Call one of them when an account is disabled or deleted",
            ),
        ),
    ),
    _asvs(
        "7.4.3",
        2,
        "After a change of credentials, users can end their other sessions",
        _permitted(
            Permission.MANAGE,
            app_duty(
                "RevokeOtherSessions ends them in one call",
                "Offer it after each such change",
            ),
        ),
    ),
    _asvs(
        "7.4.4",
        2,
        "Every page that needs a session shows how to log out",
        _permitted(
            Permission.MANAGE,
            app_duty("SignOut ends the current session", "Show it on every page"),
        ),
    ),
    _asvs(
        "7.4.5",
        2,
        "Administrators can end the sessions of one user or of all",
        _permitted(
            Permission.TERMINATE,
            met("RevokeUserSessions and RevokeAllSessions do, and `session-authority revoke`"),
        ),
    ),
    _asvs(
        "7.5.1",
        2,
        "Sensitive changes of an account ask for full re-authentication",
        always(
            app_duty(
                "Each session says when and how its user was authenticated",
                "Ask for authentication before such a change, and then for ReauthenticateSession",
            )
        ),
    ),
    _asvs(
        "7.5.2",
        2,
        "Users see all their sessions and, having authenticated again, end any",
        session_management_needs_recent_authentication,
    ),
    _asvs(
        "7.5.3",
        3,
        "Highly sensitive operations ask for a further factor",
        always(
            app_duty(
                "Each session says by which methods its user was authenticated",
                "Ask for the further factor, and tell it to ReauthenticateSession",
            )
        ),
    ),
    _asvs(
        "7.6.1",
        2,
        "With federated identities, sessions live and end as documented",
        always(
            app_duty(
                "CreateSession takes a lifetime for each session, and RevokeOneSession ends it",
                "Give sessions a lifetime that the provider's allows, and end them when it says so",
            )
        ),
    ),
    _asvs(
        "7.6.2",
        2,
        "A session begins only with the user's consent or action",
        always(
            app_duty(
                "The authority makes a session only when it is asked to",
                "Ask it only when the user did something, and not when a provider's session exists",
            )
        ),
    ),
)
