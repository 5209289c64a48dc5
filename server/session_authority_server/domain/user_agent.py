"""A second name for `parse_device`, which outside programs import."""

from session_authority_server.devices.parser import parse_device as parse_device
