"""The lines of `docs/use/gateway-page.md` that set the session cookie in other languages."""

import http.client
import re
import shutil
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from session_authority.web.cookies import SessionCookie
from tests.support.code_blocks import ROOT, blocks_of
from tests.support.postgresql import free_port

DOCUMENT = ROOT / "docs" / "use" / "gateway-page.md"
BLOCKS = {each.language: each.code for each in blocks_of(DOCUMENT)}
TOKEN = "ses_" + "aB3" * 20
EXPECTED = SessionCookie().holding(TOKEN, local=False).header()
SECONDS = 60


def attributes(header: str) -> set[str]:
    """Return a cookie's parts, without the date `Expires`, which `Max-Age` overrides."""
    name_and_value, *parts = [each.strip() for each in header.split(";")]
    return {name_and_value} | {each.lower() for each in parts if not each.startswith("expires=")}


def test_the_documented_header_is_that_of_the_client() -> None:
    documented = BLOCKS["text"].strip().removeprefix("Set-Cookie: ")
    assert documented.replace("TOKEN", TOKEN) == EXPECTED


def php(folder: Path, port: int) -> list[str]:
    (folder / "index.php").write_text(f"<?php $token = '{TOKEN}';\n{BLOCKS['php']}")
    return ["php", "-S", f"127.0.0.1:{port}", "-t", str(folder)]


def node(folder: Path, port: int) -> list[str]:
    program = folder / "app.js"
    program.write_text(
        f"const token = '{TOKEN}';\n"
        "require('http').createServer((request, response) => {\n"
        f"{BLOCKS['js']}\nresponse.end();\n}}).listen({port}, '127.0.0.1');"
    )
    return ["node", str(program)]


@pytest.mark.parametrize("language", [php, node])
def test_the_line_of_a_language_sets_the_same_cookie(
    language: Callable[[Path, int], list[str]], tmp_path: Path
) -> None:
    port = free_port()
    command = language(tmp_path, port)
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} is not installed")
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        assert attributes(_set_cookie(port, process)) == attributes(EXPECTED)
    finally:
        process.terminate()
        process.wait(SECONDS)


def test_the_line_for_go_names_the_same_attributes() -> None:
    """The program is not compiled: the test compares the fields of `http.Cookie`."""
    fields = dict(re.findall(r'(\w+): +"?([\w./-]+)"?', BLOCKS["go"]))
    parts = [f"{fields['Name']}={TOKEN}", f"path={fields['Path']}", f"max-age={fields['MaxAge']}"]
    flags = {"Secure": "secure", "HttpOnly": "httponly"}
    parts += [flag for field, flag in flags.items() if fields[field] == "true"]
    parts.append(fields["SameSite"].replace("http.SameSiteLaxMode", "samesite=lax"))
    assert attributes("; ".join(parts)) == attributes(EXPECTED)


def _set_cookie(port: int, process: "subprocess.Popen[bytes]") -> str:
    """Return the `Set-Cookie` of a server, as soon as it answers."""
    give_up = time.monotonic() + SECONDS
    while time.monotonic() < give_up:
        assert process.poll() is None, "the server has ended"
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=SECONDS)
        with suppress(ConnectionRefusedError):
            connection.request("GET", "/")
            answer = connection.getresponse()
            connection.close()
            return answer.getheader("set-cookie") or ""
        time.sleep(0.02)
    raise AssertionError("the server does not answer")
