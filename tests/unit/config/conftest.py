import os
from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def nothing_is_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in os.environ:
        if name.startswith("SESSION_AUTHORITY_"):
            monkeypatch.delenv(name)
