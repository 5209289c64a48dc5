"""Following docs/operate/install.md word for word, on an empty Debian."""

import re
import socket
import sys
import time
from pathlib import Path

import pytest

from tests.support.certificates import TestAuthority
from tests.support.code_blocks import ROOT, Block, blocks_of
from tests.support.debian import Machine, booted, network_files, run

pytestmark = pytest.mark.soak
PAGE = ROOT / "docs" / "operate" / "install.md"
AUDIT_PAGE = PAGE.with_name("audit.md")
PORTS = 5432, 9090, 9464, 9465, 9466, 50551, 50552, 50553
SHOW = "systemctl show session-authority-server --value --property"
CONFIG = "export SESSION_AUTHORITY_CONFIG=/etc/session-authority/session-authority.toml\n"


def test_the_page_leads_to_a_supervised_server(
    empty_debian: Path, release: Path, tmp_path: Path
) -> None:
    for port in PORTS:  # the machine shares its network with this one
        with socket.socket() as free:
            free.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            free.bind(("127.0.0.1", port))
    root = empty_debian.with_name("install")
    run("cp", "--archive", empty_debian, root)
    for source, target in network_files(tmp_path).items():
        run("cp", source, f"{root}{target}")
    run("cp", "--recursive", release / "deploy", *(release / "dist").glob("*.whl"), root / "root")
    pair = TestAuthority(tmp_path).pair(names="DNS:sessions.internal")
    with booted(root) as machine:
        for block in blocks_of(PAGE):
            if block.title:
                root_server_and_worker_write_one_audit_log(machine)
                run("cp", pair.certificate, root / "etc/session-authority/tls.pem")
                run("cp", pair.key, root / "etc/session-authority/tls.key")
                file = root / block.title.removeprefix("/")
                file.parent.mkdir(parents=True)
                file.write_text(block.code)
            else:
                follow(machine, block)
        the_server_is_restarted_after_a_crash(machine)


def follow(machine: Machine, block: Block) -> None:
    """Run a block, and check what readers are promised."""
    script = block.code if CONFIG in block.code else CONFIG + block.code
    if "query" in block.code:
        wanted = f"{block.code.strip()} | grep --count '=> 1 @' | grep --quiet 2"
        script = f"until {wanted}; do sleep 1; done 2>/dev/null\n{script}"
    began = time.monotonic()
    said = machine.shell(script)
    sys.stdout.write(f"{block}: {time.monotonic() - began:.1f} s\n{said[-1500:]}\n")
    if "health" in block.code:
        port = 50553 if "--listen 127.0.0.1:50553" in block.code else 50551
        assert said.endswith(f"127.0.0.1:{port}: SERVING\n")
    if "gateway.env" in block.code:
        the_gateway_knows_a_session(machine)
    if "client.create" in block.code:
        assert said == "ada\n"


def the_gateway_knows_a_session(machine: Machine) -> None:
    """Ask the gateway about a request with a new session, and look which user it runs as."""
    said = machine.shell(
        "SESSION_AUTHORITY_API_KEY=$(cat shop.key) /opt/session-authority/bin/python <<EOF\n"
        "from urllib.request import Request, urlopen\n"
        "from session_authority import SessionClient\n"
        "with SessionClient.from_env() as client:\n"
        "    token = client.create('bob').token.reveal()\n"
        "asked = Request('http://127.0.0.1:50552/verify', headers={'X-Session-Token': token})\n"
        "print(urlopen(asked).headers['X-Session-User-Id'])\n"
        "EOF\n"
        "stat --format 'runs as %U' /proc/$(systemctl show session-authority-gateway --value --property MainPID)\n"
    )
    assert said == "bob\nruns as session-authority-gateway\n"


def root_server_and_worker_write_one_audit_log(machine: Machine) -> None:
    """Set the audit log that docs/operate/audit.md names, and have the file made by root, as after a rotation."""
    [file] = re.findall(r'`(audit_log = "/.+")`', AUDIT_PAGE.read_text())
    machine.shell(
        f"{CONFIG}echo '{file}' >> /etc/session-authority/session-authority.toml\n"
        "session-authority keys create other --permission validate\n"
        "systemctl restart session-authority-server session-authority-worker\n"
        "SESSION_AUTHORITY_API_KEY=$(cat shop.key) /opt/session-authority/bin/python <<EOF\n"
        "from datetime import timedelta\n"
        "from session_authority import SessionClient\n"
        "with SessionClient.from_env() as client:\n"
        "    client.create('bob', lifetime=timedelta(seconds=1))\n"
        "EOF\n"
        'for event in api-key-created session-established \'"reason":"expired"\'; do\n'
        '    until grep --quiet -- "$event" /var/log/session-authority/audit.jsonl; do sleep 0.5; done\n'
        "done\n"
    )


def the_server_is_restarted_after_a_crash(machine: Machine) -> None:
    """Kill the server, wait for the next one, and ask for its health with TLS."""
    machine.shell(
        f"before=$({SHOW} MainPID)\n"
        "systemctl kill --signal KILL session-authority-server\n"
        f"until [ $({SHOW} MainPID) -gt 0 ] && [ $({SHOW} MainPID) != $before ]; do sleep 0.1; done\n"
        f"until [ $({SHOW} ActiveState) = active ]; do sleep 0.1; done\n"
    )
    said = machine.shell(
        f"{CONFIG}export SESSION_AUTHORITY_LISTEN=0.0.0.0:50551\n"
        "export SESSION_AUTHORITY_TLS_CERTIFICATE=/etc/session-authority/tls.pem\n"
        "export SESSION_AUTHORITY_TLS_KEY=/etc/session-authority/tls.key\n"
        "session-authority health\n"
        f"stat --format 'runs as %U' /proc/$({SHOW} MainPID)\n"
        "systemctl --failed --quiet list-units 'session-authority*'\n"
    )
    assert said == "127.0.0.1:50551: SERVING\nruns as session-authority\n"
