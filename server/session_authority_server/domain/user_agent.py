"""Outside programs import `parse_device` from here."""

from session_authority_server.devices.parser import parse_device as parse_device
