"""The options of a route: Envoy's `context_extensions`, or the query of `/verify`."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from difflib import get_close_matches

from session_authority_server.domain.duration import parse_duration

SESSION, MAX_AGE, METHODS = "session", "max_age", "methods"
NAMES = (SESSION, MAX_AGE, METHODS)
REQUIRED, OPTIONAL = "required", "optional"


class OptionError(Exception):
    """An option of a route is invalid. The message names it and says how to correct it."""


@dataclass(frozen=True, slots=True)
class Options:
    """The options of a route.

    Attributes:
        required: Whether the route needs a live session.
        max_age: The maximum age of the user's last proof of identity, if any.
        methods: The methods of RFC 8176. The user must have used at least one of them. Empty for any method.
    """

    required: bool = True
    max_age: timedelta | None = None
    methods: frozenset[str] = frozenset()


def read_options(pairs: Iterable[tuple[str, str]]) -> Options:
    """Return the options that names and values state.

    Raises:
        OptionError: A name is unknown or occurs twice, or a value is invalid.
    """
    given: dict[str, str] = {}
    for name, value in pairs:
        if name not in NAMES:
            close = get_close_matches(name, NAMES, 1)
            advice = (
                f"; did you mean {close[0]}?" if close else f"; the options are {', '.join(NAMES)}"
            )
            raise OptionError(f"{name[:64]!r} is not an option{advice}")
        if name in given:
            raise OptionError(f"the option {name} is given twice; give it once")
        given[name] = value
    session = given.get(SESSION, REQUIRED)
    if session not in (REQUIRED, OPTIONAL):
        raise OptionError(f"the option session must be required or optional, not {session[:64]!r}")
    if session == OPTIONAL and len(given) > 1:
        raise OptionError("the options max_age and methods need session=required")
    max_age, methods = given.get(MAX_AGE), given.get(METHODS)
    return Options(
        required=session == REQUIRED,
        max_age=None if max_age is None else _max_age(max_age),
        methods=frozenset() if methods is None else _methods(methods),
    )


def _max_age(text: str) -> timedelta:
    found = parse_duration(text)
    if not found:
        raise OptionError(
            f"the option max_age must be a duration such as 15m or 12h, not {text[:64]!r}"
        )
    return found


def _methods(text: str) -> frozenset[str]:
    names = text.split(",")
    if not all(
        name.isascii() and name.isprintable() and name.strip() == name != "" for name in names
    ):
        raise OptionError(
            f"the option methods must list names such as mfa,hwk without spaces, not {text[:64]!r}"
        )
    return frozenset(names)
