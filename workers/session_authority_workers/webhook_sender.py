import asyncio
import json
import logging
import ssl
from collections.abc import Mapping
from functools import cache

import httpcore

from session_authority_workers.guarded_network import (
    AddressRefused,
    AnswerTooLong,
    GuardedNetwork,
    Resolve,
    Resolver,
)

# How many requests a receiver gets at a time, each of another user.
REQUESTS_AT_ONCE = 32
# The longest duration of a request, from the look-up of the name to the end of the answer.
REQUEST_SECONDS = 10.0
# Receivers often close a connection that was unused for 5 seconds. So these connections are closed earlier.
_UNUSED_SECONDS = 3.0
_BAD_REQUEST = 400
_GONE = 410
# https://www.iana.org/assignments/secevent/secevent.xhtml
_ERRORS = frozenset(
    (
        "access_denied",
        "authentication_failed",
        "invalid_audience",
        "invalid_issuer",
        "invalid_key",
        "invalid_request",
        "invalid_state",
    )
)

_log = logging.getLogger(__name__)


class DeliveryFailed(Exception):
    """A receiver did not accept an event. The message says why. It quotes no text of the receiver."""


class ReceiverGone(DeliveryFailed):
    """A receiver answered that it wants no more events."""


class WebhookSender:
    """Sends webhooks to one receiver. Bounds what the receiver can do with its answers."""

    def __init__(
        self,
        url: str,
        *,
        may_be_private: bool,
        resolve: Resolve | None = None,
        trust: ssl.SSLContext | None = None,
    ) -> None:
        """Create a sender, without connecting.

        Args:
            url: The address of the receiver, which `check_url` has accepted.
            may_be_private: Whether the operator allows private addresses.
            resolve: Returns the addresses of a host. By default, the system's resolver.
            trust: The certificate authorities. By default, those of the system and of Mozilla.
        """
        self._url = httpcore.URL(url)
        self._resolver = Resolver()
        network = GuardedNetwork(may_be_private=may_be_private, resolve=resolve or self._resolver)
        self._connections = httpcore.AsyncConnectionPool(
            ssl_context=trust or _trusted_authorities(),
            max_connections=REQUESTS_AT_ONCE,
            keepalive_expiry=_UNUSED_SECONDS,
            network_backend=network,
        )

    async def send(self, headers: Mapping[str, str], body: bytes) -> None:
        """Send an event once.

        Raises:
            DeliveryFailed: If the receiver did not accept the event, or its answer is too slow or too long.
        """
        sent = {
            "host": self._host(),
            "content-type": "application/json",
            "user-agent": "session-authority",
            "accept-encoding": "identity",
            **headers,
        }
        try:
            async with asyncio.timeout(REQUEST_SECONDS):
                status, answered = await self._exchange(sent, body)
        except TimeoutError:
            raise DeliveryFailed(f"no complete answer within {REQUEST_SECONDS:g} seconds") from None
        except (AddressRefused, AnswerTooLong) as error:
            raise DeliveryFailed(str(error)) from None
        except httpcore.ConnectError as error:
            raise DeliveryFailed(_why_unreachable(error)) from None
        except httpcore.ConnectTimeout:
            raise DeliveryFailed("the connection was not accepted in time") from None
        except httpcore.ProtocolError:
            raise DeliveryFailed("the answer is not HTTP") from None
        except (httpcore.NetworkError, OSError):
            raise DeliveryFailed("the connection broke") from None
        except Exception:  # noqa: BLE001 - see below
            # Hostile answers may find an error that the library does not expect. It must not stop the delivery.
            _log.exception("a delivery failed unexpectedly")
            raise DeliveryFailed("an unexpected error; the worker's log has it") from None
        _judge(status, answered)

    async def close(self) -> None:
        """Close the connections."""
        await self._connections.aclose()
        self._resolver.close()

    def _host(self) -> str:
        """Return the value of the header `host`."""
        url = self._url
        default = {b"https": 443, b"http": 80}[url.scheme]
        host = url.host.decode()
        shown = f"[{host}]" if ":" in host and not host.startswith("[") else host
        return shown if url.port in (None, default) else f"{shown}:{url.port}"

    async def _exchange(self, headers: Mapping[str, str], body: bytes) -> tuple[int, bytes]:
        """Send a request, and return the status and the content of its answer."""
        received = bytearray()
        async with self._connections.stream(
            "POST", self._url, headers=list(headers.items()), content=body
        ) as answer:
            async for chunk in answer.aiter_stream():
                received += chunk
        status: int = answer.status
        return status, bytes(received)


def _judge(status: int, answered: bytes) -> None:
    """Raise DeliveryFailed unless a status says that the receiver has accepted an event."""
    if 200 <= status < 300:
        return
    if status == _GONE:
        raise ReceiverGone("the receiver answered 410: it wants no more events")
    if 300 <= status < 400:
        raise DeliveryFailed(f"the receiver answered {status}; redirects are not followed")
    error = _error_in(answered) if status == _BAD_REQUEST else ""
    raise DeliveryFailed(f"the receiver answered {status}" + (f": {error}" if error else ""))


def _error_in(answered: bytes) -> str:
    """Return the code in an answer that refuses a security event (RFC 8935); "" if there is no known code."""
    try:
        found = json.loads(answered)
    except (ValueError, RecursionError):
        return ""
    error = found.get("err") if isinstance(found, dict) else None
    return error if isinstance(error, str) and error in _ERRORS else ""


def _why_unreachable(error: httpcore.ConnectError) -> str:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return f"the receiver's certificate is not accepted: {cause.verify_message}"
        cause = cause.__context__
    return "no connection to the receiver"


@cache
def _trusted_authorities() -> ssl.SSLContext:
    return httpcore.default_ssl_context()
