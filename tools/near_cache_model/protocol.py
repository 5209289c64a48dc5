"""The protocol of the near cache as a small state machine. `exploring` checks its promise in every schedule.

One session ends once, in one of four ways. A client with a near cache follows a stream of one server; the change
is committed through another server. Every step may take any time: commits, answers, the channel between the servers,
both directions of the stream, and the client's own calls. Streams and channels break, and clients sleep.

The promise: the client accepts the session neither after the answered `effective_time` nor after its expiry.

Each rule of the protocol can be left out, to show that it is needed.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Final, NamedTuple

LEASE = 2
"""How many steps of time a lease lasts."""
SKEW = 2
"""How many steps the clock that compares with `effective_time` is ahead of the database's."""
END_OF_TIME = 4
EXPIRY = 4
"""When the session ends by itself."""


class Change(Enum):
    """The way in which the session ends. It decides the message on the channel."""

    SESSION = "a session is ended"
    USER = "all sessions of a user are ended"
    EVERYBODY = "everybody's sessions are ended"
    TOKEN = "a session gets another token"


class Rule(Enum):
    """Rules that the protocol depends on. Each value describes the protocol without that rule."""

    LEASE = "hits are served without a lease"
    LEASE_FROM_SENDING = "the lease counts from the pong, not from when its ping was sent"
    SERVERS_LEASE = "the client takes a longer lease than the server's"
    CLOCK_COUNTS_SUSPEND = "the client's clock stands still while it sleeps"
    BARRIER = "a ping is answered at once, without a round trip through the channel"
    REGISTERED_FIRST = "a ping is answered before the stream is registered"
    EVICT_BEFORE_PONG = "a pong overtakes the evictions before it"
    SLOW_STREAM_CLOSED = "an eviction that a stream has no room for is skipped"
    LOST_CHANNEL_CLOSES = "a server that loses the channel keeps its streams"
    LOST_STREAM_CLEARS = "a lost stream leaves the cache as it is"
    SENT_AFTER_FIRST_PONG = "an answer is kept although it was asked for before the first pong"
    SAME_GENERATION = "an answer is kept although its stream is another's by now"
    SESSION_IN_FLIGHT = "an answer is kept although its session was evicted meanwhile"
    USER_IN_FLIGHT = "an answer is kept although its user was evicted meanwhile"
    ALL_IN_FLIGHT = "an answer is kept although everybody was evicted meanwhile"
    REVALIDATION_OBEYS = "a background revalidation puts back what was evicted meanwhile"
    WHOLE_TOKEN = "entries are found by the session's id, whatever the token"
    OWN_EXPIRY = "an entry outlives its session's own expiry"
    JOINS_ONLY_UNSENT = "a call takes the answer to a question that was sent before it began"
    EFFECTIVE_AFTER_COMMIT = "effective_time is taken before the commit"
    MARGIN_COVERS_SKEW = "effective_time has no margin for a clock that is ahead"


IN_FLIGHT: Final = {
    Change.SESSION: Rule.SESSION_IN_FLIGHT,
    Change.TOKEN: Rule.SESSION_IN_FLIGHT,
    Change.USER: Rule.USER_IN_FLIGHT,
    Change.EVERYBODY: Rule.ALL_IN_FLIGHT,
}


@dataclass(frozen=True)
class Bounds:
    """Limits of the exploration.

    Attributes:
        pings: Maximum number of pings.
        streams: Maximum number of streams.
        validations: Maximum number of validations.
        mishaps: Maximum number of failures and sleeps of the client.
    """

    pings: int = 2
    streams: int = 2
    validations: int = 2
    mishaps: int = 1


class Validation(NamedTuple):
    """A validation in flight.

    Attributes:
        generation: Number of the stream that was open when it was sent.
        after_pong: Whether that stream had received its first pong.
        new_token: Whether it asks about the new token of a re-authentication.
        revalidates: Whether it asks about the cached session.
        evicted: Whether an eviction arrived since.
        live: Whether the store found the session live; None until the store is read.
        joined: Time at which another call joined it; -1 if no call did.
    """

    generation: int
    after_pong: bool
    new_token: bool
    revalidates: bool
    evicted: bool = False
    live: bool | None = None
    joined: int = -1


