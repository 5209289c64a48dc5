"""The operator's settings: what they are (`settings`), and where they come from (`loading`)."""

from session_authority_server.config.loading import CONFIG_FILE, ConfigurationError, load_settings
from session_authority_server.config.settings import (
    ENV_PREFIX,
    STANDARD_OUTPUT,
    Settings,
    is_loopback,
    split_address,
    unit_of,
)

__all__ = [
    "CONFIG_FILE",
    "ENV_PREFIX",
    "STANDARD_OUTPUT",
    "ConfigurationError",
    "Settings",
    "is_loopback",
    "load_settings",
    "split_address",
    "unit_of",
]
