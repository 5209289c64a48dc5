"""Why 90 days, in writing: what ASVS 7.1.1 and the "should" of NIST SP 800-63B-4, 2.1.3 ask for."""

from datetime import timedelta

LONGEST_JUSTIFIED = timedelta(days=90)
WITHIN_ASSURANCE_LEVEL = 1

JUSTIFICATION = (
    "A session lives up to 90 days where NIST SP 800-63B-4 (2.1.3) says that at AAL1 it should end within 30. "
    "The limit of 30 days bounds the harm of a stolen secret that nobody can take back. Here it can be taken "
    "back: each validation asks the authority, so that an ended session is refused at once and everywhere; users "
    "see every session of theirs with device, address and last use, and end any of them; operators end a user's "
    "or everybody's in one call; a token is 256 random bits of which only a hash is stored, it is replaced at "
    "every re-authentication, and the use of a replaced one is noticed. What remains is a device in the wrong "
    "hands that nobody misses: against it, set an idle timeout, and have the app ask for a fresh authentication "
    "before sensitive operations (authenticate_time and MAX_AUTHENTICATION_AGE_SECONDS serve it). Asking people "
    "for their password twelve times a year instead of four teaches them to type it wherever they are asked. "
    "This holds at AAL1 alone, and up to 90 days; beyond either, write a justification of your own."
)
