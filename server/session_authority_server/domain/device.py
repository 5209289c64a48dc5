from dataclasses import dataclass
from enum import Enum

# Every name that `parse_device` returns fits.
DISPLAY_NAME_LIMIT_CHARACTERS = 100


class DeviceType(Enum):
    """A kind of device. The store keeps the position of a member: append members, and never reorder them."""

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
    """The device of a sign-in, as its user agent describes it.

    It helps people recognise a sign-in. No decision may depend on it, because a user agent can claim to be anything.

    Attributes:
        browser: The browser or app, for example "Chrome"; empty if unknown.
        browser_version: Major or major.minor, for example "18.6"; empty if unknown.
        os: The operating system, for example "Windows"; empty if unknown.
        os_version: Major or major.minor; empty if unknown or hidden by the browser.
        type: The kind of device.
    """

    browser: str = ""
    browser_version: str = ""
    os: str = ""
    os_version: str = ""
    type: DeviceType = DeviceType.UNKNOWN

    @property
    def display_name(self) -> str:
        """A short name for people, for example "Chrome on Windows". Never empty."""
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