class State(NamedTuple):
    """State of the client, the server, the store and the links.

    Attributes:
        time: The true time.
        begun: Time at which the ending began, if the rules depend on it; -1 before.
        committed: Whether it has been committed.
        effective: The effective_time of the ending; -1 until it is answered.
        channel: Messages in flight from the store to the client's server: EVICT, or the number of the stream
            whose barrier was sent.
        channel_lost: Whether the channel from the store is broken.
        streams: How many streams the client has opened.
        follows: Whether the client believes that its stream is open.
        open: Whether that stream still exists on the server.
        registered: Whether the server sends evictions on that stream.
        pings: How many pings have been sent.
        sent: Time of the unanswered ping; -1 if there is none.
        uplink: Whether that ping is in flight.
        downlink: Messages in flight to the client: EVICT or PONG.
        lease_until: End of the lease, by the client's clock; -1 before the first pong of the stream.
        entry: Whether the session is in the cache: 1 under its first token, 2 under its second.
        validation: The client's validation in flight.
        validations: How many were sent.
        asleep: Whether the client sleeps.
        lost_time: How long the client's clock has stood still.
        mishaps: Number of failures and sleeps so far.
    """

    time: int = 0
    begun: int = -1
    committed: bool = False
    effective: int = -1
    channel: tuple[int, ...] = ()
    channel_lost: bool = False
    streams: int = 0
    follows: bool = False
    open: bool = False
    registered: bool = False
    pings: int = 0
    sent: int = -1
    uplink: bool = False
    downlink: tuple[int, ...] = ()
    lease_until: int = -1
    entry: int = 0
    validation: Validation | None = None
    validations: int = 0
    asleep: bool = False
    lost_time: int = 0
    mishaps: int = 0

    @property
    def clock(self) -> int:
        """Return the time on the client's clock."""
        return self.time - self.lost_time


EVICT: Final = 0  # a message on the channel, where other messages are numbers of streams, from 1
PONG: Final = 1
Step = tuple[str, State]


