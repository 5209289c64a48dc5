from pathlib import Path

import pytest

from session_authority import AsyncSessionClient, Location
from session_authority_server.app.process import CannotStart
from session_authority_server.app.serving import ServeOptions, serving
from session_authority_server.config import load_settings
from tests.support.locations import HAMBURG, write_locations


async def test_a_server_shows_the_locations_in_the_operators_file(tmp_path: Path) -> None:
    file = tmp_path / "city.mmdb"
    write_locations(file, {"192.0.2.0/24": HAMBURG})
    settings = load_settings(
        listen="127.0.0.1:0",
        database_url=f"sqlite:///{tmp_path}/sessions.sqlite",
        location_database=str(file),
    )
    async with (
        serving(settings, ServeOptions(worker=False, insecure=True)) as running,
        AsyncSessionClient(running.address) as client,
    ):
        new = await client.create("ada", ip_address="192.0.2.44")
        [listed] = await client.list(new.token)
    assert listed.location == Location(
        "Hamburg", "Free and Hanseatic City of Hamburg", "Germany", "DE"
    )


async def test_an_unusable_file_stops_the_start(tmp_path: Path) -> None:
    settings = load_settings(location_database=str(tmp_path / "absent.mmdb"))
    with pytest.raises(CannotStart, match=r"absent\.mmdb can't be read: No such file"):
        async with serving(settings, ServeOptions()):
            pass
