"""Whether a PostgreSQL server has to prove who it is, by the parameters of a connection as libpq understands them."""

import ipaddress
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_VERIFYING = frozenset(("verify-ca", "verify-full"))


def is_server_verified(parameters: Mapping[str, Any]) -> bool:
    """Say whether nobody in between can answer in the server's place.

    By its certificate, by a proof that it knows the password's verifier and is the other end of this very TLS
    connection (SCRAM with channel binding), or by Kerberos. Whether `verify-ca` is enough depends on whom the
    authority signs for.
    """
    mode = parameters.get("sslmode", "prefer")
    return (
        mode in _VERIFYING
        # Where there is a root certificate, "require" verifies as "verify-ca" does.
        or (mode == "require" and _root_certificate(parameters).exists())
        or parameters.get("channel_binding") == "require"
        or parameters.get("gssencmode") == "require"
    )


def leaves_this_machine(parameters: Mapping[str, Any]) -> bool:
    """Say whether a server, or one of several, may be on another machine."""
    names = str(parameters.get("hostaddr") or parameters.get("host") or "")
    return any(not _is_this_machine(name) for name in names.split(","))


def parameters_of(url: str) -> Mapping[str, Any]:
    """Return the parameters of an address, with what the environment says of those that it leaves open.

    Raises:
        ValueError: If the address can't be read.
    """
    from psycopg import pq

    from session_authority_server.store.engine.postgresql import connect_arguments

    of_environment = {
        option.keyword.decode(): option.val.decode()
        for option in pq.Conninfo.get_defaults()
        if option.val is not None
    }
    return {**of_environment, **connect_arguments(url)}


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
