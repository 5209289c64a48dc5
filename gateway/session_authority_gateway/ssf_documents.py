"""The JSON documents of the Shared Signals Framework, from and to the messages of SessionEventService."""

from collections.abc import Mapping
from typing import Any, NoReturn

from session_authority.v1 import session_event_service_pb2 as pb
from session_authority_gateway.json_request import parse_object
from session_authority_server.domain.errors import InvalidRequest, Violation
from session_authority_server.domain.event_stream import (
    EVENTS_SUPPORTED,
    MIN_VERIFICATION_INTERVAL,
)

PUSH, POLL = "urn:ietf:rfc:8935", "urn:ietf:rfc:8936"
BEARER = "urn:ietf:rfc:6750"

CONFIGURATION_PATH = "/.well-known/ssf-configuration"
JWKS_PATH = "/ssf/jwks.json"
STREAM_PATH = "/ssf/stream"
STATUS_PATH = "/ssf/status"
VERIFICATION_PATH = "/ssf/verification"
POLL_PATH = "/ssf/poll/"

EVENTS_POLLED = 100
"""How many events a poll returns at most."""

Document = dict[str, Any]

_STATUSES: Mapping[str, "pb.EventStreamStatus.ValueType"] = {
    "enabled": pb.EVENT_STREAM_STATUS_ENABLED,
    "paused": pb.EVENT_STREAM_STATUS_PAUSED,
    "disabled": pb.EVENT_STREAM_STATUS_DISABLED,
}
_STATUS_NAMES = {code: name for name, code in _STATUSES.items()}


def configuration(issuer: str) -> Document:
    """Return the metadata of the transmitter."""
    return {
        "spec_version": "1_0",
        "issuer": issuer,
        "jwks_uri": issuer + JWKS_PATH,
        "delivery_methods_supported": [PUSH, POLL],
        "configuration_endpoint": issuer + STREAM_PATH,
        "status_endpoint": issuer + STATUS_PATH,
        "verification_endpoint": issuer + VERIFICATION_PATH,
        "authorization_schemes": [{"spec_urn": BEARER}],
        "default_subjects": "ALL",
    }


def stream_document(issuer: str, stream: pb.EventStream) -> Document:
    """Return the configuration of a stream."""
    document: Document = {
        "stream_id": stream.stream_id,
        "iss": issuer,
        "aud": stream.audience,
        "delivery": _delivery_document(issuer, stream),
        "events_supported": list(EVENTS_SUPPORTED),
        "events_delivered": list(stream.events_delivered),
        "min_verification_interval": int(MIN_VERIFICATION_INTERVAL.total_seconds()),
    }
    if stream.HasField("events_requested"):
        document["events_requested"] = list(stream.events_requested.uris)
    if stream.description:
        document["description"] = stream.description
    return document


def _delivery_document(issuer: str, stream: pb.EventStream) -> Document:
    if stream.delivery.push_url:
        return {"method": PUSH, "endpoint_url": stream.delivery.push_url}
    return {"method": POLL, "endpoint_url": issuer + POLL_PATH + stream.stream_id}


def status_document(stream: pb.EventStream) -> Document:
    """Return the status of a stream."""
    document = {"stream_id": stream.stream_id, "status": _STATUS_NAMES[stream.status]}
    return document | ({"reason": stream.status_reason} if stream.status_reason else {})


def polled_document(polled: pb.PollEventStreamResponse) -> Document:
    """Return the answer to a poll."""
    sets = {each.token_id: each.token for each in polled.tokens}
    # Left out if false, because some receivers expect nothing but `sets`.
    return {"sets": sets} | ({"moreAvailable": True} if polled.more_available else {})


