from session_authority_server.watch.stream import Stream


class Barrier:
    """Which pings may be answered: those that were received before a probe was sent that has come back.

    One probe is under way at a time. It serves all who wait when it is sent; who comes later waits for the next.
    """

    def __init__(self) -> None:
        self._number = 0
        self._under_way = False
        self._waiting: dict[Stream, int] = {}
        self._served: dict[Stream, int] = {}

    @property
    def is_wanted(self) -> bool:
        """Whether a probe is to be sent."""
        return bool(self._waiting) and not self._under_way

    def wait(self, stream: Stream, ping_id: int) -> None:
        """Have a stream's ping wait, in place of its earlier ones."""
        self._waiting[stream] = ping_id

    def waits(self, stream: Stream) -> bool:
        """Say whether a ping of a stream is yet to be served."""
        return stream in self._waiting or stream in self._served

    def send(self) -> int:
        """Return the number of the probe that is to be sent now."""
        self._number += 1
        self._under_way = True
        self._served, self._waiting = self._waiting, {}
        return self._number

    def returned(self, number: int) -> dict[Stream, int]:
        """Return the pings that may be answered now that a probe has come back."""
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
