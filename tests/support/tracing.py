"""Restricts coverage to the code that measures something, since it makes all Python code half as slow again.

Coverage traces imports of the product, fixtures and tests. It does not trace the collection of tests, the machinery of
pytest, and tests that are marked `soak` or `untraced`. Other tests reach the same lines.
"""

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

PRODUCT = (
    "session_authority",
    "session_authority_server",
    "session_authority_workers",
    "session_authority_gateway",
)


class Tracing(MetaPathFinder):
    """The trace function of this thread, which is None without coverage."""

    def __init__(self) -> None:
        self._trace: Any = None

    def start(self) -> None:
        """Stop tracing. From now on, trace only imports of the product, and what `resume` and `pause` enclose."""
        self._trace = sys.gettrace()
        if self._trace is not None:
            sys.settrace(None)
            sys.meta_path.insert(0, self)

    def pause(self) -> None:
        """Stop tracing."""
        sys.settrace(None)

    def resume(self) -> None:
        """Trace again, until the next pause."""
        sys.settrace(self._trace)

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return the usual specification of a product's module, but trace the module's execution."""
        if fullname.partition(".")[0] not in PRODUCT:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def trace_execution(module: ModuleType) -> None:
                if sys.gettrace() is not None:
                    execute(module)
                    return
                self.resume()
                try:
                    execute(module)
                finally:
                    self.pause()

            spec.loader.exec_module = trace_execution  # type: ignore[method-assign]
        return spec
