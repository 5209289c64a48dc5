"""The two names of the parameter with the authentication methods."""

from collections.abc import Iterable


def methods_of(
    authentication_methods: Iterable[str], methods: Iterable[str] | None
) -> Iterable[str]:
    """Return the authentication methods. Apps may pass them under either name.

    Raises:
        TypeError: Both are given.
    """
    if methods is None:
        return authentication_methods
    if authentication_methods:
        raise TypeError("methods is another name of authentication_methods: pass only one of them")
    return methods
