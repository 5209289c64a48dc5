"""History of validations and endings, and the check that no ended session was accepted.

All clocks are of one machine.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple


class Validation(NamedTuple):
    """One call of `validate`.

    Attributes:
        session: Index of the validated session in the round.
        wall_time: Wall-clock time just before the call.
        monotonic: Monotonic time just before the call.
        accepted: Whether it was accepted. None if that is unknown.
        hit: Whether the answer came from memory.
    """

    session: int
    wall_time: float
    monotonic: float
    accepted: bool | None
    hit: bool


@dataclass(frozen=True)
class Ending:
    """The answer to a call that ended a session.

    Attributes:
        way: How the session was ended.
        session: Index of the ended session in the round.
        effective: The effective time in the answer, by the wall clock. No client may accept the session after it.
        answered: Monotonic time at which the answer arrived.
    """

    way: str
    session: int
    effective: float
    answered: float


@dataclass
class Verdict:
    """Result of the check of a history.

    Attributes:
        validations: Number of validations.
        accepted: Number of accepted validations.
        hits: Number of validations accepted from memory.
        late_hits: Number of hits that began after the session had ended.
        endings: Number of endings.
        violations: Acceptances that break the promise.
    """

    validations: int = 0
    accepted: int = 0
    hits: int = 0
    late_hits: int = 0
    endings: int = 0
    violations: tuple[str, ...] = ()

    def __add__(self, other: "Verdict") -> "Verdict":
        return Verdict(
            self.validations + other.validations,
            self.accepted + other.accepted,
            self.hits + other.hits,
            self.late_hits + other.late_hits,
            self.endings + other.endings,
            self.violations + other.violations,
        )


def judge(endings: Sequence[Ending], histories: Mapping[str, Iterable[Validation]]) -> Verdict:
    """Return the violations: sessions that a client accepted after their ending.

    If a session has several endings, each of them is checked.
    """
    by_session: dict[int, list[Ending]] = {}
    for ending in endings:
        by_session.setdefault(ending.session, []).append(ending)
    verdict = Verdict(endings=len(endings))
    violations: list[str] = []
    for client, history in histories.items():
        for each in history:
            verdict.validations += 1
            if not each.accepted:
                continue
            verdict.accepted += 1
            verdict.hits += each.hit
            of_it = by_session.get(each.session, [])
            verdict.late_hits += each.hit and any(each.monotonic > e.answered for e in of_it)
            violations += [
                f"{client}: {fault}" for e in of_it if (fault := _fault(e, each)) is not None
            ]
    verdict.violations = tuple(violations)
    return verdict


def _fault(ending: Ending, validation: Validation) -> str | None:
    after = validation.wall_time - ending.effective
    if after > 0:
        return f"{_described(ending, validation)} {after:.3f} s after its effective_time"
    after = validation.monotonic - ending.answered
    if after > 0 and not validation.hit:
        return f"{_described(ending, validation)} {after:.3f} s after the answer"
    return None


def _described(ending: Ending, validation: Validation) -> str:
    source = "memory" if validation.hit else "the authority"
    return f"session {ending.session}, ended by {ending.way}, was accepted by {source}"
