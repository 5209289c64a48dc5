import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import debian
from tests.support.code_blocks import ROOT
from tests.support.soak import soaked

PROGRAMS = "buildah", "debootstrap", "systemd-nspawn"


@pytest.fixture(scope="session")
def empty_debian() -> Iterator[Path]:
    """Make an empty Debian. That takes a minute, and has no short form."""
    if not soaked(True, False):
        pytest.skip("takes minutes; `make deploy` runs it")
    absent = [each for each in PROGRAMS if shutil.which(each) is None]
    if (absent or os.geteuid() != 0) and not os.environ.get("CI"):
        pytest.skip(f"needs root and {', '.join(PROGRAMS)}")
    with debian.debian_root() as root:
        yield root


@pytest.fixture(scope="session")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a folder with what a release has: the wheel in dist/, and deploy/."""
    folder = tmp_path_factory.mktemp("release")
    build = "-m", "build", "--wheel", "--no-isolation", "--outdir"
    debian.run(ROOT / ".venv-dist/bin/python", *build, folder / "dist", ROOT)
    shutil.copytree(ROOT / "deploy", folder / "deploy")
    return folder
