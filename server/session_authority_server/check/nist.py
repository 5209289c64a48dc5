"""Judge an installation by the requirements of NIST SP 800-63B-4 on sessions.

Sections 2.1.3, 2.2.3 and 2.3.3 (re-authentication by assurance level), 5.1, 5.1.1 and 5.2.
"""

from collections.abc import Sequence
from datetime import timedelta

from session_authority_server.check.facts import Facts
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

# JUSTIFICATION covers lifetimes and assurance levels up to these two limits.
LONGEST_JUSTIFIED = timedelta(days=90)
JUSTIFIED_ASSURANCE_LEVEL = 1

# Required by ASVS 7.1.1, and by NIST SP 800-63B-4, 2.1.3, for a deviation from its "should".
JUSTIFICATION = (
    "A session lives up to 90 days. NIST SP 800-63B-4 (2.1.3) says that at AAL1 it should end within 30 days. "
    "That limit bounds the damage of a stolen secret that cannot be revoked. Here the secret can be revoked. "
    "Each validation asks the authority, so an ended session is refused at once and everywhere. Users see all "
    "their sessions with device, address and last use, and can log out any of them. Operators revoke the "
    "sessions of one user or of all users in one call. A token is 256 random bits, and only its hash is "
    "stored. Each re-authentication replaces the token, and the use of a replaced token is detected. The "
    "remaining risk is a stolen device whose owner has not noticed the theft. Against that risk, set an idle "
    "timeout, and let the app ask for a fresh authentication before sensitive operations (with "
    "authenticate_time and MAX_AUTHENTICATION_AGE_SECONDS). Users who must enter their password twelve times a "
    "year instead of four learn to type it wherever they are asked. This justification is valid only at AAL1 "
    "and up to 90 days. Otherwise, write your own justification."
)

# NIST SP 800-63B-4, 5.1.
_MIN_SECRET_BITS = 64
_LIFETIME = "absolute_lifetime_seconds"
_IDLE_TIMEOUT = "idle_timeout_seconds"


def lifetime_at_most(limit: timedelta, level: int) -> Judge:
    """Return a judge of the absolute lifetime, for an assurance level."""

    def judge(facts: Facts) -> Finding:
        lifetime = facts.policy.absolute_lifetime
        lifetime_text, until = f"It is {span(lifetime)}", facts.longer_limits_until(lifetime)
        if lifetime <= limit and until is None:
            return met(lifetime_text, setting=_LIFETIME)
        justified = (
            level <= JUSTIFIED_ASSURANCE_LEVEL
            and lifetime <= LONGEST_JUSTIFIED
            and facts.longer_limits_until(LONGEST_JUSTIFIED) is None
        )
        return not_met(
            (lifetime_text if until is None else limit_with_exceptions(lifetime_text, until))
            + (". The written justification below permits this" if justified else ""),
            setting=_LIFETIME,
            justified=justified,
        )

    return judge


def idle_timeout_at_most(limit: timedelta) -> Judge:
    """Return a judge of the idle timeout."""

    def judge(facts: Facts) -> Finding:
        idle = facts.policy.idle_timeout
        if idle is None:
            return not_met("There is no idle timeout", setting=_IDLE_TIMEOUT)
        if idle > limit:
            return not_met(f"It is {span(idle)}", setting=_IDLE_TIMEOUT)
        if until := facts.longer_limits_until(idle):
            return not_met(
                limit_with_exceptions(f"It is {span(idle)}", until), setting=_IDLE_TIMEOUT
            )
        return met(f"It is {span(idle)}", setting=_IDLE_TIMEOUT)

    return judge


def lifetime_is_limited(facts: Facts) -> Finding:
    """Judge whether sessions have an absolute lifetime."""
    return met(
        f"It is {span(facts.policy.absolute_lifetime)} for new sessions, and can't be switched off",
        setting=_LIFETIME,
    )


def secrets_are_long(facts: Facts) -> Finding:
    """Judge the length of a session's secret."""
    bits = facts.token_secret_bits
    return (
        met(f"It has {bits} bits") if bits >= _MIN_SECRET_BITS else not_met(f"It has {bits} bits")
    )


def channel_is_protected(facts: Facts) -> Finding:
    """Judge whether calls are encrypted on their way to the authority."""
    exposure, setting = facts.exposure, "tls_certificate"
    duty = "Serve browsers over TLS only"
    if exposure.tls_fault:
        return not_met(f"Servers can't start: {exposure.tls_fault}", setting=setting)
    if exposure.tls_dates is not None and not (
        exposure.tls_dates[0] <= facts.now <= exposure.tls_dates[1]
    ):
        return not_met(
            "The certificate has expired or is not valid yet, so clients refuse it", setting=setting
        )
    if exposure.tls:
        return met("Calls are encrypted by TLS", duty=duty, setting=setting)
    if exposure.is_loopback:
        return met("Calls don't leave this machine", duty=duty, setting=setting)
    if exposure.allow_plaintext and not exposure.insecure:
        return app_duty(
            "A proxy or mesh in front of the server encrypts, according to --allow-plaintext",
            f"Make sure that it encrypts with mutual authentication. {duty}",
            setting=setting,
        )
    return not_met(
        f"Calls to {exposure.listen} are not encrypted",
        setting=setting,
    )


