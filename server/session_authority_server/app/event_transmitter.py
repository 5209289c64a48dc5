"""Set up the transmitter of security events that the settings describe."""

from pathlib import Path
from typing import TYPE_CHECKING

from session_authority_server.app.event_key import event_key
from session_authority_server.app.process import CannotStart
from session_authority_server.config import Settings

if TYPE_CHECKING:
    from session_authority_server.background.event_transmitter import EventTransmitter


def read_transmitter(settings: Settings) -> "EventTransmitter | None":
    """Return the transmitter of security events; None if the settings name none.

    Raises:
        CannotStart: If the keys can't be used.
    """
    if not settings.event_issuer:
        return None
    key = event_key(settings, make=True)
    if key is None:
        raise CannotStart(
            "security events need SESSION_AUTHORITY_EVENT_KEY, which encrypts the secrets of receivers; set it for "
            "all servers and workers, for example to the output of: openssl rand -base64 32"
        )
    from session_authority_server.background.event_transmitter import EventTransmitter
    from session_authority_server.background.signing_keys import SigningKeys, UnusableSigningKeys

    try:
        keys = SigningKeys(Path(settings.event_signing_keys))
    except UnusableSigningKeys as error:
        raise CannotStart(f"{error}; see SESSION_AUTHORITY_EVENT_SIGNING_KEYS") from None
    return EventTransmitter(settings.event_issuer, keys, key)
