import asyncio
import contextlib
import logging
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from apscheduler.schedulers.asyncio import AsyncIOScheduler

from session_authority_server.background.right_clock import RightClock
from session_authority_server.domain.clock import Clock
from session_authority_server.domain.errors import ClockWrong, StoreUnavailable
from session_authority_server.observability.metrics import (
    LIVE_SESSIONS,
    OLDEST_OVERDUE,
    WORKER_LAST_DURATION,
    WORKER_LAST_SUCCESS,
    WORKER_ROWS,
    WORKER_RUNS,
)
from session_authority_server.ports.upkeep import UpkeepStore
from session_authority_workers.expire import Expire
from session_authority_workers.step import Job

BACKLOG_INTERVAL = timedelta(seconds=30)
# In the past for every clock, so APScheduler runs the job immediately.
_LONG_DUE = datetime(1900, 1, 1, tzinfo=UTC)
_log = logging.getLogger(__name__)


class Schedule:
    """Runs each job at its interval. A run that fails is logged, counted and retried at the next tick.

    The event loop's timers decide when a job is due, because they follow the monotonic clock. APScheduler follows
    the wall clock: it pauses after a step back, and makes up for every missed run after a step forward.
    """

    def __init__(
        self,
        expire: Expire,
        others: Sequence[Job],
        clock: Clock,
        interval: timedelta,
        right_clock: RightClock | None = None,
    ) -> None:
        """Set up the schedule without starting it.

        Args:
            expire: The job that runs at each tick.
            others: Jobs that may run less often.
            clock: Measures the backlog.
            interval: The length of a tick.
            right_clock: Pauses the upkeep while the clock may be wrong.
        """
        self._right_clock = right_clock
        self._paused = False
        self._clock = clock
        self._expire = expire
        self._jobs: Sequence[tuple[Job, timedelta]] = (
            (expire, interval),
            *((job, max(interval, job.min_interval)) for job in others),
        )
        self._scheduler = AsyncIOScheduler(timezone="UTC")
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._running: set[asyncio.Task[None]] = set()
        self._stopping = False

    def start(self) -> None:
        """Start the schedule. Every job runs immediately."""
        self._scheduler.start()
        for job, interval in self._jobs:
            self._start_run(job, interval)

    def _start_run(self, job: Job, interval: timedelta) -> None:
        """Have APScheduler run a job once, immediately."""
        self._scheduler.add_job(
            self._run,
            args=[job, interval],
            next_run_time=_LONG_DUE,
            misfire_grace_time=None,
            id=job.name,
        )

    async def stop(self) -> None:
        """Stop the schedule, and cancel running jobs."""
        self._stopping = True
        for timer in self._timers.values():
            timer.cancel()
        self._scheduler.pause()  # `shutdown` takes effect only at the loop's next turn.
        # Let a run that was just started see that the schedule is stopping.
        await asyncio.sleep(0)
        self._scheduler.shutdown(wait=False)
        running = list(self._running)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    async def _run(self, job: Job, interval: timedelta) -> None:
        if self._stopping:
            return
        loop = asyncio.get_running_loop()
        next_run = loop.time() + interval.total_seconds()
        # A separate task that `stop` can await. The scheduler drops its own tasks when it shuts down.
        task = asyncio.ensure_future(self.run_once(job))
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        with contextlib.suppress(
            asyncio.CancelledError
        ):  # The scheduler would log it as a failure.
            await asyncio.wait([task])
            if not self._stopping:
                self._timers[job.name] = loop.call_at(next_run, self._start_run, job, interval)

    async def _require_right_clock(self) -> None:
        if self._right_clock is not None:
            await self._right_clock.require()
            if self._paused:
                _log.warning("the clock is right again; the worker resumes")
            self._paused = False

    async def run_once(self, job: Job) -> None:
        """Run a job, and log and count its outcome."""
        began = time.monotonic()
        try:
            await self._require_right_clock()
            rows = await job()
            await measure_backlog(self._expire, self._clock)
        except ClockWrong as error:
            WORKER_RUNS.inc(job.name, "refused")
            if not self._paused:
                _log.error("the worker is paused: %s", error)
            self._paused = True
        except StoreUnavailable as error:  # The store has logged the cause.
            WORKER_RUNS.inc(job.name, "failed")
            _log.error("%s failed; it will be tried again at the next tick: %s", job.name, error)
        except Exception:  # noqa: BLE001 - a failed run must not stop the schedule
            WORKER_RUNS.inc(job.name, "failed")
            _log.exception("%s failed; it will be tried again at the next tick", job.name)
        else:
            WORKER_RUNS.inc(job.name, "done")
            WORKER_ROWS.inc(job.name, by=rows)
            WORKER_LAST_SUCCESS.set(self._clock.now().timestamp(), job.name)
            if rows:
                _log.info("%s: %d rows", job.name, rows)
        finally:
            WORKER_LAST_DURATION.set(time.monotonic() - began, job.name)


async def measure_backlog(expire: Expire, clock: Clock) -> None:
    """Export how long the longest overdue session has waited.

    Raises:
        StoreUnavailable: If the store failed.
    """
    oldest = await expire.oldest_overdue()
    waited = timedelta(0) if oldest is None else clock.now() - oldest
    OLDEST_OVERDUE.set(waited.total_seconds())


async def watch_sessions(store: UpkeepStore, clock: Clock) -> None:
    """Export the backlog and the number of live sessions regularly. Servers run this, as there may be no worker."""
    expire = Expire(store, clock)
    while True:
        with contextlib.suppress(StoreUnavailable):  # The store has logged the cause.
            await measure_backlog(expire, clock)
            LIVE_SESSIONS.set(await store.estimate_live(clock.now()))
        await asyncio.sleep(BACKLOG_INTERVAL.total_seconds())
