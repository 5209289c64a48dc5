"""Look up the locations of IP addresses in the operator's MaxMind DB file, which is read again when it changes."""

import asyncio
import logging
import re
from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from itertools import islice
from pathlib import Path
from typing import TypeAlias

import maxminddb

from session_authority_server.devices.text import is_shown
from session_authority_server.domain.location import PLACE_LIMIT_CHARACTERS, Location

CHECK_SECONDS = 10.0
# A location takes a few hundred bytes, and a look-up without the cache up to 0.3 ms.
CACHED_LIMIT = 10_000
# Databases of cities and countries have a country in nearly every record.
_SAMPLE_RECORDS = 100
_LANGUAGE = "en"
_COUNTRY_CODE = re.compile("[A-Z]{2}")

_log = logging.getLogger(__name__)

_Find: TypeAlias = Callable[[str], Location | None]
# The inode, size and times of a file. Rewriting or replacing the file changes at least one of them.
_Fingerprint: TypeAlias = tuple[int, int, int, int]


class UnusableLocations(Exception):
    """The file of locations can't be used. The message says why."""


class Locations:
    """The locations in one file. The file is held in memory, because another program may cut or replace it.

    While the file can't be used, the locations that were read last stay in use.
    """

    def __init__(self, path: Path) -> None:
        """Read the file.

        Raises:
            UnusableLocations: If the file can't be used.
        """
        self._path = path
        self._fingerprint, self._find = _read(path)
        self._failing = False

    def find(self, address: str | None) -> Location | None:
        """Return the location of an IP address or of a truncated address; None if unknown."""
        return self._find(address) if address else None

    async def keep_current(self) -> None:
        """Look every CHECK_SECONDS whether the file has changed, and read it if so."""
        while True:
            await asyncio.sleep(CHECK_SECONDS)
            # In a thread, because reading the file takes longer than calls should wait.
            await asyncio.to_thread(self.reread_if_changed)

    def reread_if_changed(self) -> None:
        """Read the file if it has changed. Log the outcome, a failure only once."""
        try:
            if _fingerprint(self._path) == self._fingerprint:
                return
            self._fingerprint, self._find = _read(self._path)
        except UnusableLocations as error:
            if not self._failing:
                _log.error("locations can't be reloaded; the old ones stay: %s", error)
            self._failing = True
        else:
            self._failing = False
            _log.info("locations reloaded from %s", self._path)


def _read(path: Path) -> tuple[_Fingerprint, _Find]:
    before = _fingerprint(path)
    try:
        with path.open("rb") as file:
            reader = maxminddb.open_database(file, maxminddb.MODE_FD)
        records = [record for _, record in islice(reader, _SAMPLE_RECORDS)]
    except OSError as error:
        raise UnusableLocations(f"{path} can't be read: {error.strerror}") from None
    except Exception:  # noqa: BLE001 - the library raises many kinds of errors for a damaged file
        raise UnusableLocations(f"{path} is not a complete MaxMind DB file") from None
    if _fingerprint(path) != before:
        raise UnusableLocations(f"{path} is being replaced")
    if not any(map(_location, records)):
        kind = reader.metadata().database_type
        raise UnusableLocations(f"{path} contains {kind!r}, and not cities or countries")
    return before, lru_cache(CACHED_LIMIT)(partial(_find, reader))


def _fingerprint(path: Path) -> _Fingerprint:
    try:
        state = path.stat()
    except OSError as error:
        raise UnusableLocations(f"{path} can't be read: {error.strerror}") from None
    return state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns


def _find(reader: maxminddb.Reader, address: str) -> Location | None:
    try:
        return _location(reader.get(address))
    except Exception:  # noqa: BLE001 - a damaged record, or IPv6 in a file for IPv4, must not fail a list
        return None


def _location(record: object) -> Location | None:
    """Return the location in a record; None if the record names no place."""
    country = _part(record, "country")
    regions = _part(record, "subdivisions")
    code = _part(country, "iso_code")
    location = Location(
        city=_name(_part(record, "city")),
        region=_name(regions[0]) if isinstance(regions, list) and regions else "",
        country=_name(country),
        country_code=code if isinstance(code, str) and _COUNTRY_CODE.fullmatch(code) else "",
    )
    return None if location == Location() else location


def _name(place: object) -> str:
    """Return the English name of a place, without invisible characters."""
    name = _part(_part(place, "names"), _LANGUAGE)
    if not isinstance(name, str):
        return ""
    shown = "".join(filter(is_shown, name[: 2 * PLACE_LIMIT_CHARACTERS]))
    return shown[:PLACE_LIMIT_CHARACTERS].strip()


def _part(value: object, key: str) -> object:
    return value.get(key) if isinstance(value, Mapping) else None
