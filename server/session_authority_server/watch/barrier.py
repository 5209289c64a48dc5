from session_authority_server.watch.stream import Stream


class Barrier:
    """Decides which pings may be answered. A ping waits until a probe that was sent after it has come back.

    One probe is in flight at a time. It serves every ping that waits when it is sent. Later pings wait for the next
    probe.
    """

    def __init__(self) -> None:
        self._number = 0
        self._under_way = False
        self._waiting: dict[Stream, int] = {}
        self._served: dict[Stream, int] = {}

    @property
    def needs_probe(self) -> bool:
        """Whether a probe should be sent now."""
        return bool(self._waiting) and not self._under_way

    def wait(self, stream: Stream, ping_id: int) -> None:
        """Add a stream's ping to the waiting pings. It replaces an earlier ping of the stream."""
        self._waiting[stream] = ping_id

    def has_pending_ping(self, stream: Stream) -> bool:
        """Return whether a ping of a stream is not answered yet."""
        return stream in self._waiting or stream in self._served

    def send(self) -> int:
        """Start a probe for all waiting pings, and return its number."""
        self._number += 1
        self._under_way = True
        self._served, self._waiting = self._waiting, {}
        return self._number

    def returned(self, number: int) -> dict[Stream, int]:
        """Return the pings that may be answered because a probe came back."""
        if not self._under_way or number != self._number:
            return {}
        self._under_way = False
        served, self._served = self._served, {}
        return served

    def reset(self) -> None:
        """Forget the probe in flight and every ping."""
        self._under_way = False
        self._served, self._waiting = {}, {}

    def forget(self, stream: Stream) -> None:
        """Forget a stream."""
        self._waiting.pop(stream, None)
        self._served.pop(stream, None)
