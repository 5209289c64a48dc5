"""Whether time tells an unknown id from somebody else's, or an unknown token from a forged one.

    .venv/bin/python -m benchmarks.timing [--level usecases|rpc] [--engine sqlite|postgresql] [--tries N]

All arms take turns in random order, ten thousand tries each: over a socket (ten minutes, for most answers there wait),
or in this process, where there is least noise (two). There, a token whose id exists does cost more than one whose id nobody has; what evens
that out is the service (`rpc/even_time.py`), so that only the other level must not tell them apart. Differences that
are planted, an early return, a delay and a second read, show what would be found.

The tests: Mann-Whitney's on all times, and for the 5th, 25th and 50th percentile of both arms together whether
one arm has more tries below it than the other, because noise is least at the bottom (Crosby et al. 2009,
"Opportunities and Limits of Remote Timing Attacks", section 4). Holm's correction over all of a run, at 1 %.
"""

import argparse
import asyncio
import contextlib
import gc
import math
import random
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any
from uuid import UUID

import grpc
import uvloop

from benchmarks import authority, rows
from benchmarks.engines import add_engine, fresh
from session_authority.v1 import session_service_pb2 as pb
from session_authority_server import composing, opening
from session_authority_server.audit.log import AuditLog
from session_authority_server.audit.output import File
from session_authority_server.config import load_settings
from session_authority_server.domain import token as tokens
from session_authority_server.domain.clock import SystemClock
from session_authority_server.domain.errors import SessionNotFound
from session_authority_server.domain.policy import Policy
from session_authority_server.domain.token import Token
from session_authority_server.store.sql_store import SqlSessionStore
from session_authority_server.usecases.activity import Activity
from session_authority_server.usecases.validate_sessions import Validation

SIGNIFICANCE = 0.01
QUANTILES = (0.05, 0.25, 0.5)
DELAYS_MICROSECONDS = (30,)
_SESSIONS = 500

Ask = Callable[[], Awaitable[None]]


@dataclass
class Arm:
    """A way of asking, and how long each try took.

    Attributes:
        name: What is asked.
        ask: Asks once; makes up another id, or takes another session, each time.
        delay_seconds: What is planted into every try.
    """

    name: str
    ask: Callable[[], Ask]
    delay_seconds: float = 0.0

    def __post_init__(self) -> None:
        self.seconds: list[float] = []

    async def attempt(self) -> None:
        """Make one try; what it takes to make up the question is not counted."""
        asked = self.ask()
        began = time.perf_counter()
        await asked()
        if self.delay_seconds:
            until = time.perf_counter() + self.delay_seconds
            while time.perf_counter() < until:
                pass
        self.seconds.append(time.perf_counter() - began)


@dataclass(frozen=True)
class Pair:
    """Two arms that should not differ; or must be found to, where that was planted; or are known to, before the end."""

    one: Arm
    other: Arm
    planted: bool = False
    known: bool = False


@dataclass(frozen=True)
class Finding:
    """What the tests say of a pair, before it is corrected for how many tests there were."""

    pair: Pair
    p_values: Sequence[float]
    superiority: float
    superiority_error: float
    difference_seconds: float


class Questions:
    """Makes up ids and tokens: none the like of another, and the unknown ones as old as those that exist."""

    def __init__(self, sample: Sequence[tuple[str, str]]) -> None:
        self.mine, _ = sample[0]
        self._others = [UUID(session_id) for _, session_id in sample[1:]]

    def foreign_id(self) -> str:
        return str(random.choice(self._others))

    def unknown_id(self) -> str:
        return str(tokens.new_id(tokens.time_of(random.choice(self._others))))

    def forged_token(self) -> str:
        return Token(UUID(self.foreign_id()), random.randbytes(32)).encode()

    def unknown_token(self) -> str:
        return Token(UUID(self.unknown_id()), random.randbytes(32)).encode()

    def malformed_token(self) -> str:
        return self.unknown_token()[:-1] + "!"


@dataclass(frozen=True)
class Answers:
    """How to ask, at one level. Each raises where the answer is another than that nothing was found."""

    validate: Callable[[str], Awaitable[None]]
    sign_out: Callable[[str], Awaitable[None]]
    revoke: Callable[[str], Awaitable[None]]
    read_and_validate: Callable[[str], Awaitable[None]] | None = None


