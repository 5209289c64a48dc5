"""Concurrent racers on one PostgreSQL. They record every call with its answer."""

import asyncio
import random
import time
from collections import defaultdict
from collections.abc import Awaitable, Coroutine
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeAlias

import grpc

from session_authority import (
    AsyncSessionClient,
    AuthenticationTooOld,
    Rejection,
    Session,
    SessionAuthorityError,
    SessionNotLive,
    SessionToken,
    Unavailable,
    ValidationRequest,
)
from session_authority.v1 import session_admin_service_pb2 as pb
from session_authority.v1 import session_admin_service_pb2_grpc
from tests.integration.race_history import (
    ANSWERS,
    NOT_LIVE,
    OK,
    UNKNOWN,
    Call,
    History,
)

Admin: TypeAlias = "session_admin_service_pb2_grpc.SessionAdminServiceAsyncStub"

HASTY = ("ann", "bob", "cyd", "dan")
STEADY = ("eve", "fay", "gil", "hal")  # a lifetime long enough for two uses
USERS = (*HASTY, *STEADY)
LONER = "ivy"  # a user without concurrent calls
RACERS_A_USER = 3
NO_ANSWER = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED}
LIMIT = 4
SHORT_SECONDS = 1.0
RESOLUTION_SECONDS = 1
RECENT = 6
WATCHERS = 4
CONTEST_SECONDS = 0.08
KINDS = {
    "create": 18,
    "validate": 34,
    "batch": 8,
    "revoke": 10,
    "revoke_others": 6,
    "revoke_user": 2,
    "sign_out": 6,
    "reauthenticate": 8,
    "contest": 8,
    "duel": 4,
}
STEADY_KINDS = KINDS | {
    "create": 6,
    "validate": 60,
    "revoke": 6,
    "revoke_others": 4,
    "revoke_user": 1,
    "sign_out": 4,
    "reauthenticate": 4,
    "contest": 6,
    "duel": 4,
}


@dataclass(frozen=True)
class Held:
    """A token that a racer holds. It may be invalid."""

    session_id: str
    user_id: str
    token: SessionToken
    version: int = 0


