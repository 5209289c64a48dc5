"""Warnings about the receivers of events."""

from collections.abc import Iterator

from session_authority_server.check.facts import Facts
from session_authority_server.check.requirement import CheckWarning
from session_authority_server.domain.receiver import ReceiverState


def receivers_lack_events(facts: Facts) -> Iterator[CheckWarning]:
    """Warn of receivers that are parked or lost events, and of events that no worker can sign."""
    receivers = () if facts.contents is None else facts.contents.receivers
    for receiver in receivers:
        where = f"receiver {receiver.name}"
        if receiver.state is ReceiverState.PARKED:
            yield CheckWarning(
                "receiver-parked",
                where,
                f"its deliveries failed for days, so its events wait: {receiver.problem}",
                f"mend it, then run: session-authority receivers resume {receiver.name}",
            )
        if receiver.dropped:
            yield CheckWarning(
                "events-dropped",
                where,
                f"{receiver.dropped:,} of its events were dropped, because too many waited",
                "mend it, let it read the state of its users again, then remove it and add it again",
            )
    if receivers and not facts.has_event_key:
        yield CheckWarning(
            "no-event-key",
            "SESSION_AUTHORITY_EVENT_KEY",
            "no worker with these settings can sign events, so none are delivered",
            "set it to the value with which the receivers were added, the same for all workers",
        )