def pairs(answers: Answers, questions: Questions) -> list[Pair]:
    """Return what is compared."""

    def arm(
        name: str,
        ask: Callable[[str], Awaitable[None]],
        question: Callable[[], str],
        delay_microseconds: float = 0,
    ) -> Arm:
        def made() -> Ask:
            about = question()
            return lambda: ask(about)

        return Arm(name, made, delay_microseconds / 1e6)

    validate = answers.validate
    unknown = arm("ValidateSession, unknown", validate, questions.unknown_token)
    within = answers.read_and_validate is not None
    found = [
        Pair(unknown, arm("wrong secret", validate, questions.forged_token), known=within),
        Pair(
            arm("SignOut, unknown", answers.sign_out, questions.unknown_token),
            arm("wrong secret", answers.sign_out, questions.forged_token),
            known=within,
        ),
        Pair(
            arm("RevokeSession, unknown", answers.revoke, questions.unknown_id),
            arm("foreign", answers.revoke, questions.foreign_id),
        ),
    ]
    for delay in DELAYS_MICROSECONDS:
        delayed = arm(f"{delay} us more", validate, questions.unknown_token, delay)
        found.append(Pair(unknown, delayed, planted=True))
    if answers.read_and_validate is not None:
        early = arm("early return", validate, questions.malformed_token)
        twice = arm("one more read", answers.read_and_validate, questions.unknown_token)
        found += [Pair(unknown, early, planted=True), Pair(unknown, twice, planted=True)]
    return found


