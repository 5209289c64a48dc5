"""Find out from libpq's connection parameters whether a PostgreSQL server must prove its identity."""

import ipaddress
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_VERIFYING = frozenset(("verify-ca", "verify-full"))


def is_server_verified(parameters: Mapping[str, Any]) -> bool:
    """Return whether the PostgreSQL server must prove its identity.

    A certificate, SCRAM with channel binding, and Kerberos count as proof. `verify-ca` counts too. It does not check
    the host name, so the certificate authority must issue certificates only to trusted servers.
    """
    mode = parameters.get("sslmode", "prefer")
    return (
        mode in _VERIFYING
        # If a root certificate exists, libpq treats "require" as "verify-ca".
        or (mode == "require" and _root_certificate(parameters).exists())
        or parameters.get("channel_binding") == "require"
        or parameters.get("gssencmode") == "require"
    )


def leaves_this_machine(parameters: Mapping[str, Any]) -> bool:
    """Return whether any of the servers may be on another machine."""
    names = str(parameters.get("hostaddr") or parameters.get("host") or "")
    return any(not _is_this_machine(name) for name in names.split(","))


def parameters_of(url: str) -> Mapping[str, Any]:
    """Return the connection parameters of a URL, with defaults from libpq's environment variables.

    Raises:
        ValueError: If the URL is not valid.
    """
    from psycopg import pq

    from session_authority_server.store.engine.postgresql import connect_arguments

    defaults = {
        option.keyword.decode(): option.val.decode()
        for option in pq.Conninfo.get_defaults()
        if option.val is not None
    }
    return {**defaults, **connect_arguments(url)}


def _root_certificate(parameters: Mapping[str, Any]) -> Path:
    given = parameters.get("sslrootcert")
    return Path(given) if given else Path.home() / ".postgresql" / "root.crt"


def _is_this_machine(host: str) -> bool:
    if host in {"", "localhost"} or host.startswith(("/", "@")):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
