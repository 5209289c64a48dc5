"""Push security events to the receivers of streams: RFC 8935."""

import asyncio
from datetime import datetime
from typing import TYPE_CHECKING

from session_authority_server.domain.receiver import Delivery, Receiver
from session_authority_workers.webhook_sender import DeliveryFailed, WebhookSender

if TYPE_CHECKING:
    # It imports cryptography, which a worker without security events does not need in its memory.
    from session_authority_server.background.event_transmitter import EventTransmitter

_HEADERS = {"content-type": "application/secevent+jwt", "accept": "application/json"}


class Pushes:
    """Signs security events and pushes them to the receiver of one stream."""

    def __init__(
        self, receiver: Receiver, transmitter: "EventTransmitter | None", sender: WebhookSender
    ) -> None:
        self._receiver = receiver
        self._transmitter = transmitter
        self._sender = sender

    async def deliver(self, delivery: Delivery, _now: datetime) -> None:
        """Push an event.

        Raises:
            DeliveryFailed: If the receiver did not accept it, or the operator has not set everything up.
        """
        receiver, transmitter = self._receiver, self._transmitter
        if transmitter is None:
            raise DeliveryFailed("the worker has neither EVENT_ISSUER nor EVENT_SIGNING_KEYS")
        headers = dict(_HEADERS)
        if receiver.sealed_authorization is not None:
            secret = transmitter.unseal(receiver.receiver_id, receiver.sealed_authorization)
            if secret is None:
                raise DeliveryFailed(
                    "its authorization_header was stored with another EVENT_KEY; the receiver must set it again"
                )
            headers["authorization"] = secret
        # In a thread, because a signature takes about a millisecond.
        token = await asyncio.to_thread(
            transmitter.token, receiver.receiver_id, receiver.owner or "", delivery
        )
        await self._sender.send(headers, token.encode())

    async def close(self) -> None:
        """Close the connections."""
        await self._sender.close()
