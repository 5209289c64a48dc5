"""A short form of `benchmarks/run_honest_load.py`."""

import asyncio
import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from session_authority import SessionClient
from tests.support.honest_load import SHAPES, Known
from tests.support.hosts import HOSTS
from tests.support.program import Program, running, serving

_SECONDS = 0.5
_BUSY = ("python3", "-c", "while True: pass")


@pytest.fixture(scope="module", params=HOSTS)
def served(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Program, list[Known]]]:
    folder = tmp_path_factory.mktemp("honest")
    with serving(folder, settings={"SESSION_AUTHORITY_HOST": request.param}) as program:
        with SessionClient(program.address) as client:
            new = [client.create(f"user-{number}") for number in range(100)]
        yield program, [(each.token.reveal(), each.session.session_id) for each in new]


@pytest.mark.parametrize("shape", SHAPES)
def test_callers_that_wait_for_their_answers_are_never_refused(
    served: tuple[Program, list[Known]], shape: str
) -> None:
    program, sessions = served
    tally = asyncio.run(SHAPES[shape](program.address, sessions, _SECONDS))
    assert tally.failures == []
    assert tally.wrong == 0
    assert tally.right
    assert "overloaded" not in program.stderr


def test_a_busy_machine_causes_no_refusals(
    served: tuple[Program, list[Known]], tmp_path: Path
) -> None:
    program, sessions = served
    with contextlib.ExitStack() as stack:
        for _ in range(2):
            stack.enter_context(running(cwd=tmp_path, command=_BUSY))
        tally = asyncio.run(SHAPES["1 client, 256 callers"](program.address, sessions, _SECONDS))
    assert tally.failures == []
    assert tally.wrong == 0
    assert tally.right