async def measure(found: Sequence[Pair], tries: int) -> None:
    """Try every arm as often, all of them in a new order each round."""
    arms = list({id(arm): arm for pair in found for arm in (pair.one, pair.other)}.values())
    warm_up = max(200, tries // 50)
    gc.freeze()
    for number in range(warm_up + tries):
        if number == warm_up:
            for arm in arms:
                arm.seconds.clear()
        if number % 1_000 == 0:
            print(f"{number} of {warm_up + tries} tries", file=sys.stderr, flush=True)
        random.shuffle(arms)
        for arm in arms:
            await arm.attempt()


def compare(pair: Pair) -> Finding:
    """Return what the tests say of a pair."""
    one, other = pair.one.seconds, pair.other.seconds
    superiority, error, p_value = mann_whitney(one, other)
    p_values = [p_value, *(quantile_test(one, other, share) for share in QUANTILES)]
    return Finding(pair, p_values, superiority, error, median(other) - median(one))


def mann_whitney(one: Sequence[float], other: Sequence[float]) -> tuple[float, float, float]:
    """Return how likely a try of the other takes longer than one of the one, its error, and the p-value."""
    ranked = sorted([(seconds, 0) for seconds in one] + [(seconds, 1) for seconds in other])
    rank_sum, ties, at = 0.0, 0, 0
    while at < len(ranked):
        end = at
        while end < len(ranked) and ranked[end][0] == ranked[at][0]:
            end += 1
        rank = (at + 1 + end) / 2
        rank_sum += rank * sum(arm for _, arm in ranked[at:end])
        ties += (end - at) ** 3 - (end - at)
        at = end
    m, n, total = len(one), len(other), len(ranked)
    superiority = (rank_sum - n * (n + 1) / 2) / (m * n)
    error = math.sqrt((total + 1 - ties / (total * (total - 1))) / (12 * m * n))
    return superiority, error, two_sided((superiority - 0.5) / error)


def quantile_test(one: Sequence[float], other: Sequence[float], share: float) -> float:
    """Return the p-value of as many tries of either arm lying below a quantile of both together."""
    pooled = sorted([*one, *other])
    bound = pooled[int(len(pooled) * share)]
    below = [sum(seconds < bound for seconds in arm) for arm in (one, other)]
    together = sum(below) / len(pooled)
    error = math.sqrt(together * (1 - together) * (1 / len(one) + 1 / len(other)))
    return two_sided((below[0] / len(one) - below[1] / len(other)) / error)


def two_sided(z: float) -> float:
    """Return how likely a normal variable lies as far out as this."""
    return math.erfc(abs(z) / math.sqrt(2))


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values corrected for their number (Holm 1979)."""
    corrected, worst = [1.0] * len(p_values), 0.0
    order = sorted(range(len(p_values)), key=lambda at: p_values[at])
    for number, at in enumerate(order):
        worst = max(worst, min(1.0, p_values[at] * (len(p_values) - number)))
        corrected[at] = worst
    return corrected


def judge(findings: Sequence[Finding]) -> bool:
    """Print what was found, and return whether that is what should be."""
    corrected = holm([p_value for finding in findings for p_value in finding.p_values])
    tests, good = 1 + len(QUANTILES), True
    for number, finding in enumerate(findings):
        smallest = min(corrected[number * tests : (number + 1) * tests])
        told_apart = smallest < SIGNIFICANCE
        good &= finding.pair.known or told_apart is finding.pair.planted
        verdict = "TOLD APART" if told_apart else "not told apart"
        if finding.pair.known and told_apart:
            verdict = "told apart, evened out by the service"
        if finding.pair.planted:
            verdict = "planted, found" if told_apart else "planted, NOT FOUND"
        one, other = finding.pair.one, finding.pair.other
        print(
            f"{one.name:25} {median(one.seconds) * 1e6:8.1f} us; {other.name:14} "
            f"{finding.difference_seconds * 1e6:+8.2f} us; longer in {finding.superiority:.1%} "
            f"(+-{2.58 * finding.superiority_error:.1%}), p {smallest:.2g}: {verdict}"
        )
    return good


@contextlib.asynccontextmanager
async def usecases(database: str) -> AsyncIterator[Callable[[Questions], Answers]]:
    """Ask the use-cases of this process."""
    clock, policy = SystemClock(), Policy()
    async with opening.opened(load_settings(database_url=database)) as opened:
        store = SqlSessionStore(opened)
        with tempfile.TemporaryDirectory() as folder:
            audit = AuditLog(File(Path(folder) / "audit"), clock, addresses=True)
            cases = composing.usecases(store, clock, policy, Activity(store, clock, policy), audit)

            async def validate(token: str) -> None:
                await cases.validate(Validation(token))

            async def read_and_validate(token: str) -> None:
                await store.read_sessions([UUID(int=7)])
                await cases.validate(Validation(token))

            async def sign_out(token: str) -> None:
                await cases.sign_out(token)

            def answers(questions: Questions) -> Answers:
                async def revoke(session_id: str) -> None:
                    with contextlib.suppress(SessionNotFound):
                        await cases.revoke(questions.mine, session_id)

                return Answers(validate, sign_out, revoke, read_and_validate)

            yield answers
            audit.close()


@contextlib.asynccontextmanager
async def rpc(database: str) -> AsyncIterator[Callable[[Questions], Answers]]:
    """Ask a server in a process of its own."""
    with authority.process(database) as (address, _):
        async with grpc.aio.insecure_channel(address) as channel:
            service = "/session_authority.v1.SessionService/"
            calls: dict[str, Any] = {
                name: channel.unary_unary(service + name)
                for name in ("ValidateSession", "SignOut", "RevokeSession")
            }

            async def validate(token: str) -> None:
                request = pb.ValidateSessionRequest(session_token=token)
                await calls["ValidateSession"](request.SerializeToString())

            async def sign_out(token: str) -> None:
                await calls["SignOut"](pb.SignOutRequest(session_token=token).SerializeToString())

            def answers(questions: Questions) -> Answers:
                async def revoke(session_id: str) -> None:
                    request = pb.RevokeSessionRequest(
                        session_token=questions.mine, session_id=session_id
                    )
                    try:
                        await calls["RevokeSession"](request.SerializeToString())
                    except grpc.RpcError as error:
                        if error.code() is not grpc.StatusCode.NOT_FOUND:
                            raise

                return Answers(validate, sign_out, revoke)

            yield answers


async def main(database: str, level: str, tries: int) -> bool:
    """Measure and judge."""
    sample = await asyncio.to_thread(rows.fill, database, _SESSIONS)
    questions = Questions(sample)
    async with {"usecases": usecases, "rpc": rpc}[level](database) as answers:
        found = pairs(answers(questions), questions)
        await measure(found, tries)
    return judge([compare(pair) for pair in found])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    add_engine(parser)
    parser.add_argument("--level", choices=("usecases", "rpc"), default="usecases")
    parser.add_argument("--tries", type=int, default=10_000)
    given = parser.parse_args()
    with (
        fresh(given.engine, "timing", leave_a_core=given.level == "rpc") as [url],
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        good = runner.run(main(url, given.level, given.tries))
    sys.exit(0 if good else 1)