def sign_out_invalidates_secret(facts: Facts) -> Finding:
    """Judge whether a sign-out invalidates the session's secret."""
    if reasons := list(facts.durability_faults()):
        return not_met(f"A crash of the database can make it valid again: {', '.join(reasons)}")
    if not facts.may(Permission.MANAGE):
        return no_key_permits(facts, Permission.MANAGE)
    return met(
        "SignOut ends the session before it responds",
        duty="Call SignOut, and delete the cookie even if the call fails",
    )


def both_timeouts_end_sessions(facts: Facts) -> Finding:
    """Judge whether each timeout ends a session."""
    lifetime, idle = facts.policy.absolute_lifetime, facts.policy.idle_timeout
    if idle is None:
        return met(
            f"The lifetime of {span(lifetime)} ends a session exactly on time. There is no idle timeout",
            setting=_IDLE_TIMEOUT,
        )
    return met(
        f"The lifetime ({span(lifetime)}) and the idle timeout ({span(idle)}) end new sessions exactly on time",
        setting=_IDLE_TIMEOUT,
    )


def _nist(number: str, level: int, text: str, judge: Judge, *, shall: bool = True) -> Requirement:
    return Requirement(
        id=number, standard=Standard.NIST, level=level, shall=shall, text=text, judge=judge
    )


def _cookie(word: str, text: str, duty: str) -> Requirement:
    return _nist(f"5.1.1-{word}", 1, text, always(app_duty("The authority sets no cookies", duty)))


REQUIREMENTS: Sequence[Requirement] = (
    _nist("2.1.3-overall", 1, "There is an overall timeout", lifetime_is_limited),
    _nist(
        "2.1.3-30-days",
        1,
        "At AAL1 the overall timeout should be 30 days at most",
        lifetime_at_most(timedelta(days=30), 1),
        shall=False,
    ),
    _nist(
        "2.2.3-24-hours",
        2,
        "At AAL2 the overall timeout should be 24 hours at most",
        lifetime_at_most(timedelta(hours=24), 2),
        shall=False,
    ),
    _nist(
        "2.2.3-idle",
        2,
        "At AAL2 the inactivity timeout should be 1 hour at most",
        idle_timeout_at_most(timedelta(hours=1)),
        shall=False,
    ),
    _nist(
        "2.3.3-12-hours",
        3,
        "At AAL3 the overall timeout must be 12 hours at most",
        lifetime_at_most(timedelta(hours=12), 3),
    ),
    _nist(
        "2.3.3-idle",
        3,
        "At AAL3 the inactivity timeout should be 15 minutes at most",
        idle_timeout_at_most(timedelta(minutes=15)),
        shall=False,
    ),
    _nist("5.1-length", 1, "A session's secret has 64 bits or more", secrets_are_long),
    _nist(
        "5.1-generator",
        1,
        "The secret comes from an approved generator",
        always(
            app_duty(
                "The secret comes from the operating system's generator",
                "Run the authority on a system with an approved generator",
            )
        ),
    ),
    _nist(
        "5.1-channel", 1, "The secret is sent over protected channels only", channel_is_protected
    ),
    _nist(
        "5.1-logout",
        1,
        "The secret is invalidated when the user logs out",
        sign_out_invalidates_secret,
    ),
    _nist(
        "5.1-logoff-available",
        1,
        "Logging off is readily available",
        always(app_duty("SignOut ends the current session", "Show it on every page")),
    ),
    _cookie("secure", "The cookie is sent over secure connections only", "Set Secure"),
    _cookie(
        "scope",
        "The cookie is limited to the fewest hosts and paths that it needs",
        "Give its name the prefix __Host-, set Path=/, and set no Domain",
    ),
    _cookie("http-only", "Scripts can't read the cookie", "Set HttpOnly"),
    _cookie(
        "same-site",
        "Other sites can't cause the cookie to be sent",
        "Set SameSite=Lax or SameSite=Strict",
    ),
    _nist(
        "5.1.1-contents",
        1,
        "The cookie holds no personal data in clear text",
        always(
            met(
                "A token holds a random id, a time and a secret",
                duty="Put nothing else into the cookie",
            )
        ),
    ),
    _nist(
        "5.1.1-expiry",
        1,
        "The end of a session does not rely on the cookie's expiry",
        always(
            met(
                "The authority ends sessions by its own clock",
                duty="Validate the token, even if the cookie has not expired",
            )
        ),
    ),
    _nist("5.2-timeouts", 1, "Either timeout ends a session", both_timeouts_end_sessions),
    _nist(
        "5.2-activity",
        1,
        "Activity resets the inactivity timeout",
        always(
            met(
                "Each validation resets it, except passive ones",
                duty="Mark validations that no user caused as passive",
            )
        ),
    ),
    _nist(
        "5.2-reauthentication",
        1,
        "Re-authentication resets both timeouts",
        always(
            met(
                "ReauthenticateSession resets both",
                duty="Call it after the user has authenticated again",
            )
        ),
    ),
)
