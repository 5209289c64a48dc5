import os
import sys
from pathlib import Path

import pytest

from session_authority import SessionClient
from tests.integration.program import serving


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells threads apart")
def test_the_threads_of_connections_stand_back_for_the_one_that_answers(tmp_path: Path) -> None:
    with serving(tmp_path) as program, SessionClient(program.address) as client:
        assert client.validate(client.create("ada").token)
        tasks = Path(f"/proc/{program.process.pid}/task")
        niceness = {
            (task / "comm").read_text().strip(): os.getpriority(os.PRIO_PROCESS, int(task.name))
            for task in tasks.iterdir()
        }
        answering = os.getpriority(os.PRIO_PROCESS, program.process.pid)
    assert niceness["event_engine"] > answering
