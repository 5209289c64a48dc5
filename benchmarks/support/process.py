"""Starts the processes of benchmarks, and measures their CPU and memory."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

SERVER_CORE = 0
LOAD_CORE = 1
_END_SECONDS = 20


@contextlib.contextmanager
def started(
    command: Sequence[str | Path],
    *,
    core: int | None = SERVER_CORE,
    environment: Mapping[str, str] | None = None,
    folder: Path | None = None,
    output: int = subprocess.PIPE,
) -> Iterator["subprocess.Popen[str]"]:
    """Run a program on one core until the context ends."""
    process = subprocess.Popen(
        command,
        stdout=output,
        stderr=subprocess.DEVNULL,
        text=True,
        cwd=folder,
        env=os.environ | (environment or {}),
    )
    try:
        if core is not None:
            pin(process.pid, core)
        yield process
    finally:
        process.terminate()
        try:
            process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def pin(pid: int, core: int) -> None:
    """Pin a process and its threads to one core, if the machine has several. Process id 0 is this process."""
    if (os.cpu_count() or 1) > 1:
        for thread in Path(f"/proc/{pid or os.getpid()}/task").iterdir():
            os.sched_setaffinity(int(thread.name), {core})


def cpu_seconds(pid: int) -> float:
    """Return the CPU time of a process, in seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def cpu_seconds_of_all(pids: Iterable[int]) -> float:
    """Return the CPU time of processes and their descendants, in seconds."""
    total = 0.0
    for pid in pids:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            # The parent's figure includes descendants that have ended.
            fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
            total += sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")
            total += cpu_seconds_of_all(_children(pid))
    return total


def _children(pid: int) -> Iterator[int]:
    for thread in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            yield from map(int, (thread / "children").read_text().split())


def resident_mib(pid: int) -> float:
    """Return the resident memory of a process, in MiB."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


@contextlib.contextmanager
def busy_loops(count: int) -> Iterator[None]:
    """Run endless loops that compete for the CPU."""
    loop = (sys.executable, "-c", "while True: pass")
    with contextlib.ExitStack() as stack:
        for _ in range(count):
            stack.enter_context(started(loop, core=None, output=subprocess.DEVNULL))
        yield
