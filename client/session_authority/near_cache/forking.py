"""What a child process must not go on with."""

import os
from typing import Protocol
from weakref import WeakSet


class Forgetful(Protocol):
    """What keeps something that belongs to its process."""

    def forget_in_child(self) -> None: ...


_all: WeakSet[Forgetful] = WeakSet()


def forget_in_children(thing: Forgetful) -> None:
    """Have something told, in each process that forks off, that it is there now."""
    _all.add(thing)


def _forget() -> None:
    for thing in list(_all):
        thing.forget_in_child()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
