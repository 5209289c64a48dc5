import threading
from collections.abc import Sequence
from concurrent.futures import CancelledError

import pytest

from session_authority.backchannel import Provider
from session_authority.backchannel.key_source import (
    PAUSE_SECONDS,
    KeySource,
    KeysUnavailable,
)
from session_authority.backchannel.signed_token import Key
from tests.support.provider_tokens import PROVIDER
from tests.unit.backchannel.receiving import Steady, finished


def test_callers_share_one_fetch_and_none_can_cancel_it() -> None:
    may_answer = threading.Event()
    fetches = []

    def fetch(provider: Provider) -> Sequence[Key]:
        fetches.append(provider)
        may_answer.wait(30)
        return ()

    source = KeySource(PROVIDER, fetch, Steady())
    first, second = source.refresh(), source.refresh()
    assert first is not None
    assert first is second
    assert not first.cancel()
    may_answer.set()
    finished(first)
    assert fetches == [PROVIDER]
    assert source.keys() == ()
    assert source.is_fresh


def test_there_is_a_pause_between_two_fetches() -> None:
    clock = Steady()
    source = KeySource(PROVIDER, lambda _: (), clock)
    finished(source.refresh())
    assert source.refresh() is None
    clock.seconds += PAUSE_SECONDS
    finished(source.refresh())


def test_an_unexpected_error_ends_the_fetch_too(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[threading.ExceptHookArgs] = []
    monkeypatch.setattr(threading, "excepthook", seen.append)

    def fetch(_: Provider) -> Sequence[Key]:
        raise CancelledError

    clock = Steady()
    source = KeySource(PROVIDER, fetch, clock)
    finished(source.refresh())
    with pytest.raises(KeysUnavailable):
        source.keys()
    clock.seconds += PAUSE_SECONDS
    finished(source.refresh())
