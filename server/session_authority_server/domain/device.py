from dataclasses import dataclass
from enum import Enum

# Leaves room for every name that `parse_device` can give; what is longer came from elsewhere.
DISPLAY_NAME_LIMIT_CHARACTERS = 100


class DeviceType(Enum):
    """What kind of thing a user signed in with. The store keeps a member's place: append, and never reorder."""

    UNKNOWN = "unknown"
    DESKTOP = "desktop"
    PHONE = "phone"
    TABLET = "tablet"
    APPLIANCE = "appliance"
    SCRIPT = "script"
    BOT = "bot"


_NAMELESS = {
    DeviceType.UNKNOWN: "Unknown device",
    DeviceType.DESKTOP: "Unknown computer",
    DeviceType.PHONE: "Unknown phone",
    DeviceType.TABLET: "Unknown tablet",
    DeviceType.APPLIANCE: "Unknown appliance",
    DeviceType.SCRIPT: "Unknown program",
    DeviceType.BOT: "Unknown bot",
}


@dataclass(frozen=True, slots=True)
class Device:
    """What a user signed in with, as far as its user agent tells.

    It is for people to recognise, never for a decision: a user agent can claim to be anything.

    Attributes:
        browser: The browser or app, for example "Chrome"; empty where it is not known.
        browser_version: Major or major.minor, for example "18.6"; empty where it is not known.
        os: The operating system, for example "Windows"; empty where it is not known.
        os_version: Major or major.minor; empty where it is not known or the browser hides it.
        type: The kind of thing.
    """

    browser: str = ""
    browser_version: str = ""
    os: str = ""
    os_version: str = ""
    type: DeviceType = DeviceType.UNKNOWN

    @property
    def display_name(self) -> str:
        """A short name for people, for example "Chrome on Windows"; never empty."""
        name = self._full_name()[:DISPLAY_NAME_LIMIT_CHARACTERS].rstrip()
        return name or _NAMELESS[self.type]

    def _full_name(self) -> str:
        browser, os = self.browser.strip(), self.os.strip()
        if self.type is DeviceType.BOT and browser:
            # Crawlers pose as phones and computers, so their operating system would only mislead.
            return f"{browser} (bot)"
        if os and os != browser:
            return f"{browser or 'Unknown app'} on {os}"
        return browser
