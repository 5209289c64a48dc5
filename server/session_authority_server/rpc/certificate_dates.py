"""Read a certificate's fields and validity period with `ssl`.

`ssl` shows a certificate's fields only to a peer that verified it. So an in-memory handshake presents the
certificate to a client that trusts only this certificate, and ignores its dates.
"""

import contextlib
import ssl
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

# X509_V_FLAG_NO_CHECK_TIME of OpenSSL (x509_vfy.h), for which `ssl` has no name.
_NO_CHECK_TIME = 0x200000
_HANDSHAKE_ROUNDS = 3  # client hello; certificate; finished


def validity_period(certificate: Path, key: Path) -> tuple[datetime, datetime] | None:
    """Return a certificate's first and last valid moment; None if the handshake fails."""
    try:
        fields = certificate_fields(certificate, key)
        begin, end = (ssl.cert_time_to_seconds(fields[name]) for name in ("notBefore", "notAfter"))
    except (OSError, ValueError, KeyError):  # ssl.SSLError is an OSError
        return None
    return datetime.fromtimestamp(begin, UTC), datetime.fromtimestamp(end, UTC)


def certificate_fields(certificate: Path, key: Path) -> Mapping[str, Any]:
    """Return the certificate's fields as a client sees them; empty if it could not verify the certificate.

    Raises:
        OSError: If the files can't be read, or are not a certificate and its key.
    """
    server_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    # Without a password argument, OpenSSL asks for one on the terminal if the key is encrypted.
    server_context.load_cert_chain(certificate, key, password="")
    client_context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client_context.check_hostname = False
    client_context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN | ssl.VerifyFlags(_NO_CHECK_TIME)
    client_context.load_verify_locations(certificate)
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = client_context.wrap_bio(to_client, to_server)
    server = server_context.wrap_bio(to_server, to_client, server_side=True)
    for _ in range(_HANDSHAKE_ROUNDS):
        for end in (client, server):
            with contextlib.suppress(ssl.SSLWantReadError):
                end.do_handshake()
    return client.getpeercert() or {}
