"""Restricts coverage to the code that measures something, since it makes all Python code half as slow again.

Coverage traces imports of the product, fixtures and tests. It does not trace the collection of tests, the machinery of
pytest, and tests that are marked `soak` or `untraced`. Other tests reach the same lines.

SQLAlchemy switches greenlets in its asynchronous calls. A tracer of coverage follows one stack of calls, so each
greenlet gets its own tracer. Coverage can also find the stack of a greenlet itself, but it searches at each call and
each return. That takes more time than all the rest of coverage.
"""

import sys
import threading
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import FrameType, ModuleType
from typing import Any

import greenlet  # type: ignore[import-untyped]

PRODUCT = (
    "session_authority",
    "session_authority_server",
    "session_authority_workers",
    "session_authority_gateway",
)


class Greenlets:
    """The tracers of the greenlets of one thread."""

    def __init__(self, install: Any) -> None:
        self._install = install
        self._tracers: dict[Any, Any] = {greenlet.getcurrent(): sys.gettrace()}
        self._spare: list[Any] = []

    def switched(self, _event: str, switch: tuple[Any, Any]) -> None:
        """Let the tracer of the greenlet that now runs take over, unless tracing is paused."""
        origin, target = switch
        running: Any = sys.gettrace()
        if running is not None:
            running.stop()
            if target not in self._tracers:
                self._tracers[target] = self._spare.pop() if self._spare else self._made()
            self._tracers[target].start()
        if origin.dead and origin in self._tracers:
            self._spare.append(self._tracers.pop(origin))

    def _made(self) -> Any:
        self._install(sys._getframe(), "call", None)
        made: Any = sys.gettrace()
        made.stop()
        return made


def following_greenlets(install: Any) -> Any:
    """Return a function that installs a tracer in a thread, and then one in each greenlet of the thread."""

    def install_and_follow(frame: FrameType, event: str, arg: Any) -> Any:
        trace = install(frame, event, arg)
        greenlet.settrace(Greenlets(install).switched)
        return trace

    return install_and_follow


class Tracing(MetaPathFinder):
    """The tracer of this thread, which is None without coverage."""

    def __init__(self) -> None:
        self._tracer: Any = None

    def start(self) -> None:
        """Stop tracing. From now on, trace only imports of the product, and what `resume` and `pause` enclose."""
        self._tracer = sys.gettrace()
        install = threading.gettrace()
        if self._tracer is not None and install is not None:
            greenlet.settrace(Greenlets(install).switched)
            threading.settrace(following_greenlets(install))
            self.pause()
            sys.meta_path.insert(0, self)

    def pause(self) -> None:
        """Stop tracing."""
        if self._tracer is not None:
            self._tracer.stop()

    def resume(self) -> None:
        """Trace again, until the next pause."""
        if self._tracer is not None:
            self._tracer.start()

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
