"""The operator's settings: what they are (`settings`), and where they come from (`loading`)."""

from session_authority_server.config.addresses import is_loopback, split_address
from session_authority_server.config.loading import (
    CONFIG_FILE,
    ConfigurationError,
    load,
    load_settings,
)
from session_authority_server.config.settings import (
    CHOICES,
    ENV_PREFIX,
    STANDARD_OUTPUT,
    Settings,
    checked_choice,
    read_duration,
    unit_of,
)

__all__ = [
    "CHOICES",
    "CONFIG_FILE",
    "ENV_PREFIX",
    "STANDARD_OUTPUT",
    "ConfigurationError",
    "Settings",
    "checked_choice",
    "is_loopback",
    "load",
    "load_settings",
    "read_duration",
    "split_address",
    "unit_of",
]
