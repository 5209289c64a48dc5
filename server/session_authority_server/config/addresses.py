import re
from ipaddress import ip_address


def split_address(address: str) -> tuple[str, int]:
    """Return the host and port of an address such as `127.0.0.1:50551` or `[::1]:0`.

    Raises:
        ValueError: If the text is not such an address.
    """
    found = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+)\]|([^:\[\]\s\0]+)):([0-9]{1,5})", address)
    if not found or int(found[3]) > 65_535:
        raise ValueError("give host:port, for example 127.0.0.1:50551 or [::1]:50551")
    return found[1] or found[2], int(found[3])


def is_loopback(address: str) -> bool:
    """Return whether only this machine can reach an address."""
    host, _ = split_address(address)
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
