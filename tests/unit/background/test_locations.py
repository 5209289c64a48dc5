import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import maxminddb
import pytest

from session_authority_server.background import locations as module
from session_authority_server.background.locations import Locations, UnusableLocations
from session_authority_server.domain.location import PLACE_LIMIT_CHARACTERS, Location
from tests.support.locations import HAMBURG, write_locations

PARIS = {"city": {"names": {"en": "Paris"}}, "country": {"names": {"en": "France"}}}
FOUND = Location("Hamburg", "Free and Hanseatic City of Hamburg", "Germany", "DE")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "city.mmdb"
    write_locations(path, {"192.0.2.0/24": HAMBURG, "2001:db8::/32": PARIS})
    return path


@pytest.mark.parametrize(
    ("address", "location"),
    [
        ("192.0.2.44", FOUND),
        ("192.0.2.0", FOUND),
        ("2001:db8::1", Location(city="Paris", country="France")),
        ("198.51.100.1", None),
        ("fe80::1", None),
        ("", None),
        (None, None),
        ("no address", None),
    ],
)
def test_an_address_has_the_location_of_its_network(
    path: Path, address: str | None, location: Location | None
) -> None:
    assert Locations(path).find(address) == location


def test_a_file_for_ipv4_knows_no_location_of_ipv6(path: Path) -> None:
    write_locations(path, {"192.0.2.0/24": HAMBURG}, ip_version=4)
    locations = Locations(path)
    assert locations.find("192.0.2.1") == FOUND
    assert locations.find("2001:db8::1") is None


@pytest.mark.parametrize(
    ("record", "location"),
    [
        ({"country": {"iso_code": "DE"}}, Location(country_code="DE")),
        ({"country": {"iso_code": "<b>", "names": {"en": "X"}}}, Location(country="X")),
        ({"country": {"names": {"fr": "Allemagne"}}, "city": HAMBURG["city"]}, Location("Hamburg")),
        ({"city": "Hamburg", "country": "DE", "subdivisions": "HH"}, None),
        ({"city": {"names": {"en": 7}}, "country": {"names": ["en"]}, "subdivisions": []}, None),
        ({"city": {"names": {"en": "\u202eA\x00\x1b[31m\nB\u2028\u200b "}}}, Location("A[31mB")),
        ({"city": {"names": {"en": "<b>&"}}}, Location("<b>&")),
        ({"city": {"names": {"en": "x" * 5_000}}}, Location("x" * PLACE_LIMIT_CHARACTERS)),
        (["Hamburg"], None),
    ],
)
def test_names_are_short_and_have_no_invisible_characters(
    path: Path, record: Any, location: Location | None
) -> None:
    write_locations(path, {"192.0.2.0/24": HAMBURG, "203.0.113.0/24": record})
    assert Locations(path).find("203.0.113.9") == location


def damage(path: Path, change: Callable[[bytes], bytes]) -> None:
    path.write_bytes(change(path.read_bytes()))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda path: path.unlink(), "can't be read: No such file or directory"),
        (lambda path: damage(path, lambda _: b""), "is not a complete MaxMind DB file"),
        (lambda path: damage(path, lambda it: it[:-200]), "is not a complete MaxMind DB file"),
        (lambda path: damage(path, lambda _: os.urandom(999)), "is not a complete MaxMind DB file"),
        (
            lambda path: write_locations(
                path, {"192.0.2.0/24": {"autonomous_system_number": 64496}}
            ),
            "contains 'Test-City', and not cities or countries",
        ),
        (lambda path: (path.unlink(), path.mkdir()), "can't be read: Is a directory"),
    ],
    ids=["gone", "empty", "cut", "random", "other contents", "directory"],
)
def test_an_unusable_file_is_refused_at_first_and_later_leaves_the_old_locations(
    path: Path,
    change: Callable[[Path], object],
    reason: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    locations = Locations(path)
    change(path)
    with pytest.raises(UnusableLocations, match=reason):
        Locations(path)
    for _ in range(3):
        locations.reread_if_changed()
        assert locations.find("192.0.2.1") == FOUND
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert reason in caplog.text
    if path.is_dir():
        path.rmdir()
    write_locations(path, {"192.0.2.0/24": PARIS})
    with caplog.at_level("INFO"):
        locations.reread_if_changed()
    assert caplog.records[-1].getMessage() == f"locations reloaded from {path}"
    assert locations.find("192.0.2.1") == Location(city="Paris", country="France")


def test_an_unchanged_file_is_not_read_again(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    locations = Locations(path)
    monkeypatch.setattr(Path, "open", lambda *_: pytest.fail("read"))
    locations.reread_if_changed()


def test_a_file_that_changes_while_it_is_read_is_read_again_later(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    locations = Locations(path)
    write_locations(path, {"192.0.2.0/24": PARIS})
    complete = maxminddb.open_database

    def touched(*arguments: Any) -> Any:
        os.utime(path)
        return complete(*arguments)

    monkeypatch.setattr(maxminddb, "open_database", touched)
    locations.reread_if_changed()
    assert locations.find("192.0.2.1") == FOUND
    monkeypatch.undo()
    locations.reread_if_changed()
    assert locations.find("192.0.2.1") == Location(city="Paris", country="France")


def test_a_damaged_record_has_no_location(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The search tree is whole, and the record's text is not UTF-8."""
    monkeypatch.setattr(module, "_SAMPLE_RECORDS", 1)
    damage(path, lambda content: content.replace(b"Paris", b"\xff\xff\xff\xff\xff"))
    locations = Locations(path)
    assert locations.find("192.0.2.1") == FOUND
    assert locations.find("2001:db8::1") is None


async def test_a_changed_file_is_read_without_a_restart(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []

    async def pause(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) > 1:
            raise asyncio.CancelledError
        write_locations(path, {"192.0.2.0/24": PARIS})

    locations = Locations(path)
    monkeypatch.setattr(asyncio, "sleep", pause)
    with pytest.raises(asyncio.CancelledError):
        await locations.keep_current()
    assert locations.find("192.0.2.1") == Location(city="Paris", country="France")
    assert pauses == [10, 10]
