"""A receiver with a fake provider and a fake authority."""

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from urllib.parse import urlencode

from session_authority.backchannel import Provider
from session_authority.backchannel.driver import run
from session_authority.backchannel.key_source import KeySource, KeysUnavailable
from session_authority.backchannel.receiver import Answer, Posted, Receiver
from session_authority.backchannel.signal import EndedIdentity
from session_authority.backchannel.signed_token import Key, keys_of
from session_authority.errors import SessionAuthorityError
from tests.support.provider_tokens import NOON, PROVIDER, SigningKey, key_set

FORM = "application/x-www-form-urlencoded"
EVENT = "application/secevent+jwt"
EFFECTIVE = NOON + timedelta(seconds=3)


@dataclass
class Steady:
    """A clock that the test moves."""

    seconds: float = 1_000.0

    def __call__(self) -> float:
        return self.seconds


@dataclass
class FakeProvider:
    """The keys that a provider publishes now.

    Attributes:
        keys: The keys.
        is_down: Whether it does not answer.
        fetches: How many times they were fetched.
    """

    keys: Sequence[SigningKey] = ()
    is_down: bool = False
    fetches: int = 0

    def fetch(self, _provider: Provider) -> tuple[Key, ...]:
        self.fetches += 1
        if self.is_down:
            raise KeysUnavailable("it does not answer")
        return keys_of(key_set(*self.keys))


@dataclass
class Receiving:
    """A receiver, and the sessions that it has ended.

    Attributes:
        provider: The provider.
        now: The time.
        steady: The clock of the keys.
        ended: The identities whose sessions have ended.
        error: The error of the authority, if it fails.
    """

    provider: FakeProvider
    providers: Sequence[Provider] = (PROVIDER,)
    now: datetime = NOON
    steady: Steady = field(default_factory=Steady)
    ended: list[EndedIdentity] = field(default_factory=list)
    error: SessionAuthorityError | None = None

    def __post_init__(self) -> None:
        self.receiver = Receiver(self.providers, lambda: self.now, self.provider.fetch)
        self.receiver._sources = {
            each: KeySource(each, self.provider.fetch, self.steady) for each in self.providers
        }

    def logout(self, token: str) -> Answer:
        body = urlencode({"logout_token": token}).encode()
        return self.post(self.receiver.logout, body, FORM)

    def push(self, token: str) -> Answer:
        return self.post(self.receiver.event, token.encode(), EVENT)

    def post(
        self,
        method: Callable[[Posted], "object"],
        body: bytes | None,
        content_type: str,
        verb: str = "POST",
    ) -> Answer:
        steps = method(Posted(verb, content_type, body))
        return run(steps, self.end)  # type: ignore[arg-type]

    def end(self, identity: EndedIdentity) -> datetime:
        if self.error is not None:
            raise self.error
        self.ended.append(identity)
        return EFFECTIVE


def finished(fetching: "Future[None] | None") -> None:
    """Wait for a fetch."""
    assert fetching is not None
    fetching.result(timeout=30)
