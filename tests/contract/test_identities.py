"""Sessions that came from an identity provider end with the provider's logout, and sign-ins in progress do not survive."""

import asyncio
import random
from dataclasses import replace
from datetime import datetime

import pytest
from sqlalchemy import select

from session_authority_server.domain.clock import ManualClock
from session_authority_server.domain.errors import AuthenticationTooOld, InvalidRequest
from session_authority_server.domain.event import SessionEnded
from session_authority_server.domain.identity import Identity, IdentityKey, Part, key_of
from session_authority_server.domain.policy import Policy
from session_authority_server.domain.session import EndReason, InitiatingEntity, Session
from session_authority_server.ports.store import Transaction
from session_authority_server.store.sessions import SqlSessionStore
from session_authority_server.store.tables import revoked_identities
from session_authority_server.usecases import operator_revoke
from session_authority_server.usecases.create_session import SignIn
from session_authority_server.usecases.reauthenticate_session import Reauthentication
from session_authority_server.usecases.validate_sessions import Validation
from tests.contract.test_statement_counts import locks, statements
from tests.support.engines import DAY, MINUTE, SECOND, START, Engine, a_session
from tests.support.soak import soaked
from tests.support.usecases import Recorder, UseCases

ISSUER = "https://id.example"
IDENTITY = Identity(ISSUER, "u-1", "s-1")
RETRY_SECRET = b"r" * 32


class Provider(UseCases):
    """The use cases, and sign-ins through an identity provider."""

    def __init__(self, engine: Engine) -> None:
        self.events = Recorder()
        self.clock = ManualClock(START)
        store = SqlSessionStore(engine.database, audit=self.events)
        super().__init__(store, self.clock, Policy())
        self.tokens: dict[str, str] = {}

    async def sign_in(
        self,
        name: str,
        identity: Identity | None = IDENTITY,
        *,
        user_id: str = "ann",
        began: datetime | None = None,
    ) -> Session:
        session, token = await self.create(
            SignIn(user_id=user_id, identity=identity, authenticate_time=began)
        )
        self.tokens[name] = token.encode()
        return session

    async def log_out(self, *, subject: str = "", sid: str = "", issuer: str = ISSUER) -> datetime:
        return await self.revoke_identity(issuer, subject, sid, "logged out")

    async def live(self) -> set[str]:
        """Return the names of the sign-ins whose tokens are accepted."""
        answers = {
            name: await self.validate(Validation(token, passive=True))
            for name, token in self.tokens.items()
        }
        return {name for name, answer in answers.items() if isinstance(answer, Session)}


@pytest.fixture
def provider(engine: Engine) -> Provider:
    return Provider(engine)


async def three_users(provider: Provider) -> None:
    await provider.sign_in("one", IDENTITY)
    await provider.sign_in("two", replace(IDENTITY, sid="s-2"))
    await provider.sign_in("no sid", replace(IDENTITY, sid=""))
    await provider.sign_in("another user", Identity(ISSUER, "s-1", "u-1"), user_id="bob")
    await provider.sign_in("another provider", replace(IDENTITY, issuer=f"{ISSUER}/"))
    await provider.sign_in("no provider", None)


async def test_a_logout_with_a_session_id_ends_exactly_its_sessions(provider: Provider) -> None:
    await three_users(provider)
    everyone = await provider.live()
    effective_time = await provider.log_out(sid="s-1", subject="ignored")
    assert await provider.live() == everyone - {"one"}
    assert effective_time > START


async def test_a_logout_of_a_user_ends_exactly_the_users_sessions(provider: Provider) -> None:
    await three_users(provider)
    everyone = await provider.live()
    await provider.log_out(subject="u-1")
    assert await provider.live() == everyone - {"one", "two", "no sid"}


async def test_the_endings_are_recorded_once_with_their_reason(provider: Provider) -> None:
    session = await provider.sign_in("one")
    provider.clock.advance(MINUTE)
    for _ in range(2):
        await provider.log_out(sid="s-1")
    [ended] = [each for each in provider.events.events if isinstance(each, SessionEnded)]
    assert (ended.session_id, ended.user_id, ended.why) == (
        session.session_id,
        "ann",
        "logged out",
    )
    assert ended.ending.reason is EndReason.REVOKED
    assert ended.ending.initiated_by is InitiatingEntity.ADMIN
    assert ended.time == START + MINUTE


