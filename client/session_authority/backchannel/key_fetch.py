"""Fetches the keys of a provider over HTTP."""

import json
import ssl
import time
from functools import cache

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

# A compressed document could be far larger than its bytes.
_HEADERS = {"accept": "application/json", "accept-encoding": "identity"}


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
    if not isinstance(keys_address, str) or not is_safe_address(keys_address):
        raise KeysUnavailable(f"{address} names no jwks_uri with https")
    return keys_address


def _get(client: httpx.Client, address: str, give_up: float) -> bytes:
    document = bytearray()
    try:
        with client.stream("GET", address, follow_redirects=False) as response:
            if response.status_code != httpx.codes.OK:
                raise KeysUnavailable(f"{address} answers {response.status_code}")
            for part in response.iter_raw():
                document += part
                if len(document) > DOCUMENT_LIMIT_BYTES:
                    raise KeysUnavailable(f"{address} sends more than {DOCUMENT_LIMIT_BYTES} bytes")
                if time.monotonic() > give_up:
                    raise KeysUnavailable(f"{address} takes more than {FETCH_SECONDS:.0f} seconds")
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise KeysUnavailable(f"{address} does not answer ({type(error).__name__})") from None
    return bytes(document)
