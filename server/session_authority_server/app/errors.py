"""Why a server or worker can't start, or stops by itself."""


class CannotStart(Exception):
    """The server or worker can't start. The message says why, and what to do."""


class StoppedServing(Exception):
    """gRPC takes no more calls on, though no operator stopped it."""

    def __init__(self) -> None:
        super().__init__("gRPC stopped taking calls on, as the log says; start the server anew")
