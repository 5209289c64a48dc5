from session_authority_server.watch.stream import Stream


class Barrier:
    """Decides which pings may be answered: those received before a probe was sent that has come back.

    One probe is under way at a time. It serves every ping that waits when it is sent. Later pings wait for the next
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
        """Have a stream's ping wait, in place of its earlier ping."""
        self._waiting[stream] = ping_id

    def has_pending_ping(self, stream: Stream) -> bool:
        """Return whether a ping of a stream waits."""
        return stream in self._waiting or stream in self._served

    def send(self) -> int:
        """Begin a probe, and return its number."""
        self._number += 1
        self._under_way = True
        self._served, self._waiting = self._waiting, {}
        return self._number

    def returned(self, number: int) -> dict[Stream, int]:
        """Return the pings that a returned probe serves."""
        if not self._under_way or number != self._number:
            return {}
        self._under_way = False
        served, self._served = self._served, {}
        return served

    def reset(self) -> None:
        """Forget the probe that is under way, and every ping."""
        self._under_way = False
        self._served, self._waiting = {}, {}

    def forget(self, stream: Stream) -> None:
        """Forget a stream."""
        self._waiting.pop(stream, None)
        self._served.pop(stream, None)
