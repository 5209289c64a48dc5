"""Which program a call comes from."""

from contextvars import ContextVar
from dataclasses import dataclass

from session_authority_server.domain.api_key import Permission


@dataclass(frozen=True, slots=True)
class Caller:
    """A program that calls the authority.

    Attributes:
        key_id: The id of its API key; empty where the server asks for none.
        permissions: What it may do.
    """

    key_id: str = ""
    permissions: frozenset[Permission] = frozenset(Permission)


ANYBODY = Caller()
current_caller: ContextVar[Caller] = ContextVar("current_caller", default=ANYBODY)
