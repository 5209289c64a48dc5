"""The checker of event deliveries: compares what a receiver got with what the database committed."""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Committed:
    """An event that a transaction committed, in the order of the outbox.

    Attributes:
        event_id: Its id.
        user_id: Its user.
        kind: Its type.
        session_id: Its session; empty for a sweep.
        time: The time of a sweep; empty for other events.
    """

    event_id: str
    user_id: str
    kind: str
    session_id: str
    time: str = ""


@dataclass
class Truth:
    """The content of the database, and the answers that clients got.

    Attributes:
        events: The events of the outbox, in order.
        sessions: The ids of all sessions.
        ended: The user and the end time of each session whose ending is recorded, by the id of the session.
        answered: How often clients got the answer that something happened, by type and by session or user.
    """

    events: Sequence[Committed]
    sessions: Set[str]
    ended: Mapping[str, tuple[str, str]]
    answered: Mapping[tuple[str, str], int] = field(default_factory=dict)


def arrivals(lines: Sequence[str]) -> Sequence[str]:
    """Return the ids of the events that arrived, in order. A line that a crash cut short was not accepted."""
    found = []
    for line in lines:
        event_id, _, body = line.partition(" ")
        try:
            json.loads(body)
        except ValueError:
            continue
        found.append(event_id)
    return found


def check_replay(arrived: Sequence[str], events: Sequence[Committed]) -> None:
    """Check that a replay left no gap.

    Repetitions that were under way when the replay began come among its events, so their order shows nothing.
    """
    missing = {each.event_id for each in events} - set(arrived)
    assert not missing, "the replay left a gap"


def check_arrivals(arrived: Sequence[str], events: Sequence[Committed]) -> None:
    """Check that each committed event arrived, and no other, and that the events of each user came in order."""
    first = list(dict.fromkeys(arrived))
    committed = {each.event_id for each in events}
    assert not set(first) - committed, "an event arrived that was rolled back"
    assert not committed - set(first), "a committed event did not arrive"
    position = {event_id: number for number, event_id in enumerate(first)}
    latest: dict[str, Committed] = {}
    for each in events:
        before = latest.get(each.user_id, each)
        assert position[before.event_id] <= position[each.event_id], f"{before} came after {each}"
        latest[each.user_id] = each


def check_events(truth: Truth) -> None:
    """Check that the events tell what the database and the answers tell."""
    counts: defaultdict[tuple[str, str], int] = defaultdict(int)
    for each in truth.events:
        counts[each.kind, each.session_id or each.user_id] += 1
    established = {name for kind, name in counts if kind == "session-established"}
    ended = {name for kind, name in counts if kind == "session-ended"}
    assert established == truth.sessions, "events of sign-ins and sessions differ"
    assert not ended - truth.ended.keys(), "an ending that has an event is not recorded"
    # The worker also records the endings of swept sessions, which have no event of their own.
    sweeps = {(each.user_id, each.time) for each in truth.events if each.kind == "sessions-swept"}
    silent = {how for session_id, how in truth.ended.items() if session_id not in ended}
    assert not silent - sweeps, "a recorded ending has no event"
    for (kind, _), count in counts.items():
        assert count == 1 or kind in ("sessions-swept", "reauthenticated"), (
            "an event is there twice"
        )
    for what, count in truth.answered.items():
        assert counts[what] >= count, f"an answered {what[0]} has no event"
