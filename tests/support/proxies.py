"""Proxies that terminate TLS, configured as documented: `proxy` is the one of `docs/operate/tls.md`."""

import contextlib
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from tests.support.certificates import Pair
from tests.support.postgresql import free_port

START_SECONDS = 60
NAMES = ("haproxy", "nginx")
_DOCUMENT = Path(__file__).parents[2] / "docs" / "operate" / "tls.md"
_TEMPORARY = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")


def program(name: str) -> str | None:
    """Return the path of a proxy's program, or None if it is not installed."""
    return shutil.which(name) or shutil.which(f"/usr/sbin/{name}")


@contextlib.contextmanager
def proxy(
    name: str, folder: Path, server_address: str, pair: Pair
) -> Iterator[tuple[str, "subprocess.Popen[bytes]"]]:
    """Run a proxy in front of a server, and yield its address and process."""
    port = free_port()
    configuration = (
        _documented(name)
        .replace("127.0.0.1:50551", server_address)
        .replace("bind :50552", f"bind 127.0.0.1:{port}")
        .replace("listen 50552", f"listen 127.0.0.1:{port}")
    )
    with running(name, folder, pair, configuration, port) as process:
        yield f"127.0.0.1:{port}", process


@contextlib.contextmanager
def running(
    name: str, folder: Path, pair: Pair, configuration: str, port: int
) -> Iterator["subprocess.Popen[bytes]"]:
    """Run a proxy with a configuration that listens on a port of this machine."""
    command = _command(name, folder, pair, configuration)
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for_port(port, process)
        yield process
    finally:
        process.terminate()
        process.wait(START_SECONDS)


def check(name: str, folder: Path, pair: Pair, configuration: str) -> None:
    """Check a configuration with `nginx -t` or `haproxy -c`.

    Raises:
        AssertionError: The proxy refuses the configuration. The message has the reason.
    """
    command = _command(name, folder, pair, configuration)
    flag = "-t" if name == "nginx" else "-c"
    done = subprocess.run([*command, flag], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def _command(name: str, folder: Path, pair: Pair, configuration: str) -> list[str]:
    """Return the command that runs a proxy as documented, with the certificates of a test."""
    with_key = folder / "tls-with-key.pem"
    with_key.write_bytes(pair.certificate.read_bytes() + pair.key.read_bytes())
    for documented, here in {
        "/etc/session-authority/tls-with-key.pem": with_key,
        "/etc/session-authority/tls.pem": pair.certificate,
        "/etc/session-authority/tls.key": pair.key,
        "/etc/nginx/shop.pem": pair.certificate,
        "/etc/nginx/shop.key": pair.key,
    }.items():
        configuration = configuration.replace(documented, str(here))
    file = folder / f"{name}.conf"
    file.write_text(whole_nginx(folder, configuration) if name == "nginx" else configuration)
    found = program(name)
    assert found is not None
    if name == "nginx":
        return [found, "-p", str(folder), "-c", str(file), "-e", "stderr"]
    return [found, "-f", str(file)]


def _documented(name: str) -> str:
    found = re.search(rf"```{name}\n(.*?)```", _DOCUMENT.read_text(), re.DOTALL)
    assert found is not None
    return found[1]


def whole_nginx(folder: Path, configuration: str) -> str:
    """Return a main configuration of nginx that includes a file of `conf.d`, for one process and one folder."""
    paths = "\n".join(f"{each}_temp_path {folder}/{each};" for each in _TEMPORARY)
    return (
        f"daemon off; master_process off; pid {folder}/nginx.pid;\n"
        "events { worker_connections 8192; }\n"
        f"http {{\naccess_log off;\n{paths}\n{configuration}\n}}\n"
    )


def wait_for_port(port: int, process: "subprocess.Popen[bytes]") -> None:
    """Wait until a proxy listens on a port of this machine."""
    deadline = time.monotonic() + START_SECONDS
    while True:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
            return
        assert process.poll() is None, "the proxy did not start"
        assert time.monotonic() < deadline, "the proxy does not listen"
        time.sleep(0.02)
