"""Programs import `parse_device` under this name."""

from session_authority_server.devices.parser import parse_device as parse_device
