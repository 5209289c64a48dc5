"""Search through every schedule of the near cache's protocol within bounds, shortest first.

.venv/bin/python -m tools.near_cache_model.exploring   # prints the shortest broken schedule without each rule
"""

import sys
from collections import deque
from dataclasses import dataclass
from typing import Final

from tools.near_cache_model.protocol import Bounds, Change, Protocol, Rule, State


@dataclass(frozen=True)
class Explored:
    """Result of an exploration.

    Attributes:
        states: Number of distinct states.
        promise: The broken promise, or None.
        schedule: The shortest sequence of steps that breaks it.
    """

    states: int
    promise: str | None = None
    schedule: tuple[str, ...] = ()


def explore(protocol: Protocol) -> Explored:
    """Visit every reachable state, nearest first. Stop if the promise is broken."""
    start = State()
    came_from: dict[State, tuple[str, State] | None] = {start: None}
    next_states = deque([start])
    while next_states:
        state = next_states.popleft()
        promise = protocol.broken_promise(state)
        if promise is not None:
            return Explored(len(came_from), promise, _way_to(state, came_from))
        for name, following in protocol.steps(state):
            if following not in came_from:
                came_from[following] = (name, state)
                next_states.append(following)
    return Explored(len(came_from))


def _way_to(state: State, came_from: dict[State, tuple[str, State] | None]) -> tuple[str, ...]:
    names: list[str] = []
    step = came_from[state]
    while step is not None:
        name, earlier = step
        names.append(f"{earlier.time}: {name}")
        step = came_from[earlier]
    return tuple(reversed(names))


ONE_QUESTION: Final = Bounds(validations=1)
"""In what every change is explored. All that a second question adds is that it revalidates."""
_LEAST: Final = Bounds(streams=1, validations=1, mishaps=0)
_ONE_MISHAP: Final = Bounds(streams=1, validations=1)
_SHOWN_BY: Final = {
    Rule.CLOCK_COUNTS_SUSPEND: (Change.SESSION, _ONE_MISHAP),
    Rule.LOST_CHANNEL_CLOSES: (Change.SESSION, _ONE_MISHAP),
    Rule.LOST_STREAM_CLEARS: (Change.SESSION, ONE_QUESTION),
    Rule.SAME_GENERATION: (Change.SESSION, ONE_QUESTION),
    Rule.USER_IN_FLIGHT: (Change.USER, _LEAST),
    Rule.ALL_IN_FLIGHT: (Change.EVERYBODY, _LEAST),
    Rule.WHOLE_TOKEN: (Change.TOKEN, _LEAST),
    Rule.REVALIDATION_OBEYS: (Change.SESSION, Bounds(streams=1, validations=2, mishaps=0)),
}


def without(rule: Rule) -> Protocol:
    """Return the protocol without a rule, within the smallest bounds that show the need for the rule."""
    change, bounds = _SHOWN_BY.get(rule, (Change.SESSION, _LEAST))
    return Protocol(change, without=rule, bounds=bounds)


def main() -> None:
    """Print the results of the exploration, and a broken schedule for each left-out rule."""
    for change in Change:
        found = explore(Protocol(change, bounds=ONE_QUESTION))
        _print(f"{change.value}: {found.states:,} states, {found.promise or 'promise kept'}")
    for rule in Rule:
        protocol = without(rule)
        found = explore(protocol)
        _print(f"\n{rule.name}: {rule.value}: {found.promise} ({protocol.change.value})")
        for step in found.schedule:
            _print(f"  {step}")


def _print(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
