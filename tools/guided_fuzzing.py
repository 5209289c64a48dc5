"""Fuzz every RPC, guided by the coverage of the server's code.

    pip install --target FOLDER atheris
    PYTHONPATH=FOLDER:. .venv/bin/python -m tools.guided_fuzzing [--seconds N] [--corpus FOLDER] [INPUT ...]
    .venv/bin/python -m tools.guided_fuzzing --soak SECONDS

Only this program needs atheris. No lock file contains atheris, since few versions of Python have a build. Requests come
from the strategies of `tests/fuzz` or from the fuzzer. They go through the interceptor and the services in this
process, over a real SQLite file. The oracle of `tests/fuzz` judges the answers. The first fault ends the run and
leaves its input in a file. Give the file's name to replay it.

`--soak SECONDS` sends the requests to a server in a separate process instead. It prints the memory of that process
once the server's caches are full.
"""

import argparse
import asyncio
import contextlib
import os
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import structlog
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

try:
    import atheris

    watched = atheris.instrument_imports(include=["session_authority_server"])
except ImportError:
    atheris, watched = None, contextlib.nullcontext()

with watched:  # the coverage of these imports guides the fuzzer
    from tests.fuzz.answers import Answer, faults
    from tests.fuzz.messages import any_call
    from tests.fuzz.residents import Residents
    from tests.support.api import RPCS, Rpc
    from tests.support.program import resident_mib, serving

    from session_authority_server.app.wiring import usecase_context
    from session_authority_server.audit.log import AuditLog
    from session_authority_server.audit.output import File
    from session_authority_server.domain.clock import SystemClock
    from session_authority_server.domain.policy import Policy
    from session_authority_server.rpc.authentication import Caller, RejectedTokens, allow_every_call
    from session_authority_server.rpc.call_queue import Call, CallQueue
    from session_authority_server.rpc.dispatcher import Dispatcher
    from session_authority_server.rpc.session_admin_service import SessionAdminService
    from session_authority_server.rpc.session_service import SessionService
    from session_authority_server.store import schema
    from session_authority_server.store.database import Database
    from session_authority_server.store.sessions import SqlSessionStore

_WITHIN_SECONDS = 5.0
_REPORT_SECONDS = 20.0
_UNSERVED = Answer(grpc.StatusCode.UNIMPLEMENTED)


class InProcess:
    """The dispatcher and its services, without a host."""

    def __init__(self, folder: Path) -> None:
        self._runner = asyncio.Runner()
        clock, policy = SystemClock(), Policy()
        database = Database.sqlite(folder / "fuzzed.sqlite")
        self._runner.run(schema.migrate(database))
        audit = AuditLog(File(folder / "audit"), clock, addresses=True)
        store = SqlSessionStore(database, audit=audit)
        context = usecase_context(store, clock, policy, audit)
        rejected = RejectedTokens(clock, 0)
        self._dispatcher = Dispatcher(
            SessionService(context, rejected),
            [SessionAdminService(context)],
            allow_every_call,
            CallQueue(),
            rejected,
        )
        self._methods = {method.path: method for method in self._dispatcher.unary}

    def call(self, rpc: Rpc, body: bytes) -> Answer:
        """Answer a call as the server would."""
        if rpc.path not in self._methods:
            return _UNSERVED
        return self._runner.run(self._answer(rpc, body))

    async def _answer(self, rpc: Rpc, body: bytes) -> Answer:
        answered: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        caller = self._dispatcher.admit(rpc.path, ())
        assert isinstance(caller, Caller)
        call = Call(self._methods[rpc.path], caller, None, answered.set_result)
        self._dispatcher.take(call, body)
        async with asyncio.timeout(3 * _WITHIN_SECONDS):
            answer = await answered
        if isinstance(answer, bytes):
            return Answer(grpc.StatusCode.OK, answer)
        return Answer(answer.code, b"", answer.message, answer.trailing_metadata)


class Run:
    """Counts the calls, and prints the count and the memory of a process at intervals."""

    def __init__(self, pid: int | None = None) -> None:
        self._pid = pid or os.getpid()
        self._began = self._reported = time.monotonic()
        self.count = 0
        self.faulty = 0

    def tried(self, rpc: Rpc, body: bytes, answer: Answer) -> None:
        """Count a call, and raise an error if its answer has a fault."""
        self.count += 1
        if answer is not _UNSERVED and (found := faults(rpc, answer)):
            raise AssertionError(f"{rpc.path} of {body!r}: {found}")
        if time.monotonic() - self._reported > _REPORT_SECONDS:
            self.report()

    def report(self) -> None:
        self._reported = time.monotonic()
        seconds = self._reported - self._began
        sys.stdout.write(
            f"{seconds:6.0f} s: {self.count} calls, {self.count / seconds:.0f}/s, "
            f"{resident_mib(self._pid):.1f} MiB resident\n"
        )
        sys.stdout.flush()


