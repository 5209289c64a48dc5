import pytest

from session_authority_server.domain.device import Device, DeviceType
from session_authority_server.domain.privacy import (
    KeepAddresses,
    erased,
    kept_address,
    without_versions,
)
from tests.support.engines import a_session


@pytest.mark.parametrize(
    ("address", "kept"),
    [
        ("203.0.113.77", "203.0.113.0"),
        ("203.0.113.0", "203.0.113.0"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1::"),
        ("2001:db8::1", "2001:db8::"),
        ("::ffff:203.0.113.77", "203.0.113.0"),
        ("::1", "::"),
    ],
)
def test_only_the_network_of_an_address_is_stored(address: str, kept: str) -> None:
    assert kept_address(address, KeepAddresses.TRUNCATED) == kept
    assert kept_address(kept, KeepAddresses.TRUNCATED) == kept, "which it is for ever"
    assert kept_address(address, KeepAddresses.NONE) is None
    assert kept_address(address, KeepAddresses.FULL) == address


@pytest.mark.parametrize("nothing", [None, ""])
@pytest.mark.parametrize("keep", list(KeepAddresses))
def test_an_absent_address_stays_absent(nothing: str | None, keep: KeepAddresses) -> None:
    assert kept_address(nothing, keep) == nothing


@pytest.mark.parametrize("wrong", ["203.0.113.77:80", "fe80::1%eth0", "localhost", "1.2.3"])
@pytest.mark.parametrize("keep", list(KeepAddresses))
def test_an_invalid_address_is_returned_unchanged(wrong: str, keep: KeepAddresses) -> None:
    assert kept_address(wrong, keep) == wrong


def test_a_device_family_has_no_versions() -> None:
    device = Device("Firefox", "143.0", "Windows", "11", DeviceType.DESKTOP)
    assert without_versions(device) == Device("Firefox", "", "Windows", "", DeviceType.DESKTOP)
    assert without_versions(device).display_name == device.display_name


def test_an_erased_session_keeps_its_device_family() -> None:
    left = erased(a_session())
    assert (left.ip_address, left.last_ip_address, left.user_agent) == (None, None, "")
