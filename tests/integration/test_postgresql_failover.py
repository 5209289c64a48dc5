"""When the primary dies, its standby takes over and has every answered write."""

import asyncio
import time
from pathlib import Path

from tests.support import postgresql
from tests.support.ledger import calling, settings, under_load
from tests.support.postgresql import Cluster
from tests.support.program import run, serving


def url_of(*clusters: Cluster) -> str:
    hosts = ",".join(f"127.0.0.1:{cluster.port}" for cluster in clusters)
    return f"postgresql://postgres@{hosts}/postgres"


async def test_a_promoted_standby_has_every_answered_write_and_serves(
    tmp_path: Path,
) -> None:
    with (
        postgresql.cluster() as primary,
        postgresql.standby(primary, "deputy") as deputy,
    ):
        both = settings(url_of(primary, deputy))
        migrated = run("migrate", cwd=tmp_path, settings=both)
        assert migrated.returncode == 0, migrated.stderr
        with serving(tmp_path, settings=both) as program:
            async with calling(program) as calls, under_load(calls) as ledger:
                await asyncio.sleep(1)
                await ledger.fails(asyncio.to_thread(primary.stop, at_once=True))
                await asyncio.to_thread(deputy.promote)
                await ledger.passes(back=time.monotonic())
            assert program.stop() == 0
            assert "Traceback" not in program.stderr
