import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from session_authority_server.app.event_key import event_key
from session_authority_server.app.process import CannotStart
from session_authority_server.config import Settings, load_settings

POSTGRESQL = "postgresql://127.0.0.1/authority"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load_settings(state_directory=str(tmp_path / "state"))


def test_the_operators_key_is_used(tmp_path: Path) -> None:
    settings = load_settings(event_key="k" * 32, state_directory=str(tmp_path))
    assert event_key(settings, make=True) == b"k" * 32
    assert list(tmp_path.iterdir()) == []
    assert "kkk" not in repr(settings)


def test_a_key_is_made_once_for_its_owner_alone(settings: Settings, tmp_path: Path) -> None:
    assert event_key(settings) is None

    made = event_key(settings, make=True)

    assert made is not None
    assert len(made) >= 32
    assert event_key(settings) == event_key(settings, make=True) == made
    [file] = (tmp_path / "state").iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_processes_that_make_a_key_at_once_get_the_same_key(settings: Settings) -> None:
    with ThreadPoolExecutor(1) as one, ThreadPoolExecutor(1) as other:
        first = one.submit(event_key, settings, make=True).result()
        second = other.submit(event_key, settings, make=True).result()
    assert first == second


def test_without_a_setting_and_a_state_directory_there_is_no_key() -> None:
    assert event_key(load_settings(database_url=POSTGRESQL), make=True) is None


def test_a_key_that_cannot_be_read_is_reported_with_advice(
    settings: Settings, tmp_path: Path
) -> None:
    (tmp_path / "state" / "event.key").mkdir(parents=True)
    with pytest.raises(
        CannotStart, match=r"event\.key can't be used: .*set SESSION_AUTHORITY_EVENT"
    ):
        event_key(settings, make=True)
