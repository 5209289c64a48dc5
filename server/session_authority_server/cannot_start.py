class CannotStart(Exception):
    """The server or worker can't start; the message says why, and what to do."""
