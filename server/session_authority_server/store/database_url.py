"""Addresses of databases: how to check them, and how to show them without a password."""

import re
from urllib.parse import parse_qsl, unquote

SQLITE_PREFIX = "sqlite:///"
_POSTGRESQL = "postgresql://"
# libpq's other URL scheme, and SQLAlchemy's scheme for psycopg.
_OTHER_POSTGRESQL = ("postgres://", "postgresql+psycopg://")
# The values of target_session_attrs that a primary satisfies. The server always asks for read-write.
_TARGETS = {"any", "read-write", "primary"}
_LARGEST_PORT = 65_535
# The syntax of libpq's URLs. It excludes characters that may belong to a password without percent-encoding.
_PARTS = re.compile(
    rf"{_POSTGRESQL}(?=.)(?:(?P<user>[^:@/?]*)(?::[^@/?]*)?@)?"
    r"(?P<hosts>[^@/?#]*)(?:(?P<name>/[^@/?#]*)(?P<parameters>\?.*)?|\?[^@]*)?",
    re.DOTALL,
)
_HOST = re.compile(r"(?P<host>[\w.%-]*|\[[\w:.%]+\])(?::(?P<port>\d{1,5}))?", re.ASCII)
_NAME = re.compile(r"/[\w.-]*", re.ASCII)


def checked_database_url(url: str) -> str:
    """Return the address of a SQLite file or a PostgreSQL database in the form that this program uses.

    Raises:
        ValueError: If the address names neither. The message quotes no part of the address.
    """
    if url.startswith(("postgres:", "postgresql:", "postgresql+")):
        return checked_postgresql_url(url)
    path = url.removeprefix(SQLITE_PREFIX)
    if path in {url, "", ":memory:"} or path.startswith("file:") or "\0" in path:
        raise ValueError(
            "give sqlite:/// and a path, for example sqlite:///sessions.sqlite, or "
            "postgresql://user:password@host/database"
        )
    return url


def checked_postgresql_url(url: str) -> str:
    """Return an address of PostgreSQL that begins with `postgresql://`, if it is valid and unambiguous.

    In an ambiguous address, a part that looks like a host, port or database may belong to the password. libpq and the
    server would quote that part in their errors.

    Raises:
        ValueError: If the address is invalid or ambiguous. The message quotes no part of the address.
    """
    for other in _OTHER_POSTGRESQL:
        if url.startswith(other):
            url = _POSTGRESQL + url.removeprefix(other)
    if url.startswith("postgresql+"):
        raise ValueError(
            "give an address that begins with postgresql://; the driver is always psycopg"
        )
    parts = _PARTS.fullmatch(url)
    if parts is None or not (
        "\0" not in url
        and ":" not in unquote(parts["user"] or "")
        and all(map(_is_host, parts["hosts"].split(",")))
    ):
        raise ValueError(
            "give postgresql://user:password@host:port/database; write every character of the password except letters, "
            "digits and -._~ as %XX"
        )
    _check_parameters(url.partition("?")[2])
    return url


def _check_parameters(text: str) -> None:
    parameters = parse_qsl(text, keep_blank_values=True)
    if not _TARGETS.issuperset(v for name, v in parameters if name == "target_session_attrs"):
        raise ValueError(
            "target_session_attrs must be read-write or be left out; the server finds the primary among the hosts, and "
            "uses no standby"
        )
    names = [name for name, _ in parameters]
    if names.count("host") > 1:
        raise ValueError(
            "give several hosts as postgresql://user:password@host1:5432,host2:5432/database"
        )


def shown_url(url: str) -> str:
    """Return the hosts, ports and database of a valid address of PostgreSQL, as an address."""
    parts = _PARTS.fullmatch(url)
    # The text before an @ in the parameters may be part of a password that contains a slash or a question mark.
    if parts is None or "@" in (parts["parameters"] or ""):
        return _POSTGRESQL
    name = parts["name"] or ""
    return _POSTGRESQL + parts["hosts"] + (name if _NAME.fullmatch(name) else "")


def _is_host(text: str) -> bool:
    found = _HOST.fullmatch(text)
    if found is None or int(found["port"] or 0) > _LARGEST_PORT:
        return False
    host = unquote(found["host"])
    # The folder of a Unix socket begins with /, an abstract socket with @.
    return host.startswith(("/", "@", "[")) or not re.search("[@:]", host)
