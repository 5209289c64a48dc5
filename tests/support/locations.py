"""Files of locations in MaxMind's format."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import netaddr
from mmdb_writer import MMDBWriter

HAMBURG = {
    "city": {"names": {"en": "Hamburg", "ja": "ハンブルク"}},
    "country": {"iso_code": "DE", "names": {"en": "Germany", "de": "Deutschland"}},
    "subdivisions": [{"iso_code": "HH", "names": {"en": "Free and Hanseatic City of Hamburg"}}],
}


def write_locations(path: Path, records: Mapping[str, Any], *, ip_version: int = 6) -> None:
    """Write a file that has a record for each network."""
    writer = MMDBWriter(ip_version, "Test-City", ipv4_compatible=ip_version == 6)
    for network, record in records.items():
        writer.insert_network(netaddr.IPSet([network]), record)
    writer.to_db_file(str(path))
