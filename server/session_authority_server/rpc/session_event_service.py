from collections.abc import Mapping

from session_authority.v1 import session_event_service_pb2 as pb
from session_authority_server.domain.errors import InvalidRequest, Violation
from session_authority_server.domain.event_stream import EventStream, StreamStatus, audience
from session_authority_server.rpc.authentication import current_caller
from session_authority_server.usecases import event_streams
from session_authority_server.usecases.event_streams import (
    Delivery,
    EventStreams,
    Poll,
    Settings,
)

_STATUSES: Mapping["pb.EventStreamStatus.ValueType", StreamStatus] = {
    pb.EVENT_STREAM_STATUS_ENABLED: StreamStatus.ENABLED,
    pb.EVENT_STREAM_STATUS_PAUSED: StreamStatus.PAUSED,
    pb.EVENT_STREAM_STATUS_DISABLED: StreamStatus.DISABLED,
}


class SessionEventService:
    """`session_authority.v1.SessionEventService`: parses requests, calls use-cases and builds responses."""

    def __init__(self, streams: EventStreams) -> None:
        self._streams = streams

    async def GetEventTransmitter(
        self, _request: pb.GetEventTransmitterRequest
    ) -> pb.GetEventTransmitterResponse:
        transmitter = self._streams.transmitter
        return pb.GetEventTransmitterResponse(
            issuer=transmitter.issuer, jwks=transmitter.keys.published()
        )

    async def CreateEventStream(
        self, request: pb.CreateEventStreamRequest
    ) -> pb.CreateEventStreamResponse:
        settings = _settings(request, request.description)
        stream = await event_streams.create_event_stream(self._streams, _owner(), settings)
        return pb.CreateEventStreamResponse(stream=_to_stream(stream))

    async def GetEventStream(self, _request: pb.GetEventStreamRequest) -> pb.GetEventStreamResponse:
        stream = await event_streams.read_event_stream(self._streams, _owner())
        return pb.GetEventStreamResponse(stream=None if stream is None else _to_stream(stream))

    async def UpdateEventStream(
        self, request: pb.UpdateEventStreamRequest
    ) -> pb.UpdateEventStreamResponse:
        description = request.description if request.HasField("description") else None
        stream = await event_streams.update_event_stream(
            self._streams,
            _owner(),
            request.stream_id,
            _settings(request, description),
            replace_all=request.replace,
        )
        return pb.UpdateEventStreamResponse(stream=_to_stream(stream))

    async def DeleteEventStream(
        self, request: pb.DeleteEventStreamRequest
    ) -> pb.DeleteEventStreamResponse:
        await event_streams.delete_event_stream(self._streams, _owner(), request.stream_id)
        return pb.DeleteEventStreamResponse()

    async def SetEventStreamStatus(
        self, request: pb.SetEventStreamStatusRequest
    ) -> pb.SetEventStreamStatusResponse:
        status = _STATUSES.get(request.status)
        if status is None:
            raise InvalidRequest([Violation("status", "must be enabled, paused or disabled")])
        stream = await event_streams.set_event_stream_status(
            self._streams, _owner(), request.stream_id, status, request.reason
        )
        return pb.SetEventStreamStatusResponse(stream=_to_stream(stream))

    async def VerifyEventStream(
        self, request: pb.VerifyEventStreamRequest
    ) -> pb.VerifyEventStreamResponse:
        state = request.state if request.HasField("state") else None
        await event_streams.verify_event_stream(self._streams, _owner(), request.stream_id, state)
        return pb.VerifyEventStreamResponse()

    async def PollEventStream(
        self, request: pb.PollEventStreamRequest
    ) -> pb.PollEventStreamResponse:
        errors = [(each.token_id, each.code) for each in request.errors]
        poll = Poll(request.acknowledged, errors, request.limit)
        polled = await event_streams.poll_event_stream(
            self._streams, _owner(), request.stream_id, poll
        )
        return pb.PollEventStreamResponse(
            tokens=[
                pb.SecurityEventToken(token_id=token_id, token=token)
                for token_id, token in polled.tokens
            ],
            more_available=polled.more_available,
        )


def _owner() -> str:
    """Return the owner of the caller's stream. Keys of the same name own the same stream."""
    return current_caller.get().name


def _settings(
    request: pb.CreateEventStreamRequest | pb.UpdateEventStreamRequest, description: str | None
) -> Settings:
    delivery, requested = None, None
    if request.HasField("delivery"):
        given = request.delivery
        secret = given.push_authorization if given.HasField("push_authorization") else None
        delivery = Delivery(given.push_url, secret)
    if request.HasField("events_requested"):
        requested = list(request.events_requested.uris)
    return Settings(delivery, requested, description)


def _to_stream(stream: EventStream) -> pb.EventStream:
    requested = stream.events_requested
    return pb.EventStream(
        stream_id=str(stream.stream_id),
        audience=audience(stream.owner),
        delivery=pb.EventDelivery(push_url=stream.url),
        events_requested=None if requested is None else pb.EventTypes(uris=requested),
        events_delivered=stream.events_delivered,
        description=stream.description,
        status=next(code for code, status in _STATUSES.items() if status is stream.status),
        status_reason=stream.reason,
    )
