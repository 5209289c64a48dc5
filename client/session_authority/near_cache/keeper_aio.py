"""The keeper of subscriptions to the ends of sessions, which calls their callbacks."""

from collections.abc import Callable, Sequence

from session_authority._concurrency_aio import Alarm, Background, Callbacks
from session_authority.errors import EndCallback
from session_authority.near_cache.core import NearCacheCore
from session_authority.near_cache.endings import EndSubscription, Step


class AsyncKeeper:
    """Takes the steps of its subscriptions (`Endings.step`) in the background."""

    def __init__(
        self,
        core: NearCacheCore,
        clock: Callable[[], float],
        ask: Callable[[Sequence[str]], None],
    ) -> None:
        """Start without subscriptions.

        Args:
            core: The near cache.
            clock: Returns the time on the lease clock.
            ask: Asks the authority about tokens. It must not wait for the answers, which go to the near cache.

        Raises:
            ClientClosed: The client is closed.
        """
        self._core = core
        self._clock = clock
        self._ask = ask
        self._alarm = Alarm()
        self._callbacks = Callbacks()
        self._endings = core.new_endings(clock, self._alarm.ring)
        self._background = Background(self._keep, "session-authority-ends")

    def subscribe(self, token: str) -> tuple[EndSubscription, bool]:
        """Add a subscription, and say whether its token is known to be live. `arm` must follow."""
        self._background.start()
        subscription = self._core.subscribe(self._endings, self._clock(), token)
        return subscription, self._endings.is_confirmed(subscription)

    def arm(self, subscription: EndSubscription, callback: EndCallback) -> None:
        """Give a subscription its callback.

        Raises:
            SessionAuthorityError: The session has ended meanwhile, or the client was closed.
        """
        self._endings.arm(subscription, self._callbacks.later(callback))

    async def stop(self) -> None:
        """Call the callbacks that are due, and stop."""
        self._step()
        self._alarm.ring()
        await self._background.stop()

    def close(self) -> None:
        """Do nothing. A keeper without subscriptions has nothing to stop."""

    async def _keep(self) -> None:
        while not (step := self._step()).is_last:
            await self._alarm.wait(step.wait_seconds)

    def _step(self) -> Step:
        step = self._endings.step()
        for callback, error in step.ended:
            callback(error)
        if step.asked:
            self._ask(step.asked)
        return step
