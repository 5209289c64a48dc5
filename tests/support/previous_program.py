"""The program before the newest migration, from the history of this repository."""

import io
import os
import subprocess
import sys
import tarfile
from collections.abc import Sequence
from pathlib import Path

import pytest
from alembic.script import Script, ScriptDirectory

from session_authority_server.store import schema

_ROOT = Path(__file__).parents[2]
_PACKAGES = ("client", "server", "workers")


def previous_revision() -> str:
    """Return the version of the schema before the newest migration."""
    script = _newest()
    assert isinstance(script.down_revision, str)
    return script.down_revision


def previous_program(folder: Path) -> tuple[Sequence[str], dict[str, str]]:
    """Unpack the program as it was before the newest migration. Return its command and environment.

    The test is skipped without the history, as in a shallow clone.
    """
    commit = _commit_before(Path(_newest().path).name)
    if commit is None:
        pytest.skip("the history of this repository is missing; fetch it: git fetch --unshallow")
    archive = _git("archive", commit, *_PACKAGES).stdout
    with tarfile.open(fileobj=io.BytesIO(archive)) as packed:
        packed.extractall(folder, filter="data")
    start = "from session_authority_server.cli import main; main()"
    paths = os.pathsep.join(str(folder / package) for package in _PACKAGES)
    return (sys.executable, "-c", start), {"PYTHONPATH": paths}


def _newest() -> Script:
    scripts = ScriptDirectory.from_config(schema.configuration())
    head = scripts.get_current_head()
    assert head is not None
    return scripts.get_revision(head)


def _commit_before(migration: str) -> str | None:
    """Return the parent of the commit that added a migration; HEAD if it is not committed; None if absent."""
    added = _git("log", "--diff-filter=A", "--format=%H", "--", f"*/versions/{migration}")
    if added.returncode:
        return None
    commits = added.stdout.decode().split()
    before = _git("rev-parse", "--verify", "--quiet", f"{commits[-1]}^" if commits else "HEAD")
    return before.stdout.decode().strip() or None


def _git(*arguments: str) -> "subprocess.CompletedProcess[bytes]":
    return subprocess.run(["git", *arguments], cwd=_ROOT, capture_output=True, check=False)
