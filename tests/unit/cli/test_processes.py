import pytest

from session_authority_server.app.process import CannotStart
from session_authority_server.app.serving import ServeOptions
from session_authority_server.cli.processes import assignments, metrics_listen
from session_authority_server.config import load_settings


@pytest.mark.parametrize("worker", [True, False])
def test_only_the_first_process_runs_the_worker(worker: bool) -> None:
    given = assignments(
        load_settings(processes=3, listen="127.0.0.1:0", metrics_listen="127.0.0.1:9000"),
        "127.0.0.1:50551",
        ServeOptions(worker=worker, insecure=True),
    )
    assert [each.number for each in given] == [0, 1, 2]
    assert [each.options.worker for each in given] == [worker, False, False]
    assert all(each.options.insecure and each.options.share_port for each in given)
    assert {each.settings.listen for each in given} == {"127.0.0.1:50551"}
    assert [each.settings.metrics_listen[-4:] for each in given] == ["9000", "9001", "9002"]


@pytest.mark.parametrize(
    ("address", "number", "expected"),
    [
        ("", 3, ""),
        ("127.0.0.1:9000", 0, "127.0.0.1:9000"),
        ("[::1]:9000", 3, "[::1]:9003"),
        ("127.0.0.1:0", 3, "127.0.0.1:0"),
        ("127.0.0.1:65532", 3, "127.0.0.1:65535"),
    ],
)
def test_each_process_serves_its_metrics_on_a_separate_port(
    address: str, number: int, expected: str
) -> None:
    assert metrics_listen(load_settings(metrics_listen=address), number) == expected


def test_metrics_ports_beyond_65535_are_refused() -> None:
    with pytest.raises(CannotStart, match="65535; set SESSION_AUTHORITY_METRICS_LISTEN"):
        metrics_listen(load_settings(metrics_listen="127.0.0.1:65533"), 3)
