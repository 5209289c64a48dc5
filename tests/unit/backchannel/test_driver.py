"""Requests in an event loop, and fetches that take too long."""

import asyncio
import threading
from collections.abc import Sequence
from datetime import datetime

import pytest

from session_authority.backchannel import Provider, driver
from session_authority.backchannel.driver import run, run_async
from session_authority.backchannel.receiver import Outcome, Posted, Receiver, Steps
from session_authority.backchannel.signal import EndedIdentity
from session_authority.backchannel.signed_token import Key, keys_of
from session_authority.errors import Unavailable
from tests.support.provider_tokens import NOON, PROVIDER, event_claims, key_set, signing_key
from tests.unit.backchannel.receiving import EFFECTIVE, EVENT, FakeProvider

KEY = signing_key()


def pushed(receiver: Receiver, name: str = "one") -> Steps:
    token = KEY.sign(event_claims(jti=name), typ="secevent+jwt")
    return receiver.event(Posted("POST", EVENT, token.encode()))


async def end(_: EndedIdentity) -> datetime:
    return EFFECTIVE


async def fail(_: EndedIdentity) -> datetime:
    raise Unavailable


async def test_requests_at_the_same_time_share_a_fetch() -> None:
    provider = FakeProvider([KEY])
    receiver = Receiver([PROVIDER], lambda: NOON, provider.fetch)
    answers = await asyncio.gather(*(run_async(pushed(receiver, str(n)), end) for n in range(20)))
    assert {each.outcome for each in answers} == {Outcome.ENDED}
    assert provider.fetches == 1


async def test_an_outage_of_the_authority_reaches_the_provider() -> None:
    receiver = Receiver([PROVIDER], lambda: NOON, FakeProvider([KEY]).fetch)
    assert (await run_async(pushed(receiver), fail)).status == 503
    assert (await run_async(pushed(receiver), end)).status == 202


async def test_a_request_waits_for_keys_only_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "_WAIT_SECONDS", 0.01)
    may_answer = threading.Event()

    def fetch(_: Provider) -> Sequence[Key]:
        may_answer.wait(30)
        return keys_of(key_set(KEY))

    receiver = Receiver([PROVIDER], lambda: NOON, fetch)
    assert (await run_async(pushed(receiver), end)).status == 503
    assert run(pushed(receiver), lambda _: EFFECTIVE).status == 503
    may_answer.set()
    monkeypatch.setattr(driver, "_WAIT_SECONDS", 30)
    # The late answer helps the next request.
    assert (await run_async(pushed(receiver), end)).status == 202


async def test_a_cancelled_request_does_not_cancel_the_fetch_of_others() -> None:
    may_answer = threading.Event()

    def fetch(_: Provider) -> Sequence[Key]:
        may_answer.wait(30)
        return keys_of(key_set(KEY))

    receiver = Receiver([PROVIDER], lambda: NOON, fetch)
    first = asyncio.create_task(run_async(pushed(receiver, "1"), end))
    second = asyncio.create_task(run_async(pushed(receiver, "2"), end))
    await asyncio.sleep(0)
    first.cancel()
    may_answer.set()
    assert (await second).outcome is Outcome.ENDED
    with pytest.raises(asyncio.CancelledError):
        await first
