"""Answers the requests of providers, without I/O. `driver` does the I/O.

A request is a generator. It yields the fetch of keys that it waits for, and the identity whose sessions end. Its caller
sends it the time after which none of these sessions is accepted, or throws the error of the call into it.
"""

import json
import logging
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import TypeAlias
from urllib.parse import parse_qs

from session_authority.backchannel.key_source import KeySource, KeysUnavailable
from session_authority.backchannel.logout_token import read_logout
from session_authority.backchannel.provider import Provider
from session_authority.backchannel.replays import Replays
from session_authority.backchannel.security_event import read_event
from session_authority.backchannel.signal import EndedIdentity, Signal
from session_authority.backchannel.signed_token import (
    BadSignature,
    Fault,
    Key,
    Refused,
    SignedToken,
    UnknownKey,
    parse,
    verify,
)
from session_authority.errors import InvalidArgument, SessionAuthorityError, Unavailable

BODY_LIMIT_BYTES = 16 * 1024
"""The largest body of a request."""
RETRY_AFTER_SECONDS = 5
REFUSALS_LOGGED = timedelta(seconds=1)
"""How often a refusal is logged at most. The answer to the provider always has the reason."""

_FORM, _EVENT = "application/x-www-form-urlencoded", "application/secevent+jwt"
_JSON = ("content-type", "application/json")
_log = logging.getLogger("session_authority.backchannel")


class Outcome(StrEnum):
    """The outcome of a request, for metrics."""

    ENDED = "ended"
    """The sessions have ended, if there were any."""
    REPEATED = "repeated"
    """The token has been carried out before."""
    IGNORED = "ignored"
    """The event is of a type that asks for nothing."""
    REFUSED = "refused"
    """The token breaks a rule."""
    UNAVAILABLE = "unavailable"
    """The provider's keys or the authority were not available."""
    FAILED = "failed"
    """The authority rejects this program, or has a fault."""


@dataclass(frozen=True, slots=True)
class Posted:
    """A request of a provider.

    Attributes:
        method: The HTTP method, in capitals.
        content_type: The header `Content-Type`, or "".
        body: The body; None if it is larger than `BODY_LIMIT_BYTES`.
    """

    method: str
    content_type: str
    body: bytes | None = field(repr=False)


@dataclass(frozen=True, slots=True)
class Answer:
    """A response to a provider.

    Attributes:
        status: The HTTP status.
        headers: The headers, without Content-Length.
        body: The body.
        outcome: The outcome, for metrics.
    """

    status: int
    headers: Sequence[tuple[str, str]]
    body: bytes
    outcome: Outcome


Steps: TypeAlias = Generator["Future[None] | EndedIdentity", datetime | None, Answer]
_Read: TypeAlias = Callable[[SignedToken, Sequence[Provider], datetime], Signal]


class _PerhapsNewKey(KeysUnavailable):
    """The token is forged, or its key is newer than the keys that are known."""


_PASSING = (KeysUnavailable, Unavailable)


class _Repeated(Exception):
    """The token has been carried out before."""