class Race:
    """The racers, their tokens, and their history."""

    def __init__(self, clients: list[AsyncSessionClient], admins: list[Admin], seed: int) -> None:
        self.history = History(LIMIT)
        self._clients = clients
        self._admins = admins
        self._seed = seed
        self._held: dict[str, list[Held]] = defaultdict(list)
        self._dead: set[tuple[str, int]] = set()

    async def run(self, round_number: int, seconds: float) -> None:
        """Run every racer for some seconds, and return when all calls have ended."""
        stop_at = time.monotonic() + seconds
        async with asyncio.TaskGroup() as racers:
            for user_id in USERS:
                for number in range(RACERS_A_USER):
                    chance = random.Random(f"{self._seed} {round_number} {user_id} {number}")
                    racers.create_task(self._race(user_id, chance, stop_at))

    async def do_each_once(self) -> None:
        """Make every kind of call for one user in sequence, so that each kind occurs even on a busy machine."""
        chance = random.Random(self._seed)
        while len(self._held[LONER]) < LIMIT:
            await self._create(LONER, chance)
        mine, revoked, signed_out, other = self._held[LONER]
        await self._reauthenticate(mine, chance)
        renewed = self._held[LONER][-1]
        await self._revoke(renewed, revoked, chance)
        await self._sign_out(signed_out, chance)
        await self._revoke_others(renewed, chance)
        await self._validate(other, chance)
        await self._revoke_user(renewed, chance)

    async def exceed_session_limits(self) -> None:
        """Make more concurrent sign-ins of each user than the session limit allows."""
        chance = random.Random(self._seed)
        await asyncio.gather(
            *(self._create(user_id, chance) for user_id in USERS for _ in range(2 * LIMIT))
        )

    async def validate_all_tokens(self) -> None:
        """Validate every token at every server."""
        for client in self._clients:
            for held in self._held.values():
                await self._validate_many(client, held)

    async def _race(self, user_id: str, chance: random.Random, stop_at: float) -> None:
        kinds = STEADY_KINDS if user_id in STEADY else KINDS
        while time.monotonic() < stop_at:
            [kind] = chance.choices(list(kinds), list(kinds.values()))
            held = self._held[user_id]
            if not held or kind == "create":
                await self._create(user_id, chance)
                continue
            mine, other = self._choose(held, chance), self._choose(held, chance)
            match kind:
                case "batch":
                    await self._validate_many(chance.choice(self._clients), held[-2 * RECENT :])
                case "revoke":
                    await self._revoke(mine, other, chance)
                case "duel":
                    await self._duel(mine, other, chance)
                case _:
                    with_one = {
                        "validate": self._validate,
                        "revoke_others": self._revoke_others,
                        "revoke_user": self._revoke_user,
                        "sign_out": self._sign_out,
                        "contest": self._contest,
                        "reauthenticate": self._reauthenticate,
                    }
                    await with_one[kind](mine, chance)

    def _choose(self, held: list[Held], chance: random.Random) -> Held:
        """Choose a session, preferably a recent one that no racer knows to have ended."""
        late = held[-RECENT:] if chance.random() < 0.9 else held
        hopeful = [each for each in late if (each.session_id, each.version) not in self._dead]
        return chance.choice(hopeful if hopeful and chance.random() < 0.9 else late)

    async def _create(self, user_id: str, chance: random.Random) -> None:
        short = user_id != LONER and chance.random() < 0.3
        begin = time.monotonic()
        creating = chance.choice(self._clients).create(
            user_id,
            lifetime=timedelta(seconds=SHORT_SECONDS) if short else None,
            idle_timeout=timedelta(minutes=1) if chance.random() < 0.5 else None,
        )
        try:
            new = await creating
        except SessionAuthorityError as error:
            self._note("create", begin, Held("", user_id, SessionToken("none")), _answer(error))
            return
        held = Held(new.session.session_id, user_id, new.token)
        if short:
            self.history.lifetimes[held.session_id] = SHORT_SECONDS
        self._note("create", begin, held)
        self._held[user_id].append(held)

    async def _validate(self, held: Held, chance: random.Random) -> None:
        client, address = chance.choice(self._clients), f"203.0.113.{chance.randrange(250)}"
        begin = time.monotonic()
        try:
            answer = verdict(await client.validate(held.token, ip_address=address))
        except Unavailable:
            return  # the error proves nothing about the session
        except SessionAuthorityError as error:
            answer = _answer(error)
        self._note("validate", begin, held, answer)

    async def _validate_many(self, client: AsyncSessionClient, asked: list[Held]) -> None:
        asked = list(asked)
        begin = time.monotonic()
        try:
            answers = await client.validate_many([ValidationRequest(held.token) for held in asked])
        except Unavailable:
            return
        for held, answer in zip(asked, answers, strict=True):
            self._note("validate", begin, held, verdict(answer))

    async def _revoke(self, mine: Held, other: Held, chance: random.Random) -> None:
        revoking = chance.choice(self._clients).revoke(mine.token, other.session_id)
        await self._watching(other, chance, self._do("revoke", mine, revoking, other.session_id))

    async def _revoke_others(self, mine: Held, chance: random.Random) -> None:
        ending = chance.choice(self._clients).revoke_others(mine.token)
        other = chance.choice(self._held[mine.user_id][-RECENT:])
        await self._watching(other, chance, self._do("revoke_others", mine, ending))

    async def _revoke_user(self, mine: Held, chance: random.Random) -> None:
        request = pb.RevokeUserSessionsRequest(user_id=mine.user_id)

        async def ask() -> None:
            try:
                await chance.choice(self._admins).RevokeUserSessions(request)
            except grpc.aio.AioRpcError as error:
                if error.code() in NO_ANSWER:
                    raise Unavailable(str(error.details())) from None
                raise

        await self._watching(mine, chance, self._do("revoke_user", mine, ask()))

    async def _sign_out(self, mine: Held, chance: random.Random) -> None:
        ending = chance.choice(self._clients).sign_out(mine.token)
        await self._watching(mine, chance, self._do("sign_out", mine, ending))

    async def _contest(self, mine: Held, chance: random.Random) -> None:
        """Reauthenticate a session while other calls end it."""

        async def soon(rival: Coroutine[object, object, None]) -> None:
            await asyncio.sleep(chance.uniform(0, CONTEST_SECONDS))
            await rival

        revoking = chance.choice(self._clients).revoke(mine.token, mine.session_id)
        signing_out = chance.choice(self._clients).sign_out(mine.token)
        await asyncio.gather(
            self._reauthenticate(mine, chance),
            soon(self._do("revoke", mine, revoking, mine.session_id)),
            soon(self._do("sign_out", mine, signing_out)),
        )

    async def _duel(self, one: Held, other: Held, chance: random.Random) -> None:
        """Let two sessions end each other concurrently."""

        async def strike(by: Held, at: Held) -> None:
            client = chance.choice(self._clients)
            if chance.random() < 0.5:
                await self._do("revoke", by, client.revoke(by.token, at.session_id), at.session_id)
            else:
                await self._do("revoke_others", by, client.revoke_others(by.token))

        if one.session_id != other.session_id:
            await asyncio.gather(strike(one, other), strike(other, one))

    async def _watching(
        self, held: Held, chance: random.Random, ending: Coroutine[object, object, None]
    ) -> None:
        """Validate a session repeatedly while it is ended, and once more right after."""
        ended = asyncio.create_task(ending)

        async def watch() -> None:
            while not ended.done():
                await self._validate(held, chance)

        watching = [asyncio.create_task(watch()) for _ in range(WATCHERS)]
        await ended
        await asyncio.gather(
            *watching, *(self._validate(held, chance) for _ in range(len(self._clients) * 2))
        )

    async def _reauthenticate(self, mine: Held, chance: random.Random) -> None:
        begin = time.monotonic()
        try:
            new = await chance.choice(self._clients).reauthenticate(mine.token)
        except SessionAuthorityError as error:
            self._note("reauthenticate", begin, mine, _answer(error))
            return
        self._note("reauthenticate", begin, mine)
        renewed = Held(mine.session_id, mine.user_id, new.token, mine.version + 1)
        self._held[mine.user_id].append(renewed)
        await self._validate(mine, chance)

    async def _do(self, kind: str, mine: Held, call: Awaitable[object], target: str = "") -> None:
        begin = time.monotonic()
        try:
            await call
        except SessionAuthorityError as error:
            self._note(kind, begin, mine, _answer(error), target)
        else:
            self._note(kind, begin, mine, OK, target)

    def _note(
        self, kind: str, begin: float, held: Held, answer: str = OK, target: str = ""
    ) -> None:
        if answer != OK:
            self._dead.add((held.session_id, held.version))
        self.history.calls.append(
            Call(
                kind,
                begin,
                time.monotonic(),
                held.user_id,
                held.session_id,
                held.version,
                answer,
                target,
            )
        )


def verdict(answer: Session | Rejection) -> str:
    return answer.reason.name if isinstance(answer, Rejection) else OK


def _answer(error: SessionAuthorityError) -> str:
    if isinstance(error, SessionNotLive):
        return NOT_LIVE
    if isinstance(error, AuthenticationTooOld):
        return "AUTHENTICATION_TOO_OLD"
    if isinstance(error, Unavailable):
        return UNKNOWN
    return f"{type(error).__name__}: {error}"


def missing(history: History) -> set[object]:
    """Return the outcomes that have not occurred. A race needs an accepted call of each kind, and each rejection."""
    accepted = {call.kind for call in history.calls if call.answer == OK}
    rejections = {call.answer for call in history.calls if call.kind == "validate"}
    kinds = set(KINDS) - {"batch", "contest", "duel"}
    return (kinds - accepted) | (ANSWERS["validate"] - rejections)
