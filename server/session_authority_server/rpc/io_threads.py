import contextlib
import os
from pathlib import Path

_NAMES = frozenset(("event_engine", "lifeguard"))
_NICENESS = 12


def yield_to_the_loop() -> None:
    """Have gRPC's own threads, those that read and write connections, stand back for the event loop's.

    Where they share a core, a flood of calls would otherwise have them read and refuse for most of the time,
    and the loop would hardly get to answer the calls that were taken on. What they don't read in time, the
    network holds back. Only Linux tells threads apart; elsewhere nothing changes.
    """
    for task in Path("/proc/self/task").glob("*"):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            if (task / "comm").read_text().strip() in _NAMES:
                os.setpriority(os.PRIO_PROCESS, int(task.name), _NICENESS)
