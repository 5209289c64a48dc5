"""Sign-ins that complete even if their caller is cancelled, so that no unusable session stays live.

A cancelled call may have reached the authority and created a session. So each call that creates a token runs in a task
of its own. If the caller is cancelled, the session is ended as soon as its token is known.
"""

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any, TypeVar

from session_authority import _core
from session_authority.errors import SessionAuthorityError
from session_authority.session import NewSession, Session
from session_authority.web.asgi import HasClient
from session_authority.web.visit import Visit, end_if_possible

_Result = TypeVar("_Result")

_log = logging.getLogger("session_authority.web")


class SignIns:
    """Runs the sign-ins of one `Sessions`."""

    def __init__(self, sessions: HasClient) -> None:
        self._sessions = sessions
        self._tasks: set[asyncio.Task[Any]] = set()  # the event loop keeps weak references only

    async def complete(
        self,
        visit: Visit,
        making: _core.Operation[NewSession],
        *,
        persistent: bool | None,
        replaces: bool,
    ) -> Session:
        """Put the token of a new or renewed session into the visit's cookie.

        Args:
            visit: The request.
            making: The operation that creates the token.
            persistent: Whether the cookie stays when the browser is closed.
            replaces: Whether to end the cookie's earlier sessions.

        Raises:
            RuntimeError: The response has begun.
        """
        visit.refuse_if_too_late()
        made = self._start(self._sessions.client.run_operation(making))
        try:
            new = await asyncio.shield(made)
        except asyncio.CancelledError:
            made.add_done_callback(self._end_unclaimed)
            raise
        try:
            visit.refuse_if_too_late()
        except RuntimeError:
            self._end_unclaimed(made)
            raise
        replaced = visit.hand_out(new, persistent)
        if not (replaces and replaced):
            return new.session
        try:
            await asyncio.shield(self._start(self._finish(end_if_possible(replaced))))
        except asyncio.CancelledError:
            self._start(self._finish(visit.take_back()))
            raise
        return new.session

    async def take_back(self, visit: Visit) -> None:
        """End the session that a visit created, if any, even if the caller is cancelled."""
        if visit.made_session:
            await asyncio.shield(self._start(self._finish(visit.take_back())))

    def _end_unclaimed(self, made: asyncio.Task[NewSession]) -> None:
        if not made.cancelled() and made.exception() is None:
            self._start(self._finish(end_if_possible((made.result().token.reveal(),))))

    async def _finish(self, operation: _core.Operation[None]) -> None:
        try:
            await self._sessions.client.run_operation(operation)
        except SessionAuthorityError as error:  # only if the client is closed
            _log.warning("a session that no browser uses was not ended: %s", error)

    def _start(self, work: Coroutine[Any, Any, _Result]) -> asyncio.Task[_Result]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task