class Given:
    """The JSON object in the body of a request. Unknown members are ignored, as the specifications say."""

    def __init__(self, body: bytes) -> None:
        """Parse a body.

        Raises:
            MalformedRequest: If the body is not one JSON object in UTF-8.
        """
        self._members = parse_object(body, "Shared Signals")

    def text(self, name: str, *, required: bool = False) -> str | None:
        """Return a member that is a string; None if it is absent or null.

        Raises:
            InvalidRequest: If it is of another type, or required and absent.
        """
        value = self._members.get(name)
        if value is None and not required:
            return None
        if not isinstance(value, str):
            _refuse(name, "must be a string")
        return _encodable(name, value)

    def stream_id(self) -> str:
        """Return the id of the stream that the request is about.

        Raises:
            InvalidRequest: If there is none.
        """
        return self.text("stream_id", required=True) or ""

    def create(self) -> pb.CreateEventStreamRequest:
        """Return the request to create a stream.

        Raises:
            InvalidRequest: If a member has a wrong type or value.
        """
        return pb.CreateEventStreamRequest(
            delivery=self._delivery(),
            events_requested=self._events_requested(),
            description=self.text("description") or "",
        )

    def update(
        self, issuer: str, stream: pb.EventStream, *, replace: bool
    ) -> pb.UpdateEventStreamRequest:
        """Return the request to change a stream.

        Args:
            issuer: The issuer.
            stream: The stream before the change.
            replace: Whether absent members get their defaults.

        Raises:
            InvalidRequest: If a member has a wrong type or value, or is the transmitter's and differs.
        """
        self._check_fixed(stream_document(issuer, stream))
        return pb.UpdateEventStreamRequest(
            stream_id=stream.stream_id,
            delivery=self._delivery(),
            events_requested=self._events_requested(),
            description=self.text("description"),
            replace=replace,
        )

    def status(self) -> pb.SetEventStreamStatusRequest:
        """Return the request to change the status of a stream.

        Raises:
            InvalidRequest: If a member has a wrong type or value.
        """
        status = _STATUSES.get(self.text("status", required=True) or "")
        if status is None:
            _refuse("status", "must be enabled, paused or disabled")
        return pb.SetEventStreamStatusRequest(
            stream_id=self.stream_id(), status=status, reason=self.text("reason") or ""
        )

    def verification(self) -> pb.VerifyEventStreamRequest:
        """Return the request for a verification event.

        Raises:
            InvalidRequest: If a member has a wrong type.
        """
        return pb.VerifyEventStreamRequest(stream_id=self.stream_id(), state=self.text("state"))

    def poll(self, stream_id: str) -> tuple[pb.PollEventStreamRequest, bool]:
        """Return a request to poll, and whether it waits for events.

        Raises:
            InvalidRequest: If a member has a wrong type or value.
        """
        limit = self._members.get("maxEvents", EVENTS_POLLED)
        if isinstance(limit, bool) or not isinstance(limit, int) or limit < 0:
            _refuse("maxEvents", "must be a whole number that is not negative")
        at_once = self._members.get("returnImmediately", False)
        if not isinstance(at_once, bool):
            _refuse("returnImmediately", "must be true or false")
        request = pb.PollEventStreamRequest(
            stream_id=stream_id,
            acknowledged=_texts("ack", self._members.get("ack", [])),
            errors=self._errors(),
            limit=min(limit, EVENTS_POLLED),
        )
        return request, limit > 0 and not at_once

    def _errors(self) -> list[pb.EventError]:
        errors = self._members.get("setErrs", {})
        if not isinstance(errors, dict):
            _refuse("setErrs", "must be an object")
        found = []
        for token_id, error in errors.items():
            code = error.get("err") if isinstance(error, dict) else None
            if not isinstance(code, str):
                _refuse("setErrs", "must have an object with the string `err` for each token")
            found.append(
                pb.EventError(
                    token_id=_encodable("setErrs", token_id), code=_encodable("err", code)
                )
            )
        return found

    def _delivery(self) -> pb.EventDelivery | None:
        delivery = self._members.get("delivery")
        if delivery is None:
            return None
        if not isinstance(delivery, dict):
            _refuse("delivery", "must be an object")
        method, url = delivery.get("method"), delivery.get("endpoint_url")
        if method == POLL:
            return pb.EventDelivery()
        if method != PUSH:
            _refuse("delivery.method", f"must be {PUSH} (push) or {POLL} (poll)")
        if not isinstance(url, str) or not url:
            _refuse("delivery.endpoint_url", "must be the address to push to")
        header = delivery.get("authorization_header")
        if header is not None and not isinstance(header, str):
            _refuse("delivery.authorization_header", "must be a string")
        return pb.EventDelivery(
            push_url=_encodable("delivery.endpoint_url", url),
            push_authorization=None
            if header is None
            else _encodable("delivery.authorization_header", header),
        )

    def _events_requested(self) -> pb.EventTypes | None:
        requested = self._members.get("events_requested")
        return (
            None if requested is None else pb.EventTypes(uris=_texts("events_requested", requested))
        )

    def _check_fixed(self, current: Document) -> None:
        """Check the members that the transmitter supplies. They may be absent, but must not differ."""
        for name in (
            "iss",
            "aud",
            "events_supported",
            "events_delivered",
            "min_verification_interval",
        ):
            given = self._members.get(name)
            if given is not None and not _is_same(given, current[name]):
                _refuse(
                    name, "is supplied by the transmitter; leave it out, or give its present value"
                )
        delivery = self._members.get("delivery")
        if isinstance(delivery, dict) and delivery.get("method") == POLL:
            url = delivery.get("endpoint_url")
            if url not in (None, "", current["delivery"]["endpoint_url"]):
                _refuse("delivery.endpoint_url", "is supplied by the transmitter; leave it out")


def _is_same(given: object, current: object) -> bool:
    if isinstance(current, list) and isinstance(given, list):
        return sorted(map(str, given)) == sorted(map(str, current))
    return given == current or given == [current]


def _texts(name: str, value: object) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        _refuse(name, "must be a list of strings")
    return [_encodable(name, each) for each in value]


def _encodable(name: str, text: str) -> str:
    """Return a text, unless it has half of a surrogate pair, which no message can contain."""
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            _refuse(name, "must be Unicode text")
    return text


def _refuse(name: str, problem: str) -> NoReturn:
    raise InvalidRequest([Violation(name, problem)])
