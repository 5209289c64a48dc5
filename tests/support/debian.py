"""An empty Debian made by debootstrap, and a machine that boots one under systemd, in namespaces of its own."""

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

RELEASE = "trixie"
SECONDS = 300
_CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
_LISTENS = "/run/systemd/private"  # where systemctl asks process 1
_PIP_SETTINGS = "[global]\ncert = /etc/host-certificates.crt\n"


@contextmanager
def debian_root() -> Iterator[Path]:
    """Make the root of an empty Debian, for as long as the context lasts."""
    # On a disk, since /tmp may be in memory. `rm` removes what other users of the root own.
    folder = Path(tempfile.mkdtemp(prefix="session-authority-", dir="/var/tmp"))
    try:
        run("debootstrap", "--variant=minbase", RELEASE, folder / "debian")
        shutil.rmtree(folder / "debian/var/cache/apt/archives")
        yield folder / "debian"
    finally:
        run("rm", "--recursive", "--force", "--one-file-system", folder)


def network_files(folder: Path) -> dict[Path, str]:
    """Return files that pip needs where the network has certificates of its own, and their paths in a root."""
    if not _CERTIFICATES.exists():
        return {}
    settings = folder / "pip.conf"
    settings.write_text(_PIP_SETTINGS)
    return {_CERTIFICATES: "/etc/host-certificates.crt", settings: "/etc/pip.conf"}


def run(*command: str | Path, said: str = "", seconds: float = SECONDS) -> str:
    """Run a command that must succeed, and return what it prints."""
    done = subprocess.run(
        command,
        input=said,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=seconds,
        check=False,
        env=os.environ | {"DEBIAN_FRONTEND": "noninteractive"},
    )
    assert done.returncode == 0, f"{command}: {done.stdout}"
    return done.stdout


class Machine:
    """A booted Debian. It shares only the network and the kernel with this machine."""

    def __init__(self, leader: int) -> None:
        self._leader = leader

    def shell(self, script: str) -> str:
        """Run a script of bash as root, and return what it prints. At its first error, fail and show the journal."""
        path = "PATH=/usr/local/bin:/usr/sbin:/usr/bin"
        return run(
            *("nsenter", f"--target={self._leader}", "--all", "--root", "--wdns=/root"),
            *("env", "--ignore-environment", path, "HOME=/root"),
            *("bash", "-e", "-o", "pipefail", "-s"),
            said=f"trap 'journalctl --no-pager --lines 100' ERR\n{script}",
        )


@contextmanager
def booted(root: Path) -> Iterator[Machine]:
    """Install systemd in a root, and boot it."""
    options = ("--quiet", "--register=no", "--keep-unit", "--directory", root)
    install = "apt-get update && apt-get install --yes systemd-sysv"
    run("systemd-nspawn", *options, "--pipe", "bash", "-c", install)
    process = subprocess.Popen(
        ["systemd-nspawn", *options, "--console=read-only", "--boot"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        machine = Machine(_first_process(process))
        machine.shell("systemctl is-system-running --wait")
        yield machine
    finally:
        # Without its process 1, the kernel ends the whole machine.
        for pid in [*_descendants(process.pid), process.pid]:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait()


def _first_process(machine: "subprocess.Popen[bytes]") -> int:
    """Wait for process 1 of a machine, and return its id here."""
    give_up = time.monotonic() + 120
    while time.monotonic() < give_up:
        assert machine.poll() is None, "the machine has stopped"
        for pid in _descendants(machine.pid):
            status = Path(f"/proc/{pid}/status").read_text()
            if f"\nNSpid:\t{pid}\t1\n" in status and Path(f"/proc/{pid}/root{_LISTENS}").exists():
                return pid
        time.sleep(0.1)
    raise AssertionError("the machine did not boot")


def _descendants(pid: int) -> Iterator[int]:
    children = Path(f"/proc/{pid}/task/{pid}/children")
    for child in children.read_text().split() if children.exists() else ():
        yield int(child)
        yield from _descendants(int(child))
