"""The command `session-authority gateway`, as operators run it."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tests.support.program import Program, running

PREFIX = "SESSION_AUTHORITY_GATEWAY_"


@contextmanager
def gateway_running(
    cwd: Path, authority: str, *arguments: str, settings: Mapping[str, str] | None = None
) -> Iterator[Program]:
    """Run a gateway in front of an authority, on free ports. Settings are named without their prefix."""
    given = {f"{PREFIX}{name}": value for name, value in (settings or {}).items()}
    given["SESSION_AUTHORITY_ADDRESS"] = authority
    listen = ("--listen", "127.0.0.1:0", "--grpc-listen", "127.0.0.1:0")
    with running("gateway", *listen, *arguments, cwd=cwd, settings=given) as it:
        http_address(it)
        yield it


def http_address(gateway: Program) -> str:
    """Return the address of a gateway's HTTP port."""
    return gateway.wait_for(r"gateway on (\S+:\d+)")


def grpc_address(gateway: Program) -> str:
    """Return the address of a gateway's gRPC port."""
    return gateway.wait_for(r" and (\S+:\d+) \(gRPC\)")


def json_address(gateway: Program) -> str:
    """Return the address of a gateway's JSON API."""
    return gateway.wait_for(r" and (\S+:\d+) \(JSON\)")
