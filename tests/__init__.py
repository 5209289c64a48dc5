import sys
import threading

import greenlet


def _keep_greenlets_of_ended_threads() -> None:
    """Keep coverage's tracer from hanging on CPython 3.11 when a thread ends.

    The tracer holds weak references to greenlets. When the greenlet of an ended thread dies, the callback of such a
    reference can run within the tracer itself, which then never returns. Kept greenlets do not die.
    """
    kept = []
    bootstrap = threading.Thread._bootstrap_inner  # type: ignore[attr-defined]

    def keep(thread: threading.Thread) -> None:
        kept.append(greenlet.getcurrent())
        bootstrap(thread)

    threading.Thread._bootstrap_inner = keep  # type: ignore[attr-defined]


if "coverage" in sys.modules and sys.version_info < (3, 12):
    _keep_greenlets_of_ended_threads()
