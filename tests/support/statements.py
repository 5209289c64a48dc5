"""Lets all databases of a test process share the statements that SQLAlchemy has compiled.

Each test opens its own database, and each engine compiles each statement again. That is a fifth of the work of a test.
"""

import sys
from typing import Any

from sqlalchemy import Engine
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.util import LRUCache

KINDS = "shared_statements_kind"


class SharedStatements(LRUCache[Any, Any]):
    """Compiled statements by kind of dialect. The cache of an engine has them by dialect."""

    def get(self, key: Any, default: Any = None) -> Any:
        return super().get(_of_kind(key), default)

    def __setitem__(self, key: Any, compiled: Any) -> None:
        super().__setitem__(_of_kind(key), compiled)


def _of_kind(key: Any) -> tuple[Any, ...]:
    dialect, *rest = key
    known = vars(dialect)
    if KINDS not in known:
        plain = {name: each for name, each in known.items() if _is_plain(each)}
        known[KINDS] = type(dialect), tuple(sorted(plain.items()))
    # Compiling calls the product too, so coverage needs it to happen in a test that it counts.
    return known[KINDS], sys.gettrace() is None, *rest


def _is_plain(it: object) -> bool:
    """Tell whether a value of a dialect may matter to a statement, as its version and options do."""
    if isinstance(it, tuple):
        return all(map(_is_plain, it))
    return it is None or isinstance(it, bool | int | str)


def share_statements(patch: Any) -> None:
    """Give each new engine the same cache of compiled statements."""
    shared = SharedStatements(2000)
    make = AsyncEngine.__init__

    def make_sharing(self: AsyncEngine, engine: Engine) -> None:
        engine.update_execution_options(compiled_cache=shared)
        make(self, engine)

    patch.setattr(AsyncEngine, "__init__", make_sharing)
