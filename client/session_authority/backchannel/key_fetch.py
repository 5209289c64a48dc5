"""Fetches the keys of a provider over HTTP."""

import json
import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from threading import Timer
from typing import Any

try:
    import httpx
except ImportError as error:
    raise ImportError(
        f"session_authority.backchannel needs httpx ({error}); "
        "install session-authority with its extra `backchannel`"
    ) from None

from session_authority.backchannel.key_source import KeysUnavailable
from session_authority.backchannel.provider import Provider, is_safe_address
from session_authority.backchannel.signed_token import Key, keys_of

FETCH_SECONDS = 5.0
"""How long the keys may take to arrive."""
DOCUMENT_LIMIT_BYTES = 256 * 1024
"""The largest key set, and the largest discovery document."""

# A compressed document could be far larger than its bytes. Each request has a connection of its own, which can be cut.
_HEADERS = {"accept": "application/json", "accept-encoding": "identity", "connection": "close"}


def fetch_keys(provider: Provider) -> tuple[Key, ...]:
    """Fetch the keys of a provider. This call blocks for at most about `FETCH_SECONDS`.

    Raises:
        KeysUnavailable: The provider does not answer, or its answer is not usable. The error says why.
    """
    give_up = time.monotonic() + FETCH_SECONDS
    with httpx.Client(headers=_HEADERS, timeout=FETCH_SECONDS, verify=_trusted()) as client:
        address = provider.jwks_url or _discover(client, provider, give_up)
        try:
            return keys_of(_get(client, address, give_up))
        except ValueError as error:
            raise KeysUnavailable(f"{address} is not usable: {error}") from None


@cache
def _trusted() -> ssl.SSLContext:
    """Return the certificate authorities to trust. It takes long to read them."""
    return httpx.create_ssl_context()


def _discover(client: httpx.Client, provider: Provider, give_up: float) -> str:
    """Return the address of the keys, which the provider's discovery document names."""
    address = provider.discovery_url
    try:
        document = json.loads(_get(client, address, give_up))
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict) or document.get("issuer") != provider.issuer:
        raise KeysUnavailable(f"{address} is not the discovery document of this issuer")
    keys_address = document.get("jwks_uri")
    # Only a provider on this machine may name an address on this machine.
    is_local = provider.discovery_url.startswith("http:")
    if not is_safe_address(keys_address) or not (is_local or keys_address.startswith("https:")):
        raise KeysUnavailable(f"{address} names no jwks_uri with https")
    return keys_address


@contextmanager
def _cut_at(give_up: float) -> Iterator[dict[str, Any]]:
    """Cut the connection at a moment. Yield the extensions of the request, which note the connection.

    httpx limits the wait for the next bytes only. A provider that sends its headers byte by byte could hold the fetch
    forever, and all later tokens would wait for it.
    """
    connections: list[socket.socket] = []

    def trace(step: str, details: dict[str, Any]) -> None:
        if step.endswith(".connect_tcp.complete"):
            stream = details["return_value"]
            connections.append(stream.get_extra_info("socket").dup())  # TLS detaches the original
            if time.monotonic() > give_up:
                cut()

    def cut() -> None:
        for each in connections:
            with suppress(OSError):  # closed by the provider
                each.shutdown(socket.SHUT_RDWR)

    timer = Timer(give_up - time.monotonic(), cut)
    timer.daemon = True
    timer.start()
    try:
        yield {"trace": trace}
    finally:
        timer.cancel()
        for each in connections:
            each.close()


def _get(client: httpx.Client, address: str, give_up: float) -> bytes:
    document, problem = bytearray(), ""
    try:
        with (
            _cut_at(give_up) as extensions,
            client.stream(
                "GET", address, follow_redirects=False, extensions=extensions
            ) as response,
        ):
            if response.status_code != httpx.codes.OK:
                raise KeysUnavailable(f"{address} answers {response.status_code}")
            for part in response.iter_raw():
                document += part
                if len(document) > DOCUMENT_LIMIT_BYTES:
                    raise KeysUnavailable(f"{address} sends more than {DOCUMENT_LIMIT_BYTES} bytes")
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        problem = f"does not answer ({type(error).__name__})"
    # A document whose connection was cut may look complete.
    if time.monotonic() > give_up:
        problem = f"takes more than {FETCH_SECONDS:.0f} seconds"
    if problem:
        raise KeysUnavailable(f"{address} {problem}")
    return bytes(document)