async def test_an_unknown_identity_gets_the_same_answer(provider: Provider) -> None:
    await provider.sign_in("one")
    known = await provider.log_out(sid="s-1")
    assert await provider.log_out(sid="s-9") == known


async def test_more_sessions_than_one_transaction_ends(
    provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(operator_revoke, "BATCH_LIMIT", 2)
    for number in range(4):
        await provider.sign_in(str(number), user_id=f"user-{number}")
    await provider.log_out(subject="u-1")
    assert await provider.live() == set()


async def test_sessions_that_ended_otherwise_keep_their_ending(
    engine: Engine, provider: Provider
) -> None:
    key = key_of(Part.SUBJECT, ISSUER, "u-1")
    expired = replace(a_session(lifetime=SECOND), subject_hash=key.digest)
    swept = replace(a_session("bob"), subject_hash=key.digest)
    await engine.add(expired, swept)
    await engine.sweep("bob", START)
    provider.clock.advance(MINUTE)
    await provider.log_out(subject="u-1")
    assert [(await engine.get(each.session_id)).ending for each in (expired, swept)] == [None] * 2
    assert not provider.events.events


async def test_a_sign_in_that_began_before_the_logout_is_refused(provider: Provider) -> None:
    provider.clock.advance(MINUTE)
    await provider.log_out(sid="s-1")
    provider.clock.advance(MINUTE)
    with pytest.raises(AuthenticationTooOld):
        await provider.sign_in("late", began=START + MINUTE - SECOND)
    await provider.sign_in("other sid", replace(IDENTITY, sid="s-2"), began=START)
    await provider.sign_in("after", began=START + MINUTE)
    assert await provider.live() == {"other sid", "after"}


async def test_an_earlier_logout_does_not_replace_a_later_one(engine: Engine) -> None:
    key = key_of(Part.SID, ISSUER, "s-1")
    for time in (START + MINUTE, START):
        await revoke(engine, key, time)
    assert (await lock(engine, key)) == START + MINUTE


async def test_a_logout_time_in_the_future_is_corrected_by_the_next_sign_in(
    engine: Engine, provider: Provider
) -> None:
    await revoke(engine, key_of(Part.SID, ISSUER, "s-1"), START + DAY)
    with pytest.raises(AuthenticationTooOld):
        await provider.sign_in("began before", began=START - MINUTE)
    await provider.sign_in("began now")
    assert await provider.live() == {"began now"}


@pytest.mark.parametrize("known_user", [False, True])
async def test_a_sign_in_waits_for_a_logout_in_progress_and_is_refused(
    engine: Engine, provider: Provider, *, known_user: bool
) -> None:
    if known_user:
        await provider.sign_in("known", None)
    recorded, go_on = asyncio.Event(), asyncio.Event()

    async def log_out(transaction: Transaction) -> None:
        await transaction.revoke_identity(key_of(Part.SID, ISSUER, "s-1"), START + SECOND)
        recorded.set()
        await go_on.wait()

    logout = asyncio.create_task(engine.sessions.transact(log_out))
    await recorded.wait()
    sign_in = asyncio.create_task(provider.sign_in("racing"))
    done, _ = await asyncio.wait([sign_in], timeout=0.1)
    assert not done
    go_on.set()
    await logout
    with pytest.raises(AuthenticationTooOld):
        await sign_in


async def test_a_logout_waits_for_a_sign_in_in_progress_and_ends_its_session(
    engine: Engine, provider: Provider
) -> None:
    session = replace(a_session(), subject_hash=IDENTITY.keys[0].digest)
    inserted, go_on = asyncio.Event(), asyncio.Event()

    async def sign_in(transaction: Transaction) -> None:
        await transaction.lock_user("ann", IDENTITY.keys)
        await transaction.insert_session(session)
        inserted.set()
        await go_on.wait()

    signing_in = asyncio.create_task(engine.sessions.transact(sign_in))
    await inserted.wait()
    logout = asyncio.create_task(provider.log_out(subject="u-1"))
    done, _ = await asyncio.wait([logout], timeout=0.1)
    assert not done
    go_on.set()
    await asyncio.gather(signing_in, logout)
    ending = (await engine.get(session.session_id)).ending
    assert ending is not None
    assert ending.reason is EndReason.REVOKED


@pytest.mark.soak
async def test_no_sign_in_that_began_before_a_logout_survives_it(provider: Provider) -> None:
    chance = random.Random(19)
    survivors: set[str] = set()
    for number in range(soaked(long=500, short=15)):
        provider.clock.advance(SECOND)
        began, users = provider.clock.now() - SECOND / 2, chance.choices("ab", k=3)

        async def sign_in(name: str, user_id: str, began: datetime = began) -> None:
            await asyncio.sleep(chance.random() / 200)
            await provider.sign_in(name, user_id=user_id, began=began)

        sign_ins = [sign_in(f"{number}-{n}", user) for n, user in enumerate(users)]
        how = chance.choice([{"sid": "s-1"}, {"subject": "u-1"}])
        *outcomes, _ = await asyncio.gather(
            *sign_ins, provider.log_out(**how), return_exceptions=True
        )
        for outcome in outcomes:
            assert outcome is None or isinstance(outcome, AuthenticationTooOld), outcome
        survivors |= await provider.live()
        provider.tokens.clear()
    assert survivors == set()


async def test_a_session_that_is_renewed_during_a_logout_stays_ended(provider: Provider) -> None:
    for number in range(5):
        await provider.sign_in(f"old {number}", began=provider.clock.now())
        renewing = provider.reauthenticate(
            Reauthentication(session_token=provider.tokens[f"old {number}"])
        )
        renewed, _ = await asyncio.gather(
            renewing, provider.log_out(sid="s-1"), return_exceptions=True
        )
        if isinstance(renewed, tuple):
            provider.tokens[f"new {number}"] = renewed[1].encode()
        assert await provider.live() == set()
        provider.clock.advance(SECOND)


async def test_a_logout_during_and_after_an_erasure_is_harmless(provider: Provider) -> None:
    await provider.sign_in("one")
    await asyncio.gather(provider.erase_user("ann"), provider.log_out(sid="s-1"))
    await provider.log_out(sid="s-1")
    assert await provider.live() == set()


async def test_an_identity_costs_a_sign_in_no_statement(provider: Provider) -> None:
    await provider.sign_in("one")
    with statements() as found:
        await provider.create(SignIn(user_id="ann", identity=IDENTITY, retry_secret=RETRY_SECRET))
    assert locks(found) == 1
    assert len(found) == 6


async def test_the_store_keeps_an_identity_only_as_hashes(
    engine: Engine, provider: Provider
) -> None:
    await provider.sign_in("one")
    await provider.log_out(sid="s-1")

    async def read(connection: object) -> list[bytes]:
        found = await connection.execute(select(revoked_identities.c.identity_hash))  # type: ignore[attr-defined]
        return list(found.scalars())

    assert await engine.database.read(read) == [key_of(Part.SID, ISSUER, "s-1").digest]


async def test_a_revoked_identity_is_deleted_in_time(engine: Engine) -> None:
    for number in range(3):
        key = key_of(Part.SID, ISSUER, f"s-{number}")
        await revoke(engine, key, START + number * SECOND)
    purge = engine.upkeep.purge_revoked_identities
    assert [await purge(START + 2 * SECOND, 1) for _ in range(3)] == [1, 1, 0]
    assert await lock(engine, key) == START + 2 * SECOND


@pytest.mark.parametrize(
    ("identity", "field"),
    [
        (Identity("", "u"), "identity.issuer"),
        (Identity("i", ""), "identity.subject"),
        (Identity("i", "x" * 1_025), "identity.subject"),
        (Identity("i", "u", "two\nlines"), "identity.sid"),
    ],
)
async def test_an_identity_that_does_not_fit_is_refused(
    provider: Provider, identity: Identity, field: str
) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        await provider.sign_in("one", identity)
    assert [each.field for each in refusal.value.violations] == [field]


async def test_a_logout_needs_a_provider_and_a_user_or_session(provider: Provider) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        await provider.log_out(issuer="")
    assert [each.field for each in refusal.value.violations] == ["issuer", "subject"]
    with pytest.raises(InvalidRequest) as refusal:
        await provider.log_out(sid="x" * 1_025)
    assert [each.field for each in refusal.value.violations] == ["sid"]


async def revoke(engine: Engine, key: IdentityKey, time: datetime) -> None:
    await engine.sessions.transact(lambda transaction: transaction.revoke_identity(key, time))


async def lock(engine: Engine, key: IdentityKey) -> datetime | None:
    async def work(transaction: Transaction) -> datetime | None:
        return (await transaction.lock_user("ann", [key])).swept_time

    return await engine.sessions.transact(work)
