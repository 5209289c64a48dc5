"""Every request to an RPC gets a documented answer in time. Afterwards the server still answers.

`make test` sends the same requests each time. `make soak` and `tools/guided_fuzzing.py` send others.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import grpc
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.fuzz.answers import Answer, faults
from tests.fuzz.messages import Metadata, metadata, raw, structured
from tests.fuzz.residents import Residents
from tests.support.api import RPCS, Rpc, served_by
from tests.support.program import Program, development_key_in, serving
from tests.support.soak import soaked

pytestmark = [pytest.mark.both_hosts, pytest.mark.soak]

# For each RPC.
EXAMPLES = soaked(long=1_000, short=6)
EXAMPLES_OF_METADATA = soaked(long=300, short=3)
ANSWERED_WITHIN_SECONDS = 5.0  # the deadline imposed where none is sent
STREAMS_LAST_SECONDS = 0.2


def repeatable(examples: int) -> settings:
    """Return settings under which `make test` sends the same requests each time."""
    return settings(
        max_examples=examples,
        derandomize=soaked(long=False, short=True),
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate],  # shrinking a failing request takes minutes
    )


@dataclass
class Fuzzed:
    """A server that requires API keys, and a caller with a key."""

    program: Program
    channel: grpc.Channel
    key: str

    def __post_init__(self) -> None:
        self.served = served_by(self.channel)
        self.residents = Residents(self.call)

    def call(self, rpc: Rpc, body: bytes, beside: Metadata | None = None) -> Answer:
        """Make a call. Send the API key unless the metadata already has a key."""
        given = [("authorization", f"Bearer {self.key}")] if beside is None else beside
        seconds = STREAMS_LAST_SECONDS if rpc.streams_responses else 4 * ANSWERED_WITHIN_SECONDS
        try:
            return Answer(
                grpc.StatusCode.OK, rpc.call(self.channel, body, metadata=given, timeout=seconds)
            )
        except grpc.RpcError as error:
            failure: Any = error
            trailers = tuple((key, value) for key, value in failure.trailing_metadata() or ())
            return Answer(failure.code(), b"", failure.details(), trailers)

    def check(self, rpc: Rpc, body: bytes, beside: Metadata | None = None) -> Answer:
        """Make a call, and check that its answer is documented and in time."""
        started = time.monotonic()
        answer = self.call(rpc, body, beside)
        took = time.monotonic() - started
        if rpc.service in self.served:
            assert faults(rpc, answer) == []
        else:
            assert answer.code is grpc.StatusCode.UNIMPLEMENTED
        assert took < 3 * ANSWERED_WITHIN_SECONDS
        self.residents.used(rpc, answer)
        return answer


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory: pytest.TempPathFactory, host: str) -> Iterator[Fuzzed]:
    folder = tmp_path_factory.mktemp("fuzzed")
    with (
        serving(folder, asking_for_keys=True, host=host) as program,
        grpc.insecure_channel(program.address) as channel,
    ):
        key = development_key_in(folder)
        yield Fuzzed(program, channel, key)
        assert "Traceback" not in program.stderr
        assert "unforeseen" not in program.stderr
        assert program.stop() == 0


@pytest.fixture(autouse=True)
def goes_on_answering(fuzzed: Fuzzed) -> Iterator[None]:
    fuzzed.residents.renew()
    yield
    fuzzed.residents.renew()
    assert fuzzed.program.process.poll() is None


@pytest.mark.parametrize("kind", [structured, raw])
@pytest.mark.parametrize("rpc", RPCS, ids=str)
def test_every_request_gets_a_documented_answer(
    fuzzed: Fuzzed, rpc: Rpc, kind: Callable[..., st.SearchStrategy[bytes]]
) -> None:
    @repeatable(EXAMPLES)
    @given(kind(rpc, fuzzed.residents.known))
    def holds(body: bytes) -> None:
        fuzzed.check(rpc, body)

    holds()


@pytest.mark.parametrize("rpc", RPCS, ids=str)
def test_no_metadata_gets_a_call_past_the_key_check(fuzzed: Fuzzed, rpc: Rpc) -> None:
    @repeatable(EXAMPLES_OF_METADATA)
    @given(metadata(), structured(rpc, fuzzed.residents.known))
    def holds(beside: Metadata, body: bytes) -> None:
        answer = fuzzed.check(rpc, body, beside)
        assert answer.reason in ("API_KEY_MISSING", "API_KEY_INVALID", "")
        assert answer.code is not grpc.StatusCode.OK

    holds()
