"""The image of deploy/Containerfile, built and run."""

import json
import subprocess
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from session_authority import SessionClient
from tests.support.debian import network_files, run
from tests.support.postgresql import free_port
from tests.support.waiting import wait_until

pytestmark = pytest.mark.soak
NAME = "localhost/session-authority"
BASE = "localhost/base"
ADDED_MIB_LIMIT = 200
# Runs a command in a read-only root, as a user without any privilege.
_CONFINED = """
mount --bind "$1" "$1"
mount --options remount,bind,ro "$1"
mount --bind "$2" "$1/var/lib/session-authority"
mount --bind /dev "$1/dev"
exec chroot "$1" setpriv "--reuid=${3%:*}" "--regid=${3#*:}" --clear-groups --bounding-set=-all --no-new-privs \\
    env --ignore-environment --chdir="$4" "${@:5}"
"""


class Image:
    """An image in a container storage of its own."""

    def __init__(self, folder: Path) -> None:
        roots = f"--root={folder}/storage", f"--runroot={folder}/run"
        self._buildah = ("buildah", *roots, "--storage-driver=vfs")
        self._folder = folder

    def buildah(self, *arguments: str | Path) -> str:
        """Run a command of buildah, and return the last line that it prints."""
        return run(*self._buildah, *arguments).strip().rpartition("\n")[2]

    def build(self, base: Path, release: Path) -> None:
        """Build the image on the files of a root."""
        container = self.buildah("from", "scratch")
        self.buildah("add", "--quiet", container, base, "/")
        self.buildah("commit", "--quiet", "--rm", container, BASE)
        mounts = [f"{source}:{to}:ro" for source, to in network_files(self._folder).items()]
        self.buildah(
            *("build", "--isolation=chroot", "--format=docker", f"--build-arg=BASE={BASE}"),
            *(f"--volume={each}" for each in mounts),
            *(f"--file={release}/deploy/Containerfile", f"--tag={NAME}", release),
        )

    def config(self) -> dict[str, Any]:
        """Return what the image says about its processes."""
        found = json.loads(run(*self._buildah, "inspect", "--type=image", NAME))
        return dict(found["Docker"]["config"])

    def mebibytes(self, name: str) -> float:
        """Return the size of an image."""
        (found,) = json.loads(run(*self._buildah, "images", "--json", name))
        size, unit = str(found["size"]).split()
        return float(size) * {"MB": 1, "GB": 1000}[unit] * 1e6 / 2**20

    def root(self) -> Path:
        """Return the folder with the files of the image."""
        return Path(self.buildah("mount", self.buildah("from", NAME)))


@pytest.fixture(scope="module")
def image(empty_debian: Path, release: Path) -> Image:
    image = Image(empty_debian.parent)
    image.build(empty_debian, release)
    return image


class Container:
    """The files of an image, with one writable folder, and the variables of the image and of a test."""

    def __init__(self, image: Image, state: Path, **variables: str) -> None:
        self._config = image.config()
        self._root, self._state = image.root(), state
        self._variables = [*self._config["Env"], *(f"{k}={v}" for k, v in variables.items())]

    def command(self, arguments: Sequence[str]) -> list[str | Path]:
        """Return the command that runs arguments in the container."""
        place = self._root, self._state, self._config["User"], self._config["WorkingDir"]
        confined = ["unshare", "--mount", "bash", "-e", "-c", _CONFINED, "bash", *place]
        return [*confined, *self._variables, *arguments]

    def run(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            self.command(arguments), capture_output=True, text=True, timeout=120, check=False
        )

    @contextmanager
    def started(self) -> Iterator["subprocess.Popen[bytes]"]:
        """Run what the image runs by default, until SIGTERM."""
        process = subprocess.Popen(self.command(self._config["Entrypoint"] + self._config["Cmd"]))
        try:
            yield process
            process.terminate()
            assert process.wait(60) == 0
        finally:
            process.kill()
            process.wait()

    def is_healthy(self) -> bool:
        (how, *check) = self._config["Healthcheck"]["Test"]
        assert how == "CMD"
        return self.run(*check).returncode == 0


def test_a_container_serves_without_privileges_on_a_read_only_root(
    image: Image, tmp_path: Path
) -> None:
    user = image.config()["User"]
    state = tmp_path / "state"
    state.mkdir(mode=0o700)
    run("chown", user, state)
    address, metrics = (f"127.0.0.1:{free_port()}" for _ in range(2))
    container = Container(
        image,
        state,
        SESSION_AUTHORITY_LISTEN=address,
        SESSION_AUTHORITY_METRICS_LISTEN=metrics,
    )
    assert not container.is_healthy()
    with container.started() as process:
        wait_until(container.is_healthy, 60)
        status = Path(f"/proc/{process.pid}/status").read_text()
        assert f"\nUid:\t{user.partition(':')[0]}\t" in status
        assert "\nCapBnd:\t0000000000000000\n" in status
        assert "\nNoNewPrivs:\t1\n" in status
        key = (state / "session-authority.sqlite.key").read_text().strip()
        with SessionClient(address, api_key=key) as client:
            assert client.require(client.create("ada").token).user_id == "ada"
        with urllib.request.urlopen(f"http://{metrics}/metrics", timeout=60) as page:
            assert b"session_authority_" in page.read()
    assert not container.is_healthy()
    for folder in ("/", "/opt/session-authority", "/etc", "/tmp"):
        refused = container.run("touch", f"{folder}/file")
        assert "Read-only file system" in refused.stderr


def test_the_image_is_small(image: Image) -> None:
    assert image.mebibytes(NAME) - image.mebibytes(BASE) < ADDED_MIB_LIMIT
    assert not list(image.root().glob("opt/session-authority/bin/pip*"))
