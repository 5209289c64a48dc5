"""Open the file of locations that the settings name."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

from session_authority_server.app.process import CannotStart
from session_authority_server.background.locations import Locations, UnusableLocations
from session_authority_server.config import Settings
from session_authority_server.ports.store import Locate, nowhere


@contextlib.asynccontextmanager
async def locating(settings: Settings) -> AsyncIterator[Locate]:
    """Open the file of locations, and keep its content current while the context lasts.

    Raises:
        CannotStart: If the file can't be used.
    """
    locations = read_locations(settings)
    if locations is None:
        yield nowhere
        return
    keeping_current = asyncio.create_task(locations.keep_current())
    try:
        yield locations.find
    finally:
        keeping_current.cancel()


def read_locations(settings: Settings) -> Locations | None:
    """Return the locations in the file that the settings name, or None.

    Raises:
        CannotStart: If the file can't be used.
    """
    if not settings.location_database:
        return None
    try:
        return Locations(Path(settings.location_database))
    except UnusableLocations as error:
        raise CannotStart(f"{error}; see SESSION_AUTHORITY_LOCATION_DATABASE") from None
