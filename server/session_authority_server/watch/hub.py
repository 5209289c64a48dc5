"""How a revocation reaches the clients that watch.

1. `store/transaction.py` notes which sessions and users change.
2. `store/sessions.py` announces these changes within the commit.
3. `postgresql_channel.py` or `sqlite_channel.py` brings them to the hub of every server.
4. The hub sends them to its streams, which `rpc/session_watch_service.py` serves.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence

from session_authority_server.domain.errors import AuthorityError
from session_authority_server.domain.session import Changes
from session_authority_server.observability.metrics import (
    WATCH_BARRIER,
    WATCH_EVICTIONS,
    WATCH_INTERRUPTIONS,
    WATCH_MESSAGES,
    WATCH_STREAMS,
)
from session_authority_server.watch.barrier import Barrier
from session_authority_server.watch.channel import Channel
from session_authority_server.watch.stream import Cause, Stream, TooManyStreams, WatchInterrupted

TICK_SECONDS = 0.05
# The most streams that get changes in one tick. A message costs about 30 us, so a thousand messages in every tick
# would leave no time for validations.
GROUP_LIMIT = 100
STREAMS_LIMIT = 10 * GROUP_LIMIT
# Changes of more sessions and users than this are sent as "everybody". So a message stays below 128 KiB with session
# ids, and below 512 KiB with user ids.
NAMES_LIMIT = 2_000
SILENCE_SECONDS = 30.0

_log = logging.getLogger(__name__)

EncodeChanges = Callable[[Changes], bytes]
EncodePong = Callable[[int], bytes]


class Group:
    """Streams that get changes in the same tick, and the messages that wait to be sent to them.

    Attributes:
        streams: The streams, in the order in which they joined.
        changes: The changes to send to all of them.
        answerable: The pings to answer after the changes.
    """

    def __init__(self) -> None:
        self.streams: dict[Stream, None] = {}
        self.changes = Changes()
        self.answerable: dict[Stream, int] = {}

    @property
    def is_due(self) -> bool:
        """Whether there is anything to send."""
        return bool(self.answerable) or bool(self.streams and self.changes)

    def take_changes(self) -> Changes:
        """Return the changes to send, and count them as sent."""
        changes, self.changes = self.changes, Changes()
        return changes

    def take_answerable(self) -> dict[Stream, int]:
        """Return the pings to answer, and count them as answered."""
        answerable, self.answerable = self.answerable, {}
        return answerable

    def forget(self, stream: Stream) -> None:
        """Remove a stream. Drop the changes once no stream is left."""
        self.streams.pop(stream, None)
        self.answerable.pop(stream, None)
        if not self.streams:
            self.changes = Changes()


class Hub:
    """Sends every change to every stream, and answers a ping after all earlier changes. It is the channel's `Receiver`.

    The hub sends in ticks. If there are many streams, each tick serves one group: first the changes, as one message
    for the whole group, then the pongs. A stream may join while the channel is down. It gets no pong until the channel
    is up.

    Attributes:
        open_streams: The number of streams that have not ended, plus the number of ended streams whose callers have
            not received the end yet.
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
            channel: Delivers changes and probes.
            encode_changes: Returns the message for changes.
            encode_pong: Returns the message that answers a ping.
            monotonic: Returns the seconds of a monotonic clock.
        """
        self._channel = channel
        self._encode_changes = encode_changes
        self._encode_pong = encode_pong
        self._monotonic = monotonic
        self._barrier = Barrier()
        # The group with the next turn comes first.
        self._groups = deque(Group() for _ in range(STREAMS_LIMIT // GROUP_LIMIT))
        self._group_of: dict[Stream, Group] = {}
        self.open_streams = 0
        self._is_up = False
        self._draining = False
        self._probed_at = 0.0
        self._wanted = asyncio.Event()
        WATCH_STREAMS.set_function(lambda: self.open_streams)

    @property
    def streams(self) -> Sequence[Stream]:
        """The streams that have not ended.

        `open_streams` also counts ended streams whose callers have not received the end yet.
        """
        return tuple(self._group_of)

    def join(self) -> Stream:
        """Return a new stream, which gets every change from now on.

        Raises:
            TooManyStreams: If STREAMS_LIMIT streams are open.
            WatchInterrupted: If the server is shutting down.
        """
        if self._draining:
            raise WatchInterrupted(Cause.DRAINING)
        if self.open_streams >= STREAMS_LIMIT:
            raise TooManyStreams(STREAMS_LIMIT)
        stream = Stream(self._monotonic())
        group = self._group_of[stream] = self._group_for_new_stream()
        group.streams[stream] = None
        self.open_streams += 1
        return stream

    def leave(self, stream: Stream) -> None:
        """Forget a stream, and stop counting it in `open_streams`. Call this once its caller has received the end."""
        self._forget(stream)
        self.open_streams -= 1

    def pinged(self, stream: Stream, ping_id: int) -> None:
        """Receive a ping. It is answered as soon as all earlier changes have been sent."""
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
        WATCH_EVICTIONS.inc(by=len(changes) + changes.everybody)
        for group in self._groups:
            if group.streams:
                group.changes.add(changes)
        self._wanted.set()

    def returned(self, number: int) -> None:
        served = self._barrier.returned(number)
        if served:
            WATCH_BARRIER.observe((), self._monotonic() - self._probed_at)
            for stream, ping_id in served.items():
                self._group_of[stream].answerable[stream] = ping_id
            self._wanted.set()

    def drain(self) -> None:
        """End every stream, and refuse new ones."""
        self._draining = True
        self._end_all(Cause.DRAINING)

    def end_silent(self) -> None:
        """End the streams whose callers sent nothing for SILENCE_SECONDS."""
        silent_since = self._monotonic() - SILENCE_SECONDS
        for stream in self.streams:
            if stream.last_received_at <= silent_since:
                self.end(stream, WatchInterrupted(Cause.SILENT))

    def end(self, stream: Stream, error: AuthorityError) -> None:
        """End a stream with an error."""
        stream.end(error)
        self._has_ended(stream)

    async def run(self) -> None:
        """Tick when there is something to send, at most every TICK_SECONDS, until cancelled."""
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            try:
                self.tick()
            except Exception:  # noqa: BLE001 - a stream that missed a change must not go on
                _log.exception("changes could not be sent to the streams")
                self._end_all(Cause.CHANNEL_LOST)
            await asyncio.sleep(TICK_SECONDS)

    def tick(self) -> None:
        """Send a probe if a ping needs one. Send the waiting messages of one group, or of several small groups."""
        if self._barrier.needs_probe and self._is_up:
            self._probed_at = self._monotonic()
            self._channel.probe(self._barrier.send())
        sent = 0
        for _ in range(len(self._groups)):
            group = self._groups[0]
            if group.is_due:
                if sent and sent + len(group.streams) > GROUP_LIMIT:
                    self._wanted.set()
                    break
                sent += len(group.streams)
                self._send_to_group(group)
            self._groups.rotate(-1)

    def _send_to_group(self, group: Group) -> None:
        changes = group.take_changes()
        if changes:
            if len(changes) > NAMES_LIMIT:
                changes = Changes(everybody=True)
            WATCH_MESSAGES.inc(by=len(group.streams))
            message = self._encode_changes(changes)
            for stream in tuple(group.streams):
                self._put(stream, message)
        for stream, ping_id in group.take_answerable().items():
            self._put(
                stream,
                self._encode_pong(ping_id),
                answers=not self._barrier.has_pending_ping(stream),
            )

    def _group_for_new_stream(self) -> Group:
        """Return the group for a new stream: the fullest one with room, to keep groups few."""
        return max(
            (group for group in self._groups if len(group.streams) < GROUP_LIMIT),
            key=lambda group: len(group.streams),
        )

    def _put(self, stream: Stream, message: bytes, *, answers: bool = False) -> None:
        stream.put(message, answers=answers)
        if stream.ended.done():  # its queue was full
            self._has_ended(stream)

    def _has_ended(self, stream: Stream) -> None:
        error = stream.ended.result()
        cause = error.cause.name.lower() if isinstance(error, WatchInterrupted) else "refused"
        WATCH_INTERRUPTIONS.inc(cause)
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
