"""`session-authority receivers`."""

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from session_authority import SessionClient
from session_authority_server.cli import commands
from session_authority_server.cli import receivers as command
from session_authority_server.domain.receiver import WANTABLE
from session_authority_server.store.database import Database
from session_authority_server.store.outbox import SqlOutbox
from session_authority_server.usecases import receivers as usecase
from tests.contract.reporting import WORKER
from tests.support.engines import START, migrated_sqlite
from tests.support.program import DATABASE, development_key_in, serving
from tests.support.waiting import wait_until

URL = "https://crm.example.com/secret-path?key=hidden"
SECRET = r"whsec_[A-Za-z0-9+/]{43}="
Run = Callable[..., Result]


@pytest.fixture
async def database(tmp_path: Path) -> None:
    await (await migrated_sqlite(tmp_path / DATABASE)).close()


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SESSION_AUTHORITY_DATABASE_URL", f"sqlite:///{DATABASE}")

    def run(*words: str) -> Result:
        result = CliRunner().invoke(commands, ["receivers", *words])
        assert result.exception is None or isinstance(result.exception, SystemExit), result
        assert "secret-path" not in result.output
        return result

    return run


def listed(run: Run) -> Sequence[dict[str, object]]:
    found: Sequence[dict[str, object]] = json.loads(run("list", "--json").stdout)
    return found


@pytest.mark.usefixtures("database")
def test_the_secret_of_a_receiver_is_printed_once_and_differs_after_a_rotation(run: Run) -> None:
    added = run("add", "crm", URL)
    assert added.exit_code == 0, added.output
    assert re.fullmatch(SECRET + "\n", added.stdout)
    assert re.search(
        r"The receiver crm gets events from 20\d\d-.* UTC on. Its secret:", added.stderr
    )
    rotated = run("rotate", "crm")
    assert re.fullmatch(SECRET + "\n", rotated.stdout)
    assert rotated.stdout != added.stdout
    assert "are also signed with the old secret until" in rotated.stderr
    assert run("add", "other", URL).stdout != added.stdout
    assert "whsec_" not in run("list").output + run("list", "--json").output


@pytest.mark.usefixtures("database")
def test_receivers_are_listed_without_the_paths_of_their_urls(run: Run) -> None:
    run("add", "crm", URL, "--event", "session-ended", "--event", "new-device")
    run("add", "all", URL)
    run("pause", "crm")
    table = run("list").stdout
    assert re.search(r"crm +https://crm.example.com/… +new-device, session-ended +paused +0", table)
    assert re.search(r"all +https://crm.example.com/… +all +active", table)
    first, second = listed(run)
    assert first["name"] == "crm"
    assert first["events"] == ["new-device", "session-ended"]
    assert first["origin"] == "https://crm.example.com"
    assert (first["state"], first["waiting"], first["problem"]) == ("paused", 0, "")
    assert second["events"] == sorted(each.value for each in WANTABLE)


@pytest.mark.usefixtures("database")
def test_a_receiver_is_paused_resumed_replayed_and_removed(run: Run) -> None:
    run("add", "crm", URL)
    for words, said, state in (
        (("pause", "crm"), "The receiver crm is paused. Its events wait.", "paused"),
        (("resume", "crm"), "The receiver crm gets its events again.", "active"),
        (("replay", "crm"), "0 events will be delivered to crm again.", "active"),
    ):
        result = run(*words)
        assert (result.exit_code, result.stderr) == (0, said + "\n")
        assert listed(run)[0]["state"] == state
    assert run("remove", "crm").exit_code == 0
    assert listed(run) == []


@pytest.mark.usefixtures("database")
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("pause", "crm"), "there is no receiver crm; `session-authority receivers list` shows"),
        (("add", "crm", "http://crm.example.com"), "give https; http is for localhost only"),
        (("add", "crm", URL, "--event", "test"), "'test' is not one of"),
        (("replay", "crm", "--since", "ages"), "give "),
    ],
)
def test_a_mistake_is_explained(run: Run, words: tuple[str, ...], said: str) -> None:
    result = run(*words)
    assert result.exit_code != 0
    assert said in result.stderr


@pytest.mark.usefixtures("database")
def test_without_a_key_no_receiver_is_added(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "event_key", lambda _settings, *, make: None)
    result = run("add", "crm", URL)
    assert result.exit_code == 1
    assert "set SESSION_AUTHORITY_EVENT_KEY for this command and all workers" in result.stderr


@pytest.mark.usefixtures("database")
def test_a_test_of_a_paused_receiver_is_refused(run: Run) -> None:
    run("add", "crm", URL)
    run("pause", "crm")
    result = run("test", "crm")
    assert result.exit_code == 1
    assert "crm is paused; run `session-authority receivers resume crm`" in result.stderr
    assert listed(run)[0]["waiting"] == 0


@pytest.mark.usefixtures("database")
def test_a_test_waits_for_a_worker(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    run("add", "crm", URL)
    monkeypatch.setattr(command, "TEST_SECONDS", 0)
    result = run("test", "crm")
    assert result.exit_code == 1
    assert "nothing tried it within 0 s" in result.stderr
    assert listed(run)[0]["waiting"] == 1


@pytest.mark.usefixtures("database")
@pytest.mark.parametrize(
    ("outcome", "exit_code", "said"),
    [
        ("accept", 0, "The receiver crm accepted the test event."),
        ("refuse", 1, "the test event was not delivered: answered 500"),
        ("remove", 1, "the test event was not delivered: the receiver was removed"),
    ],
)
def test_a_test_reports_the_outcome(
    run: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    outcome: str,
    exit_code: int,
    said: str,
) -> None:
    run("add", "crm", URL)
    looks: list[float] = []

    async def work(seconds: float) -> None:
        """Act as a worker instead of the first pause."""
        looks.append(seconds)
        database = Database.sqlite(tmp_path / DATABASE)
        outbox = SqlOutbox(database)
        [receiver] = await outbox.lease(WORKER, START, 60)
        receiver_id = receiver.receiver_id
        [delivery] = await outbox.due(receiver_id, receiver.create_time.replace(year=9000), 1)
        sequences = [delivery.sequence]
        if outcome == "refuse":
            await outbox.postpone(
                receiver_id, WORKER, delivery.sequence, START, "answered 500", START
            )
        else:
            await outbox.settle(receiver_id, WORKER, sequences, START)
        if outcome == "remove":
            await outbox.purge_delivered(START.replace(year=9000), 10)
        await database.close()

    monkeypatch.setattr("asyncio.sleep", work)
    result = run("test", "crm")
    assert (result.exit_code, said in result.stderr) == (exit_code, True), result.stderr
    assert len(looks) == 1
    if outcome == "refuse":
        assert re.search("answered 500", run("list").stdout)


def test_a_running_server_reports_to_a_new_receiver(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(usecase, "START_DELAY", usecase.START_DELAY * 0)
    with serving(tmp_path, asking_for_keys=True) as server:
        run("add", "crm", URL, "--event", "session-established")
        run("pause", "crm")
        with SessionClient(server.address, api_key=development_key_in(tmp_path)) as client:

            def reported() -> bool:
                client.create("ada")
                return listed(run)[0]["waiting"] != 0

            wait_until(reported)
        assert server.stop() == 0