class Receiver:
    """Receives the signals of some providers."""

    def __init__(
        self,
        providers: Sequence[Provider],
        now: Callable[[], datetime],
        fetch: Callable[[Provider], Sequence[Key]],
    ) -> None:
        """Receive signals.

        Args:
            providers: The providers.
            now: Returns the current time, as an aware datetime.
            fetch: Fetches the keys of a provider, as `key_fetch.fetch_keys` does.
        """
        self._providers = tuple(providers)
        self._now = now
        self._sources = {each: KeySource(each, fetch) for each in self._providers}
        self._logouts, self._events = Replays(), Replays()
        self._logged: datetime | None = None  # when a refusal was last logged

    def logout(self, posted: Posted) -> Steps:
        """Answer a back-channel logout request.

        The specification knows 200 and 400 only. An outage is a logout that failed: 400.
        """
        try:
            if posted.method != "POST":
                return _only_post()
            token = _token_of_form(posted)
            ended_time = yield from self._carry_out(token, read_logout, self._logouts)
        except _Repeated:
            return _bad_logout("the token has been used before", Outcome.REPEATED)
        except Refused as error:
            return _bad_logout(str(error), self._refused(error))
        except (KeysUnavailable, SessionAuthorityError) as error:
            problem = "try again later" if isinstance(error, _PASSING) else "see the log"
            return _bad_logout(f"the logout failed; {problem}", _failed(error))
        assert ended_time is not None
        return _answer(200, Outcome.ENDED, {"effective_time": ended_time.isoformat()})

    def event(self, posted: Posted) -> Steps:
        """Answer the push of a security event. RFC 8935 has the statuses."""
        try:
            if posted.method != "POST":
                return _only_post()
            if posted.body is None:
                return _bad_event("the body is too large", Outcome.REFUSED, status=413)
            token = _token_of_body(posted)
            ended_time = yield from self._carry_out(token, read_event, self._events)
        except _Repeated:
            return _answer(202, Outcome.REPEATED)
        except Refused as error:
            return _bad_event(str(error), self._refused(error), error.fault)
        except (KeysUnavailable, SessionAuthorityError) as error:
            if isinstance(error, _PASSING):
                retry = ("retry-after", str(RETRY_AFTER_SECONDS))
                return _answer(503, _failed(error), None, retry)
            return _answer(500, _failed(error))
        return _answer(202, Outcome.ENDED if ended_time else Outcome.IGNORED)

    def _carry_out(
        self, text: str, read: _Read, done: Replays
    ) -> Generator["Future[None] | EndedIdentity", datetime | None, datetime | None]:
        """Check a token, and end the sessions that it asks to end.

        Returns:
            The time after which none of them is accepted; None if the token asks for nothing.
        """
        now = self._now()
        token = parse(text)
        signal = read(token, self._providers, now)
        yield from self._verify(token, self._sources[signal.provider])
        issuer = signal.provider.issuer
        if done.contains(issuer, signal.token_id):
            raise _Repeated
        ended_time = None
        if signal.ended is not None:
            try:
                ended_time = yield signal.ended
            except InvalidArgument:
                raise Refused(
                    "the subject or session is too long, or has control characters"
                ) from None
        # Only now, because the provider may repeat a token that could not be carried out.
        done.remember(issuer, signal.token_id, signal.accepted_until, now.timestamp())
        return ended_time

    def _refused(self, error: Refused) -> Outcome:
        """Log a refusal, but not each one of a flood."""
        now = self._now()
        if self._logged is None or abs(now - self._logged) >= REFUSALS_LOGGED:
            self._logged = now
            _log.info("a provider's token is refused: %s", error)
        return Outcome.REFUSED

    def _verify(
        self, token: SignedToken, source: KeySource
    ) -> Generator["Future[None]", datetime | None, None]:
        """Verify a signature. If the provider may have changed its keys, fetch them once."""
        arrived = source.time()
        if not source.is_fresh:
            yield from _wait_for(source.refresh())
        try:
            verify(token, source.keys())
        except (UnknownKey, BadSignature):
            if source.has_fetched_since(arrived):
                raise
        else:
            return
        yield from _wait_for(source.refresh())
        try:
            verify(token, source.keys())
        except UnknownKey:
            if source.has_fetched_since(arrived):
                raise
            raise _PerhapsNewKey from None


def _wait_for(
    fetching: "Future[None] | None",
) -> Generator["Future[None]", datetime | None, None]:
    if fetching is not None:
        yield fetching


def _token_of_form(posted: Posted) -> str:
    if posted.body is None:
        raise Refused("the body is too large")
    if not _is(posted, _FORM):
        raise Refused(f"Content-Type must be {_FORM}")
    try:
        given = parse_qs(posted.body.decode("ascii"), max_num_fields=64)
    except ValueError:
        raise Refused("the body is not a form") from None
    tokens = given.get("logout_token", [])
    if len(tokens) != 1:
        raise Refused("the form needs one logout_token")
    return tokens[0]


def _token_of_body(posted: Posted) -> str:
    assert posted.body is not None
    if not _is(posted, _EVENT):
        raise Refused(f"Content-Type must be {_EVENT}")
    try:
        return posted.body.decode("ascii").strip()
    except ValueError:
        raise Refused("the body is not a security event token") from None


def _is(posted: Posted, content_type: str) -> bool:
    return posted.content_type.partition(";")[0].strip().lower() == content_type


def _failed(error: Exception) -> Outcome:
    if isinstance(error, _PerhapsNewKey):  # anyone can cause it, so it must not look like an outage
        return Outcome.REFUSED
    if isinstance(error, _PASSING):  # the client or the key source logs it
        return Outcome.UNAVAILABLE
    _log.error("a provider's sign-out was not carried out: %s", error)
    return Outcome.FAILED


def _only_post() -> Answer:
    return _answer(405, Outcome.REFUSED, None, ("allow", "POST"))


def _bad_logout(problem: str, outcome: Outcome) -> Answer:
    return _answer(400, outcome, {"error": "invalid_request", "error_description": problem})


def _bad_event(
    problem: str, outcome: Outcome, fault: Fault = Fault.INVALID_REQUEST, *, status: int = 400
) -> Answer:
    language = ("content-language", "en")
    return _answer(status, outcome, {"err": fault, "description": problem}, language)


def _answer(
    status: int, outcome: Outcome, content: object = None, *headers: tuple[str, str]
) -> Answer:
    every = [("cache-control", "no-store"), *headers]
    if content is None:
        return Answer(status, every, b"", outcome)
    return Answer(status, [_JSON, *every], json.dumps(content).encode(), outcome)
