import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence

from session_authority_server.domain.changes import Changes
from session_authority_server.domain.errors import AuthorityError
from session_authority_server.observability.metrics import (
    WATCH_BARRIER_SECONDS,
    WATCH_EVICTIONS,
    WATCH_INTERRUPTIONS,
    WATCH_MESSAGES,
    WATCH_STREAMS,
)
from session_authority_server.watch.barrier import Barrier
from session_authority_server.watch.channel import Channel
from session_authority_server.watch.group import Group
from session_authority_server.watch.interrupted import Cause, TooManyStreams, WatchInterrupted
from session_authority_server.watch.stream import Stream

TICK_SECONDS = 0.05
# How many streams are told of changes in one tick. A message costs some 30 us: to tell a thousand of them in every
# tick would leave nothing for validations.
GROUP_LIMIT = 100
STREAMS_LIMIT = 10 * GROUP_LIMIT
# Beyond so many names in one message, everybody is meant: it stays below 128 KiB, or 512 of user ids.
NAMES_LIMIT = 2_000
SILENCE_SECONDS = 30.0

_log = logging.getLogger(__name__)

EncodeChanges = Callable[[Changes], bytes]
EncodePong = Callable[[int], bytes]


class Hub:
    """Tells every stream of every change, and answers its pings once it has been told of all (`Receiver`).

    What is to be said goes out in ticks, to one group of streams in each where there are many: first the changes,
    as one message for all of the group, and then the pongs. Whoever asks to join while no changes come through
    may, and gets no pong until they do.

    Attributes:
        open_streams: How many there are, with those that have ended but whose callers have yet to hear of it.
    """

    def __init__(
        self,
        channel: Channel,
        encode_changes: EncodeChanges,
        encode_pong: EncodePong,
        monotonic: Callable[[], float],
    ) -> None:
        """Begin with the channel down.

        Args:
            channel: What changes come through, and probes.
            encode_changes: Gives the message that tells of changes.
            encode_pong: Gives the message that answers a ping.
            monotonic: Tells the seconds since some moment.
        """
        self._channel = channel
        self._encode_changes = encode_changes
        self._encode_pong = encode_pong
        self._monotonic = monotonic
        self._barrier = Barrier()
        # In the order in which they are to have their turn.
        self._groups = deque(Group() for _ in range(STREAMS_LIMIT // GROUP_LIMIT))
        self._group_of: dict[Stream, Group] = {}
        self.open_streams = 0
        self._is_up = False
        self._draining = False
        self._probed_at = 0.0
        self._wanted = asyncio.Event()

    @property
    def streams(self) -> Sequence[Stream]:
        """Those who watch."""
        return tuple(self._group_of)

    def join(self) -> Stream:
        """Return a new stream, which is told of every change from now on.

        Raises:
            TooManyStreams: If there are as many as there may be.
            WatchInterrupted: If the server is shutting down.
        """
        if self._draining:
            raise WatchInterrupted(Cause.DRAINING)
        if self.open_streams >= STREAMS_LIMIT:
            raise TooManyStreams(STREAMS_LIMIT)
        stream = Stream(self._monotonic())
        group = self._group_of[stream] = self._group_with_room()
        group.streams[stream] = None
        self.open_streams += 1
        WATCH_STREAMS.set(self.open_streams)
        return stream

    def leave(self, stream: Stream) -> None:
        """Make room for another stream. One that has ended takes its room until its caller has been told."""
        self._forget(stream)
        self.open_streams -= 1
        WATCH_STREAMS.set(self.open_streams)

    def pinged(self, stream: Stream, ping_id: int) -> None:
        """Have a ping of a stream answered as soon as may be."""
        stream.pinged(self._monotonic())
        if stream in self._group_of:
            self._barrier.wait(stream, ping_id)
            self._wanted.set()

    def up(self) -> None:
        self._is_up = True
        self._wanted.set()

    def lost(self) -> None:
        self._is_up = False
        self._end_all(Cause.CHANNEL_LOST)

    def changed(self, changes: Changes) -> None:
        WATCH_EVICTIONS.inc(len(changes) + changes.everybody)
        for group in self._groups:
            if group.streams:
                group.changes.add(changes)
        self._wanted.set()

    def returned(self, number: int) -> None:
        served = self._barrier.returned(number)
        if served:
            WATCH_BARRIER_SECONDS.observe(self._monotonic() - self._probed_at)
            for stream, ping_id in served.items():
                self._group_of[stream].answered[stream] = ping_id
            self._wanted.set()

    def drain(self) -> None:
        """End every stream, and let nobody join any more."""
        self._draining = True
        self._end_all(Cause.DRAINING)

    def end_silent(self) -> None:
        """End the streams that have not said anything for long."""
        heard_after = self._monotonic() - SILENCE_SECONDS
        for stream in self.streams:
            if stream.heard_at <= heard_after:
                self.end(stream, WatchInterrupted(Cause.SILENT))

    def end(self, stream: Stream, error: AuthorityError) -> None:
        """End a stream, and say why."""
        stream.end(error)
        self._has_ended(stream)

    async def run(self) -> None:
        """Tick when there is something to say, and not more often than every TICK_SECONDS, until cancelled."""
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            try:
                self.tick()
            except Exception:  # noqa: BLE001 - a stream that was not told of something must not go on
                _log.exception("streams could not be told of changes")
                self._end_all(Cause.CHANNEL_LOST)
            await asyncio.sleep(TICK_SECONDS)

    def tick(self) -> None:
        """Send a probe if any ping waits for one, and tell a group, or several small ones, what there is."""
        if self._barrier.is_wanted and self._is_up:
            self._probed_at = self._monotonic()
            self._channel.probe(self._barrier.send())
        told = 0
        for _ in range(len(self._groups)):
            group = self._groups[0]
            if group.is_due:
                if told and told + len(group.streams) > GROUP_LIMIT:
                    self._wanted.set()
                    break
                told += len(group.streams)
                self._tell(group)
            self._groups.rotate(-1)

    def _tell(self, group: Group) -> None:
        changes = group.take_changes()
        if changes:
            if len(changes) > NAMES_LIMIT:
                changes = Changes(everybody=True)
            WATCH_MESSAGES.inc(len(group.streams))
            message = self._encode_changes(changes)
            for stream in tuple(group.streams):
                self._put(stream, message)
        for stream, ping_id in group.take_answered().items():
            self._put(stream, self._encode_pong(ping_id), answers=not self._barrier.waits(stream))

    def _group_with_room(self) -> Group:
        """Return the group for a new stream: the fullest that has room, so that there are few."""
        return max(
            (group for group in self._groups if len(group.streams) < GROUP_LIMIT),
            key=lambda group: len(group.streams),
        )

    def _put(self, stream: Stream, message: bytes, *, answers: bool = False) -> None:
        stream.put(message, answers=answers)
        if stream.ended.done():  # it didn't take those before
            self._has_ended(stream)

    def _has_ended(self, stream: Stream) -> None:
        error = stream.ended.result()
        cause = error.cause.name.lower() if isinstance(error, WatchInterrupted) else "refused"
        WATCH_INTERRUPTIONS.labels(cause=cause).inc()
        self._forget(stream)

    def _forget(self, stream: Stream) -> None:
        self._barrier.forget(stream)
        group = self._group_of.pop(stream, None)
        if group is not None:
            group.forget(stream)

    def _end_all(self, cause: Cause) -> None:
        self._barrier.reset()
        for stream in self.streams:
            self.end(stream, WatchInterrupted(cause))
