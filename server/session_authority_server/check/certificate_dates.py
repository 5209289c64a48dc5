"""From when until when a certificate holds, as TLS itself reads it.

`ssl` tells what stands in a certificate to whoever has verified it at the other end, and to nobody else. So it is
shown, in memory, to a client that trusts this one alone, at any time.
"""

import contextlib
import ssl
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

# X509_V_FLAG_NO_CHECK_TIME of OpenSSL (x509_vfy.h), for which `ssl` has no name.
_AT_ANY_TIME = 0x200000
_ROUNDS = 3  # hello; certificate; both are finished


def dates_of(certificate: Path, key: Path) -> tuple[datetime, datetime] | None:
    """Return the first and the last moment of a server's certificate; None where it can't be shown or verified."""
    try:
        shown = _shown(certificate, key)
        begin, end = (
            ssl.cert_time_to_seconds(str(shown[name])) for name in ("notBefore", "notAfter")
        )
    except (OSError, ValueError, KeyError):  # of which TLS's own errors are some
        return None
    return datetime.fromtimestamp(begin, UTC), datetime.fromtimestamp(end, UTC)


def _shown(certificate: Path, key: Path) -> Mapping[str, object]:
    """Return what a client is shown; it is empty where none was verified."""
    serves = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    # A passphrase, although there is none: or else it may ask for one on the terminal.
    serves.load_cert_chain(certificate, key, password="")
    tls_context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    tls_context.check_hostname = False
    tls_context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN | ssl.VerifyFlags(_AT_ANY_TIME)
    tls_context.load_verify_locations(certificate)
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = tls_context.wrap_bio(to_client, to_server)
    server = serves.wrap_bio(to_server, to_client, server_side=True)
    for _ in range(_ROUNDS):
        for end in (client, server):
            with contextlib.suppress(ssl.SSLWantReadError):
                end.do_handshake()
    return client.getpeercert() or {}