@dataclass(frozen=True)
class Protocol:
    """The state machine.

    Attributes:
        change: The way in which the session ends.
        without: The rule that is left out, if any.
        bounds: Limits of the exploration.
    """

    change: Change
    without: Rule | None = None
    bounds: Bounds = Bounds()

    def broken_promise(self, state: State) -> str | None:
        """Return the description of a wrong acceptance, or None."""
        usable = state.entry and (self._lacks(Rule.LEASE) or state.clock < state.lease_until)
        if not usable:
            return None
        if state.time >= EXPIRY and (self._lacks(Rule.OWN_EXPIRY) or state.clock < EXPIRY):
            return "accepted after its expiry"
        dead = self.change is not Change.TOKEN or state.entry == 1 or self._lacks(Rule.WHOLE_TOKEN)
        # The client reads its cache while its clock is before the end of the lease.
        if dead and 0 <= state.effective < state.time + SKEW:
            if state.clock >= EXPIRY and not self._lacks(Rule.OWN_EXPIRY):
                return None
            return "accepted after its effective_time"
        return None

    def steps(self, state: State) -> Iterator[Step]:
        """Yield all possible next steps."""
        yield from self._of_time(state)
        yield from self._of_the_ending(state)
        yield from self._of_the_server(state)
        if not state.asleep:
            yield from self._of_the_client(state)
            yield from self._of_validation(state)

    def _lacks(self, rule: Rule) -> bool:
        return rule is self.without

    def _of_time(self, s: State) -> Iterator[Step]:
        if s.time < END_OF_TIME:
            missed = s.asleep and self._lacks(Rule.CLOCK_COUNTS_SUSPEND)
            yield "time passes", s._replace(time=s.time + 1, lost_time=s.lost_time + missed)
        # Any party may pause in any schedule. Sleep differs only in that the client's clock stands still.
        if s.asleep:
            yield "the client wakes up", s._replace(asleep=False)
        elif self._lacks(Rule.CLOCK_COUNTS_SUSPEND) and s.mishaps < self.bounds.mishaps:
            yield "the client falls asleep", s._replace(asleep=True, mishaps=s.mishaps + 1)

    def _of_the_ending(self, s: State) -> Iterator[Step]:
        if s.begun < 0 and self._lacks(Rule.EFFECTIVE_AFTER_COMMIT):
            yield "the ending begins, and takes the time", s._replace(begun=s.time)
        elif not s.committed:
            channel = s.channel if s.channel_lost else (*s.channel, EVICT)
            yield f"{self.change.value} (committed)", s._replace(committed=True, channel=channel)
        elif s.effective < 0:
            since = s.begun if self._lacks(Rule.EFFECTIVE_AFTER_COMMIT) else s.time
            margin = 0 if self._lacks(Rule.MARGIN_COVERS_SKEW) else SKEW
            yield "the ending is answered", s._replace(effective=since + LEASE + margin)

    def _of_the_server(self, s: State) -> Iterator[Step]:
        if s.open and not s.registered:
            yield "the server registers the stream", s._replace(registered=True)
        if s.open and s.uplink and (s.registered or self._lacks(Rule.REGISTERED_FIRST)):
            if self._lacks(Rule.BARRIER):
                yield "the server answers a ping", _down(s._replace(uplink=False), PONG)
            elif not s.channel_lost:
                barrier = s._replace(uplink=False, channel=(*s.channel, s.streams))
                yield "the server sends a ping through the channel", barrier
        if s.channel:
            yield from self._arrivals(s._replace(channel=s.channel[1:]), s.channel[0])
        if s.open and s.mishaps < self.bounds.mishaps:
            yield "the stream breaks", _broken(s)
        if not s.channel_lost and s.mishaps < self.bounds.mishaps:
            lost = s._replace(channel_lost=True, channel=(), mishaps=s.mishaps + 1)
            if not self._lacks(Rule.LOST_CHANNEL_CLOSES):
                lost = _broken(lost)
            yield "the server loses the channel", lost
        if s.channel_lost:
            yield "the server has the channel again", s._replace(channel_lost=False)

    def _arrivals(self, s: State, what: int) -> Iterator[Step]:
        if what != EVICT:
            if not s.open or what != s.streams:
                yield "a barrier of a stream that is gone arrives", s
            elif self._lacks(Rule.EVICT_BEFORE_PONG):
                yield (
                    "a barrier arrives; its pong is first",
                    s._replace(downlink=(PONG, *s.downlink)),
                )
            else:
                yield "a barrier arrives; its pong is put on the stream", _down(s, PONG)
        elif not (s.open and s.registered):
            yield "the change arrives where no stream is registered", s
        else:
            yield "the change arrives and is put on the stream", _down(s, EVICT)
            if self._lacks(Rule.SLOW_STREAM_CLOSED):
                yield "the change arrives and is skipped", s
            elif s.mishaps < self.bounds.mishaps:
                yield "the change arrives; the stream has no room and is closed", _broken(s)

    def _of_the_client(self, s: State) -> Iterator[Step]:
        if not s.follows and s.streams < self.bounds.streams:
            opened = s._replace(streams=s.streams + 1, follows=True, open=not s.channel_lost)
            yield "the client opens a stream", opened
        if s.follows and s.sent < 0 and s.pings < self.bounds.pings:
            yield "the client pings", s._replace(pings=s.pings + 1, sent=s.clock, uplink=s.open)
        if s.follows and not s.open:
            yield "the client notices that its stream is lost", self._lost(s)
        if s.downlink:
            yield self._receive(s._replace(downlink=s.downlink[1:]), s.downlink[0])

    def _lost(self, s: State) -> State:
        keeps = self._lacks(Rule.LOST_STREAM_CLEARS)
        return s._replace(
            follows=False,
            registered=False,
            sent=-1,
            uplink=False,
            downlink=(),
            lease_until=-1,
            entry=s.entry if keeps else 0,
        )

    def _receive(self, s: State, what: int) -> Step:
        if what == EVICT:
            obeys = not self._lacks(IN_FLIGHT[self.change])
            asked = s.validation
            if asked is not None and asked.revalidates:
                obeys = obeys and not self._lacks(Rule.REVALIDATION_OBEYS)
            if asked is not None and obeys:
                asked = asked._replace(evicted=True)
            return "the client evicts", s._replace(entry=0, validation=asked)
        lease = LEASE + 2 * self._lacks(Rule.SERVERS_LEASE)
        since = s.clock if self._lacks(Rule.LEASE_FROM_SENDING) else s.sent
        return "the client gets a pong", s._replace(lease_until=since + lease, sent=-1)

    def _of_validation(self, s: State) -> Iterator[Step]:
        asked = s.validation
        if asked is None:
            if s.validations < self.bounds.validations:
                for new_token in (False, True) if self.change is Change.TOKEN else (False,):
                    question = Validation(
                        s.streams, s.follows and s.lease_until >= 0, new_token, bool(s.entry)
                    )
                    sent = s._replace(validation=question, validations=s.validations + 1)
                    yield "the client asks" + (" about the new token" * new_token), sent
            return
        if asked.live is None:
            yield (
                "the store is read",
                s._replace(validation=asked._replace(live=self._live(s, asked))),
            )
        else:
            yield self._answer(s._replace(validation=None), asked)
        if self._lacks(Rule.JOINS_ONLY_UNSENT) and asked.joined < 0:
            joined = asked._replace(joined=s.time)
            yield "another call waits for the same answer", s._replace(validation=joined)

    def _live(self, s: State, asked: Validation) -> bool:
        if s.time >= EXPIRY:
            return False
        if self.change is Change.TOKEN:
            return s.committed if asked.new_token else not s.committed
        return not s.committed

    def _answer(self, s: State, asked: Validation) -> Step:
        if asked.live and 0 <= s.effective < asked.joined + SKEW and not asked.new_token:
            # The joined call began after effective_time, and was just answered "live".
            return "the answer arrives", s._replace(entry=1, lease_until=END_OF_TIME + 9)
        keep = (
            asked.live
            and not asked.evicted
            and s.follows
            and (asked.after_pong or self._lacks(Rule.SENT_AFTER_FIRST_PONG))
            and (asked.generation == s.streams or self._lacks(Rule.SAME_GENERATION))
        )
        if not keep:
            return "the answer arrives and is not kept", s
        return "the answer arrives and is kept", s._replace(entry=1 + asked.new_token)


def _down(s: State, what: int) -> State:
    return s._replace(downlink=(*s.downlink, what))


def _broken(s: State) -> State:
    """Return a state with a broken stream that the client has not noticed yet.

    Messages already in flight may still arrive, in order, until the client notices.
    """
    return s._replace(open=False, registered=False, uplink=False, mishaps=s.mishaps + 1)
