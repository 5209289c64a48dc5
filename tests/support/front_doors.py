"""Proxies in front of a site, configured as in `examples/proxies`. Each asks the gateway about every request."""

import contextlib
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import yaml

from session_authority_gateway.serving import RunningGateway
from tests.support import envoy
from tests.support.postgresql import free_port
from tests.support.proxies import START_SECONDS, program, wait_for_port, whole_nginx
from tests.support.waiting import wait_until

_ROOT = Path(__file__).parents[2]
EXAMPLES = _ROOT / "examples" / "proxies"
_SITE, _GATEWAY, _LISTEN = "127.0.0.1:8000", "127.0.0.1:50552", "8080"

Routes = Mapping[str, str]
"""The options of routes, as a query, by the beginning of their paths."""


@dataclass(frozen=True)
class Proxy:
    """A proxy that can stand in front of a site.

    Attributes:
        name: Its name.
        is_installed: Says whether its program is installed.
        start: Runs it in a folder, in front of a site and beside a gateway, and yields its address.
    """

    name: str
    is_installed: Callable[[], bool]
    start: Callable[[Path, str, RunningGateway, Routes], AbstractContextManager[str]]


def _pip(name: str) -> Path:
    return _ROOT / ".venv-proxies" / "bin" / name


@contextlib.contextmanager
def _running(command: Sequence[object], folder: Path, port: int) -> Iterator[str]:
    environment = {"HOME": str(folder), "XDG_DATA_HOME": str(folder), "PATH": "/usr/sbin:/usr/bin"}
    with (folder / "proxy.log").open("wb") as log:
        process = subprocess.Popen(
            [str(each) for each in command],
            cwd=folder,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment,
        )
        try:
            try:
                wait_for_port(port, process)
            except AssertionError as error:
                raise AssertionError(f"{error}: {(folder / 'proxy.log').read_text()}") from None
            yield f"127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait(START_SECONDS)


def _example(name: str, port: int, site: str, gateway: RunningGateway) -> str:
    """Return an example with the addresses of a test."""
    text = (EXAMPLES / name).read_text()
    for documented, here in {
        _SITE: site,
        _GATEWAY: gateway.address,
        f"listen {_LISTEN}": f"listen 127.0.0.1:{port}",
        f"bind :{_LISTEN}": f"bind 127.0.0.1:{port}",
        f":{_LISTEN} {{": f"http://:{port} {{\n\tbind 127.0.0.1",
    }.items():
        text = text.replace(documented, here)
    return text


@contextlib.contextmanager
def _nginx(folder: Path, site: str, gateway: RunningGateway, routes: Routes) -> Iterator[str]:
    port = free_port()
    text = _example("nginx/site.conf", port, site, gateway)
    found = re.search(r"    location / \{\n.*?\n    \}\n", text, re.DOTALL)
    assert found is not None
    for path, options in routes.items():
        block = found[0].replace("location / {", f"location {path} {{")
        text = text.replace(found[0], block.replace("session=required", options) + found[0])
    file = folder / "nginx.conf"
    file.write_text(whole_nginx(folder, text))
    command = [program("nginx") or "", "-p", folder, "-c", file, "-e", "stderr"]
    with _running(command, folder, port) as address:
        yield address


@contextlib.contextmanager
def _haproxy(folder: Path, site: str, gateway: RunningGateway, routes: Routes) -> Iterator[str]:
    port = free_port()
    text = _example("haproxy/haproxy.cfg", port, site, gateway)
    found = re.search(r"    http-request lua.session .*\n", text)
    assert found is not None
    lines = [
        found[0].replace("session=required\n", f"{options} if {{ path_beg {path} }}\n")
        for path, options in routes.items()
    ]
    others = " ".join(routes)
    lines.append(
        found[0].replace("\n", f" unless {{ path_beg {others} }}\n") if others else found[0]
    )
    (folder / "haproxy.cfg").write_text(text.replace(found[0], "".join(lines)))
    shutil.copy(EXAMPLES / "haproxy" / "session_authority.lua", folder)
    command = [program("haproxy") or "", "-f", folder / "haproxy.cfg", "-db"]
    with _running(command, folder, port) as address:
        yield address


@contextlib.contextmanager
def _caddy(folder: Path, site: str, gateway: RunningGateway, routes: Routes) -> Iterator[str]:
    port = free_port()
    text = _example("caddy/Caddyfile", port, site, gateway)
    found = re.search(r"\troute \{\n.*?\n\t\}\n", text, re.DOTALL)
    assert found is not None
    for path, options in routes.items():
        block = found[0].replace("route {", f"handle {path}* {{\nroute {{", 1) + "}\n"
        text = text.replace(found[0], block.replace("session=required", options) + found[0])
    text = text.replace(found[0], "handle {\n" + found[0] + "}\n") if routes else text
    (folder / "Caddyfile").write_text("{\n\tadmin off\n}\n" + text)
    command = [_pip("caddy"), "run", "--config", folder / "Caddyfile", "--adapter", "caddyfile"]
    with _running(command, folder, port) as address:
        yield address


@contextlib.contextmanager
def _traefik(folder: Path, site: str, gateway: RunningGateway, routes: Routes) -> Iterator[str]:
    port = free_port()
    static = yaml.safe_load((EXAMPLES / "traefik" / "traefik.yaml").read_text())
    static["entryPoints"]["site"]["address"] = f"127.0.0.1:{port}"
    dynamic: dict[str, Any] = yaml.safe_load(_example("traefik/site.yaml", port, site, gateway))
    http = dynamic["http"]
    for path, options in routes.items():
        name = path.strip("/")
        http["routers"][name] = {
            "rule": f"PathPrefix(`{path}`)",
            "service": "app",
            "middlewares": [name],
        }
        forward = dict(http["middlewares"]["session"]["forwardAuth"])
        forward["address"] = forward["address"].replace("session=required", options)
        http["middlewares"][name] = {"forwardAuth": forward}
    (folder / "site.yaml").write_text(yaml.safe_dump(dynamic))
    (folder / "traefik.yaml").write_text(yaml.safe_dump(static))
    command = [_pip("traefik"), f"--configFile={folder}/traefik.yaml"]
    with _running(command, folder, port) as address:
        # Traefik listens before it has read the routes.
        wait_until(lambda: httpx.get(f"http://{address}/").status_code != 404)
        yield address


def _envoy(
    folder: Path, site: str, gateway: RunningGateway, routes: Routes
) -> AbstractContextManager[str]:
    listed = [
        envoy.route(path, **dict([options.split("=", 1)])) for path, options in routes.items()
    ]
    return envoy.envoy(folder, upstream=site, gateway=gateway.grpc_address, routes=listed)


PROXIES = {
    each.name: each
    for each in (
        Proxy("nginx", lambda: program("nginx") is not None, _nginx),
        Proxy("haproxy", lambda: program("haproxy") is not None, _haproxy),
        Proxy("caddy", _pip("caddy").exists, _caddy),
        Proxy("traefik", _pip("traefik").exists, _traefik),
        Proxy("envoy", lambda: envoy.program() is not None, _envoy),
    )
}