def guided(seconds: int, corpus: Path, replayed: list[str]) -> None:
    """Fuzz in this process until the time is over or a fault is found."""
    if atheris is None:
        raise SystemExit("atheris is missing; see above how it is installed")
    with tempfile.TemporaryDirectory() as folder:
        authority, run = InProcess(Path(folder)), Run()
        residents = Residents(authority.call)

        def try_out(rpc: Rpc, body: bytes) -> None:
            answer = authority.call(rpc, body)
            run.tried(rpc, body, answer)
            residents.used(rpc, answer)

        @settings(database=None, deadline=None, suppress_health_check=list(HealthCheck))
        @given(any_call(residents.known))
        def made(call: tuple[Rpc, bytes]) -> None:
            try_out(*call)

        from_bytes: Any = made

        def one_input(data: bytes) -> None:
            if len(data) < 2 or data[0] % 2:
                from_bytes.hypothesis.fuzz_one_input(data[1:])
            else:
                try_out(RPCS[data[1] % len(RPCS)], data[2:])

        corpus.mkdir(exist_ok=True)
        _plant(corpus, residents)
        options = [
            f"-max_total_time={seconds}",
            "-max_len=4096",
            "-len_control=0",
            "-timeout=30",
            "-rss_limit_mb=0",
        ]
        # libFuzzer leaves the failing input in the current folder.
        atheris.Setup([sys.argv[0], *options, *(replayed or [str(corpus)])], one_input)
        with contextlib.suppress(SystemExit):
            atheris.Fuzz()
        run.report()


def _plant(corpus: Path, residents: Residents) -> None:
    """Write valid requests of every RPC as the fuzzer's first inputs."""
    chance = random.Random(1)
    for number, rpc in enumerate(RPCS):
        for copy in range(4):
            fields = []
            for field in rpc.request.fields:
                known = residents.known.values.get(field.name)
                if known and field.type == field.TYPE_STRING:
                    value = chance.choice(known)
                    fields.append(bytes([field.number << 3 | 2, len(value)]) + value)
            body = bytes([0, number]) + b"".join(fields)
            (corpus / f"{rpc.method}-{copy}").write_bytes(body)


def soak(seconds: int) -> None:
    """Send generated and mutated requests to a server, and print its memory use."""
    with tempfile.TemporaryDirectory() as folder, serving(Path(folder)) as program:
        pid = program.process.pid
        with grpc.insecure_channel(program.address) as channel:

            def call(rpc: Rpc, body: bytes) -> Answer:
                return over(channel, rpc, body)

            residents, run = Residents(call), Run(pid)
            give_up = time.monotonic() + seconds
            for rpc, body in _examples(residents):
                answer = call(rpc, body)
                served = answer.code is not grpc.StatusCode.UNIMPLEMENTED
                run.tried(rpc, body, answer if served else _UNSERVED)
                residents.used(rpc, answer)
                if time.monotonic() > give_up:
                    break
            run.report()
        if "Traceback" in program.stderr:
            raise SystemExit("the server's log has a traceback")


def _examples(residents: Residents) -> Iterator[tuple[Rpc, bytes]]:
    """Yield an endless series of calls. Hypothesis is slow, so it generates a few. Bit flips vary each of them."""
    chance = random.Random()
    made: list[tuple[Rpc, bytes]] = []

    @settings(
        max_examples=200, database=None, deadline=None, suppress_health_check=list(HealthCheck)
    )
    @given(st.lists(any_call(residents.known), min_size=5, max_size=5))
    def gather(calls: list[tuple[Rpc, bytes]]) -> None:
        made.extend(calls)

    while True:
        made.clear()
        gather()
        for rpc, body in made:
            yield rpc, body
            for _ in range(10):
                flipped = bytearray(body)
                for _ in range(chance.randint(1, 3) if flipped else 0):
                    flipped[chance.randrange(len(flipped))] = chance.randrange(256)
                yield rpc, bytes(flipped)


def over(channel: grpc.Channel, rpc: Rpc, body: bytes) -> Answer:
    """Make a call over a channel."""
    seconds = 0.05 if rpc.streams_responses else 3 * _WITHIN_SECONDS
    try:
        return Answer(grpc.StatusCode.OK, rpc.call(channel, body, timeout=seconds))
    except grpc.RpcError as error:
        failure: Any = error
        trailers = tuple((key, value) for key, value in failure.trailing_metadata() or ())
        return Answer(failure.code(), b"", failure.details(), trailers)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=int, default=300)
    parser.add_argument("--soak", type=int, default=0, metavar="SECONDS")
    parser.add_argument("--corpus", type=Path, default=Path(tempfile.gettempdir()) / "corpus")
    parser.add_argument("replayed", nargs="*", help="inputs to try again instead")
    given_arguments = parser.parse_args()
    # Otherwise a log line for each refusal would fill the output.
    structlog.configure(processors=[lambda *_: (_ for _ in ()).throw(structlog.DropEvent)])
    if given_arguments.soak:
        soak(given_arguments.soak)
    else:
        guided(given_arguments.seconds, given_arguments.corpus, given_arguments.replayed)
