"""Node.js and the packages of `tests/node/package-lock.json`, which npm installs once."""

import fcntl
import hashlib
import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

_ROOT = Path(__file__).parents[2]
_PACKAGES = _ROOT / "tests" / "node"
_SECONDS = 300


def packages() -> Path:
    """Return a folder in which Node programs find their packages. Skip the test if there is no Node."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("NO NODE ON THIS MACHINE: nothing is known about programs in JavaScript")
    lock = (_PACKAGES / "package-lock.json").read_bytes()
    folder = _ROOT / "build" / f"node-{hashlib.sha256(lock).hexdigest()[:12]}"
    folder.mkdir(parents=True, exist_ok=True)
    # Several processes run tests.
    with (folder / "lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        if not (folder / "ready").exists():
            for name in ("package.json", "package-lock.json"):
                shutil.copy(_PACKAGES / name, folder)
            subprocess.run(
                ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--silent"],
                cwd=folder,
                check=True,
                timeout=_SECONDS,
            )
            (folder / "ready").touch()
    return folder


def run_node(program: Path, *arguments: str | Path, environment: Mapping[str, str]) -> str:
    """Run a program to its end, and return what it prints. A program that fails is an error."""
    folder = packages()
    # Node looks for packages beside the program.
    copy = shutil.copy(program, folder)
    done = subprocess.run(
        ["node", copy, *arguments],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=_SECONDS,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout
