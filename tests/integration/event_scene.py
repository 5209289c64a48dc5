"""A server, two workers and a receiver that a test kills and starts again, under the load of clients."""

import asyncio
import contextlib
import json
import random
import secrets
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

from sqlalchemy import Select, func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from session_authority import AsyncSessionClient, NewSession, SessionAuthorityError
from session_authority_server.domain.receiver import WANTABLE, Receiver
from session_authority_server.domain.webhook import shown_key, signing_key
from session_authority_server.store.database import Database
from session_authority_server.store.receivers import SqlReceiverStore
from session_authority_server.store.tables import outbox, sessions
from tests.integration import event_receiver
from tests.integration.event_history import Committed, Truth, arrivals
from tests.support.forked import IMPORT_FIRST
from tests.support.postgresql import free_port
from tests.support.program import Program, running

USERS = [f"user-{number}" for number in range(10)]
SESSIONS_A_USER = 5
EVENT_KEY = secrets.token_hex(16)


class Scene:
    """The processes, the clients and the database.

    Attributes:
        folder: The folder of the processes.
        database: The database, for the test itself.
        answered: How often clients got the answer that something happened, by type and by session or user.
    """

    def __init__(self, folder: Path, database: Database, settings: Mapping[str, str]) -> None:
        self.folder = folder
        self.database = database
        self.answered: Counter[tuple[str, str]] = Counter()
        self._receivers = SqlReceiverStore(database)
        self._receiver = Receiver(
            uuid4(), "checker", f"http://127.0.0.1:{free_port()}/", WANTABLE, datetime.now(UTC)
        )
        self._address = f"127.0.0.1:{free_port()}"
        self._settings = {
            **settings,
            "SESSION_AUTHORITY_EVENT_KEY": EVENT_KEY,
            "SESSION_AUTHORITY_LOG_LEVEL": "debug",
            IMPORT_FIRST: "tests.support.quick_deliveries",
        }
        self._running: dict[str, tuple[ExitStack, Program]] = {}

    async def add_receiver(self) -> None:
        assert await self._receivers.add_receiver(self._receiver, datetime.now(UTC))

    @property
    def names(self) -> Sequence[str]:
        return ("server", "worker 1", "worker 2", "receiver")

    async def start(self, *names: str) -> None:
        """Start processes, and wait until the server accepts calls."""
        await asyncio.to_thread(self._start, names)

    def _start(self, names: Sequence[str]) -> None:
        for name in names:
            stack = ExitStack()
            program = stack.enter_context(self._program(name))
            self._running[name] = stack, program
        if "server" in names:
            assert self._running["server"][1].address

    @contextmanager
    def _program(self, name: str) -> Iterator[Program]:
        if name == "receiver":
            port = self._receiver.url.rpartition(":")[2].rstrip("/")
            command = [sys.executable, "-S", event_receiver.__file__, port, "arrived"]
            with running(*command[1:], cwd=self.folder, command=command[:1]) as program:
                yield program
            return
        arguments = ["worker"]
        if name == "server":
            arguments = ["serve", "--no-worker", "--insecure", "--listen", self._address]
        with running(*arguments, cwd=self.folder, settings=self._settings) as program:
            yield program

    async def kill(self, *names: str) -> None:
        """Kill processes with SIGKILL."""
        for name in names:
            stack, program = self._running.pop(name)
            program.kill()
            stack.close()

    def close(self) -> None:
        for stack, _ in self._running.values():
            stack.close()

    def delivers(self) -> Callable[[], Awaitable[bool]]:
        """Return a condition that holds once another event has arrived."""
        file = self.folder / "arrived"
        before = file.stat().st_size if file.exists() else 0

        async def has_grown() -> bool:
            return file.exists() and file.stat().st_size > before

        return has_grown

    def arrived(self) -> Sequence[str]:
        """Return the ids of the events that the receiver has got so far, in order."""
        return arrivals((self.folder / "arrived").read_text().splitlines())

    @property
    def log(self) -> str:
        """The logs of the processes."""
        return "".join(path.read_text() for path in self.folder.glob("*.err"))

    @property
    def secrets(self) -> Sequence[str]:
        """The key of events, and what is derived from it."""
        key = signing_key(EVENT_KEY.encode(), self._receiver.receiver_id, 1)
        return EVENT_KEY, "whsec_", shown_key(key)[6:], key.hex()

    async def truth(self) -> Truth:
        """Return what the database and the clients know."""
        events = select(
            outbox.c.event_id, outbox.c.user_id, outbox.c.event_type, outbox.c.payload
        ).order_by(outbox.c.sequence)
        stored = select(sessions.c.session_id, sessions.c.user_id, sessions.c.end_time)
        committed = [
            _committed(str(row.event_id), row.user_id, row.event_type, row.payload)
            for row in await self._rows(events)
        ]
        rows = await self._rows(stored)
        return Truth(
            committed,
            {str(row.session_id) for row in rows},
            {
                str(row.session_id): (row.user_id, _text(row.end_time))
                for row in rows
                if row.end_time is not None
            },
            self.answered,
        )

    async def all_delivered(self) -> bool:
        """Return whether no event waits."""
        statement = select(func.count()).where(outbox.c.delivered_time.is_(None))
        [[count]] = await self._rows(statement)
        return int(count) == 0

    async def replay(self) -> None:
        """Deliver all events again."""
        now, last = datetime.now(UTC), 0
        while found := await self._receivers.replay(
            self._receiver.receiver_id, now - timedelta(days=1), now, last, 1_000
        ):
            last = max(found)

    async def _rows(self, statement: Select[Any]) -> Sequence[Any]:
        async def work(connection: AsyncConnection) -> Sequence[Any]:
            return list(await connection.execute(statement))

        return await self.database.read(work)

    @asynccontextmanager
    async def load(self) -> AsyncIterator[None]:
        """Have clients sign in, prove identities again and end sessions, for as long as the context lasts."""
        async with AsyncSessionClient(self._address, deadline_seconds=2) as client:
            tasks = [asyncio.create_task(self._use(client, user)) for user in USERS]
            try:
                yield
            finally:
                for task in tasks:
                    task.cancel()
                for outcome in await asyncio.gather(*tasks, return_exceptions=True):
                    assert isinstance(outcome, asyncio.CancelledError), outcome

    async def _use(self, client: AsyncSessionClient, user: str) -> None:
        live: list[NewSession] = []
        while True:
            await asyncio.sleep(random.uniform(0.01, 0.1))
            with contextlib.suppress(SessionAuthorityError):
                await self._step(client, user, live)

    async def _step(self, client: AsyncSessionClient, user: str, live: list[NewSession]) -> None:
        if len(live) < SESSIONS_A_USER:
            new = await client.create(user, user_agent=random.choice(("A/1", "B/2")))
            self.answered["session-established", new.session.session_id] += 1
            live.append(new)
            return
        mine = live.pop(random.randrange(len(live)))
        match random.choice(("sign out", "revoke", "revoke others", "reauthenticate")):
            case "sign out":
                await client.sign_out(mine.token)
                self.answered["session-ended", mine.session.session_id] += 1
            case "revoke":
                await client.revoke(live[0].token, mine.session.session_id)
                self.answered["session-ended", mine.session.session_id] += 1
            case "revoke others":
                live[:] = [mine]
                await client.revoke_others(mine.token)
                self.answered["sessions-swept", user] += 1
            case "reauthenticate":
                live.append(await client.reauthenticate(mine.token))
                self.answered["reauthenticated", mine.session.session_id] += 1


def _committed(event_id: str, user_id: str, kind: str, payload: str) -> Committed:
    data = json.loads(payload)["data"]
    return Committed(
        event_id, user_id, kind, data.get("session_id", ""), data.get("sweep_time", "")
    )


def _text(time: datetime) -> str:
    return time.isoformat(timespec="microseconds").replace("+00:00", "Z")
