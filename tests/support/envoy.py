"""Envoy, configured as in `examples/proxies/envoy`."""

import contextlib
import json
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from tests.support.postgresql import free_port
from tests.support.proxies import START_SECONDS, wait_for_port

_ROOT = Path(__file__).parents[2]
CONFIGURATION = _ROOT / "examples" / "proxies" / "envoy" / "envoy.yaml"
_PER_ROUTE = "type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthzPerRoute"


def program() -> Path | None:
    """Return the program of the environment `.venv-proxies`, or None if it is not installed."""
    found = sorted(_ROOT.glob(".venv-proxies/lib/python3*/site-packages/envoy/_bin/envoy"))
    return found[0] if found else None


def route(prefix: str, *, cluster: str = "site", **options: str) -> dict[str, Any]:
    """Return a route whose options the gateway gets as context extensions."""
    per_route = {"@type": _PER_ROUTE, "check_settings": {"context_extensions": options}}
    return {
        "match": {"prefix": prefix},
        "route": {"cluster": cluster},
        "typed_per_filter_config": {"envoy.filters.http.ext_authz": per_route} if options else {},
    }


@contextlib.contextmanager
def envoy(
    folder: Path,
    *,
    upstream: str,
    gateway: str,
    routes: Sequence[Mapping[str, Any]] = (),
    grpc_upstream: str = "",
    filter_changes: Mapping[str, Any] | None = None,
) -> Iterator[str]:
    """Run Envoy until the end of the block, and yield its address.

    Args:
        folder: Where to write its files.
        upstream: The address of the site.
        gateway: The address of the gateway's gRPC port.
        routes: Routes before the one that leads to the site.
        grpc_upstream: The address of the cluster `grpc`, if any.
        filter_changes: Changed fields of the filter `ext_authz`.
    """
    found, port = program(), free_port()
    assert found is not None
    configuration = yaml.safe_load(CONFIGURATION.read_text())
    resources = configuration["static_resources"]
    [listener] = resources["listeners"]
    listener["address"]["socket_address"]["port_value"] = port
    manager = listener["filter_chains"][0]["filters"][0]["typed_config"]
    manager["http_filters"][0]["typed_config"] |= filter_changes or {}
    manager["route_config"]["virtual_hosts"][0]["routes"][:0] = routes
    for cluster, address in zip(resources["clusters"], (upstream, gateway), strict=True):
        _lead(cluster, address)
    if grpc_upstream:
        http2 = resources["clusters"][1]["typed_extension_protocol_options"]
        cluster = {
            "name": "grpc",
            "load_assignment": _assignment("grpc"),
            "typed_extension_protocol_options": http2,
        }
        _lead(cluster, grpc_upstream)
        resources["clusters"].append(cluster)
    file = folder / "envoy.json"
    file.write_text(json.dumps(configuration))
    command = [str(found), "-c", str(file), "--use-dynamic-base-id", "--concurrency", "1"]
    process = subprocess.Popen([*command, "-l", "warning", "--log-path", str(folder / "envoy.log")])
    try:
        wait_for_port(port, process)
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(START_SECONDS)


def _assignment(name: str) -> dict[str, Any]:
    address = {"socket_address": {"address": "127.0.0.1", "port_value": 0}}
    return {
        "cluster_name": name,
        "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}],
    }


def _lead(cluster: dict[str, Any], address: str) -> None:
    """Make a cluster lead to an address."""
    [endpoint] = cluster["load_assignment"]["endpoints"][0]["lb_endpoints"]
    socket = endpoint["endpoint"]["address"]["socket_address"]
    socket["port_value"] = int(address.rpartition(":")[2])
