"""What counts as an IP address."""

from ipaddress import ip_address as parsed


def is_address(text: str) -> bool:
    """Say whether a text is an IP address in the authority's eyes, which accepts no zone."""
    try:
        parsed(text)
    except ValueError:
        return False
    return "%" not in text
