"""A server and a worker on PostgreSQL with TLS, keys and an audit log, which a real Prometheus reads."""

import contextlib
import random
import socket
import ssl
import threading
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from session_authority import (
    InvalidArgument,
    NearCache,
    SessionClient,
    SessionToken,
    ValidationRequest,
)
from tests.support.certificates import Pair, TestAuthority
from tests.support.postgresql import Cluster, cluster, free_port
from tests.support.program import Program, run, running, serving
from tests.support.prometheus import Prometheus, running_prometheus

SERVER, WORKER = "session-authority", "session-authority-worker"


@dataclass
class Scene:
    """The monitored processes.

    Attributes:
        cluster: The database server.
        authority: Signs the certificates.
        pair: The certificate and key that the server uses.
        server: The server.
        prometheus: The Prometheus that reads the server and the worker.
        client: A client with a near cache.
    """

    cluster: Cluster
    authority: TestAuthority
    pair: Pair
    server: Program
    prometheus: Prometheus
    client: SessionClient
    pages: dict[str, str]
    start_worker: Callable[[], contextlib.AbstractContextManager[Program]] = field(repr=False)

    def page(self, job: str) -> str:
        """Return the metrics of a job as Prometheus reads them."""
        with urllib.request.urlopen(f"http://{self.pages[job]}/metrics", timeout=30) as answer:
            page: str = answer.read().decode()
        return page

    def replace_certificate(self, pair: Pair) -> None:
        """Replace the server's certificate, and connect, since the server reads it at a connection."""
        self.pair.replace(pair)
        host, port = self.server.address.rsplit(":", 1)
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        context.set_alpn_protocols(["h2"])
        with socket.create_connection((host, int(port)), 10) as plain:
            context.wrap_socket(plain).close()


@contextlib.contextmanager
def monitored(folder: Path, *, rules: str, interval: str) -> Iterator[Scene]:
    """Run everything but the worker, which `Scene.start_worker` runs."""
    with contextlib.ExitStack() as stack:
        database = stack.enter_context(cluster())
        authority = TestAuthority(folder)
        pair = authority.pair(days=30)
        pages = {job: f"127.0.0.1:{free_port()}" for job in (SERVER, WORKER)}
        settings = {
            "SESSION_AUTHORITY_DATABASE_URL": database.url(),
            "SESSION_AUTHORITY_WORKER_INTERVAL_SECONDS": "5",
            "SESSION_AUTHORITY_AUDIT_LOG": str(folder / "audit.jsonl"),
        }
        assert run("migrate", cwd=folder, settings=settings).returncode == 0
        every = ("create", "validate", "manage", "watch", "terminate")
        permissions = [part for each in every for part in ("--permission", each)]
        key = run(
            *("keys", "create", "shop", *permissions, "--expires-in", "90d"),
            cwd=folder,
            settings=settings,
        ).stdout.strip()
        encrypted = settings | {
            "SESSION_AUTHORITY_TLS_CERTIFICATE": str(pair.certificate),
            "SESSION_AUTHORITY_TLS_KEY": str(pair.key),
            "SESSION_AUTHORITY_METRICS_LISTEN": pages[SERVER],
        }
        server = stack.enter_context(
            serving(folder, "--no-worker", settings=encrypted, asking_for_keys=True)
        )
        roots = authority.certificate.read_bytes()
        client = stack.enter_context(
            SessionClient(
                server.address, api_key=key, root_certificates=roots, near_cache=NearCache()
            )
        )
        prometheus = stack.enter_context(
            running_prometheus(folder, pages, rules=rules, interval=interval)
        )
        of_worker = settings | {"SESSION_AUTHORITY_METRICS_LISTEN": pages[WORKER]}
        yield Scene(
            *(database, authority, pair, server, prometheus, client, pages),
            lambda: running("worker", cwd=folder, settings=of_worker),
        )


@contextlib.contextmanager
def in_use(client: SessionClient) -> Iterator[None]:
    """Sign users in, validate their tokens and sign them out, while the context lasts."""
    stop = threading.Event()
    users = threading.Thread(target=_use, args=(client, stop))
    users.start()
    try:
        yield
    finally:
        stop.set()
        users.join()


def _use(client: SessionClient, stop: threading.Event) -> None:
    chance = random.Random(7)
    tokens: list[SessionToken] = []
    while not stop.wait(chance.uniform(0.005, 0.03)):
        if len(tokens) < 20 or chance.random() < 0.1:
            tokens.append(client.create(f"user-{chance.randrange(1_000)}").token)
        some = chance.choices(tokens, k=5)
        client.validate(some[0])
        asked = [ValidationRequest(each) for each in some]
        client.validate_many([*asked, ValidationRequest("ses_unknown")])
        if len(tokens) > 25 or chance.random() < 0.05:
            ended = tokens.pop(0)
            client.sign_out(ended)
            client.validate(ended)
        if chance.random() < 0.05:
            with contextlib.suppress(InvalidArgument):
                client.create("x" * 300)
