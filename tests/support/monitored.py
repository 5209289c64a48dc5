"""A server and a worker on PostgreSQL with TLS, keys and an audit log, which a real Prometheus reads.

`python -m tests.support.monitored docs/images/dashboard.svg 10` draws the dashboard after 10 minutes of use.
"""

import contextlib
import math
import random
import socket
import ssl
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

from tools.dashboard import Source, picture

from session_authority import (
    InvalidArgument,
    SessionClient,
    SessionToken,
    ValidationRequest,
)
from tests.support.certificates import Pair, TestAuthority
from tests.support.postgresql import Cluster, cluster, free_port
from tests.support.program import Program, run, running, serving
from tests.support.prometheus import SHIPPED, Prometheus, running_prometheus

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
        plain_client: A client without one.
        pages: The address of the metrics of each job.
        folder: The working folder of all processes.
        settings: The settings of commands.
    """

    cluster: Cluster
    authority: TestAuthority
    pair: Pair
    server: Program
    prometheus: Prometheus
    client: SessionClient
    plain_client: SessionClient
    pages: dict[str, str]
    folder: Path
    settings: dict[str, str]
    start_worker: Callable[[], contextlib.AbstractContextManager[Program]] = field(repr=False)

    def page(self, job: str) -> str:
        """Return the metrics of a job as Prometheus reads them."""
        with urllib.request.urlopen(f"http://{self.pages[job]}/metrics", timeout=30) as answer:
            page: str = answer.read().decode()
        return page

    def lose_endings(self) -> None:
        """Let the database lack an ending that the server acknowledged."""
        self.client.sign_out(self.client.create("ada").token)
        self.cluster.psql("DELETE FROM ending_marks")

    def accept_loss(self) -> None:
        """Resolve the fence as an operator does."""
        done = run("fence", "--accept", "--yes", cwd=self.folder, settings=self.settings)
        assert done.returncode == 0, done.stderr

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
            "SESSION_AUTHORITY_STATE_DIRECTORY": str(folder / "state"),
            "SESSION_AUTHORITY_EVENT_KEY": "k" * 32,
        }
        assert run("migrate", cwd=folder, settings=settings).returncode == 0
        every = ("create", "validate", "manage", "watch", "terminate")
        permissions = [part for each in every for part in ("--permission", each)]
        key = run(
            *("keys", "create", "shop", *permissions, "--expires-in", "90d"),
            cwd=folder,
            settings=settings,
        ).stdout.strip()
        # It accepts nothing, so its metrics show waiting events.
        nowhere = f"http://localhost:{free_port()}/events"
        added = ("receivers", "add", "crm", nowhere, "--event", "session-established")
        assert run(*added, cwd=folder, settings=settings).returncode == 0
        encrypted = settings | {
            "SESSION_AUTHORITY_TLS_CERTIFICATE": str(pair.certificate),
            "SESSION_AUTHORITY_TLS_KEY": str(pair.key),
            "SESSION_AUTHORITY_METRICS_LISTEN": pages[SERVER],
        }
        server = stack.enter_context(
            serving(folder, "--no-worker", settings=encrypted, asking_for_keys=True)
        )
        roots = authority.certificate.read_bytes()
        client, plain_client = (
            stack.enter_context(
                SessionClient(
                    server.address, api_key=key, root_certificates=roots, near_cache=near_cache
                )
            )
            for near_cache in (True, False)
        )
        prometheus = stack.enter_context(
            running_prometheus(folder, pages, rules=rules, interval=interval)
        )
        of_worker = settings | {"SESSION_AUTHORITY_METRICS_LISTEN": pages[WORKER]}
        yield Scene(
            *(database, authority, pair, server, prometheus, client, plain_client, pages),
            *(folder, settings),
            lambda: running("worker", cwd=folder, settings=of_worker),
        )


@contextlib.contextmanager
def in_use(scene: Scene) -> Iterator[None]:
    """Sign users in, validate their tokens and sign them out, while the context lasts."""
    stop = threading.Event()
    users = threading.Thread(target=_use, args=(scene, stop))
    users.start()
    try:
        yield
    finally:
        stop.set()
        users.join()


def _use(scene: Scene, stop: threading.Event) -> None:
    chance = random.Random(7)
    began = time.monotonic()
    tokens: list[SessionToken] = []
    while not stop.wait(0.02 * (2 + math.sin((time.monotonic() - began) / 40))):
        if len(tokens) < 20 or chance.random() < 0.1:
            user = f"user-{chance.randrange(1_000)}"
            tokens.append(scene.client.create(user).token)
            if chance.random() < 0.3:
                scene.client.create(user, lifetime=timedelta(minutes=1))  # expires
        some = chance.choices(tokens, k=5)
        scene.client.validate(some[0])
        for each in some:
            scene.plain_client.validate(each)
        scene.plain_client.validate_many([ValidationRequest(each) for each in some])
        if len(tokens) > 25 or chance.random() < 0.05:
            ended = tokens.pop(0)
            scene.client.sign_out(ended)
            scene.plain_client.validate(ended)
        if chance.random() < 0.05:
            scene.plain_client.validate("ses_unknown")
            with contextlib.suppress(InvalidArgument):
                scene.client.create("x" * 300)


def main(file: Path, minutes: float) -> None:
    """Draw the dashboard after the scene was in use for some minutes."""
    with (
        tempfile.TemporaryDirectory() as folder,
        monitored(Path(folder), rules=(SHIPPED / "rules.yml").read_text(), interval="1s") as scene,
        scene.start_worker(),
        in_use(scene),
    ):
        time.sleep(30)  # the first rates need some samples
        began = time.time()
        time.sleep(minutes * 60)
        source = Source(scene.prometheus.url, began, began + minutes * 60)
        file.write_text(picture(source, "15s"))


if __name__ == "__main__":
    main(Path(sys.argv[1]), float(sys.argv[2]))
