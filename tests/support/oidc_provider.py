"""An OpenID provider of npm, `oidc-provider`, and its users' browsers."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import jwt

from tests.support.node import packages
from tests.support.waiting import wait_until

_PROGRAM = Path(__file__).parents[1] / "node" / "provider.mjs"
_REDIRECT = "http://127.0.0.1:9/signed-in"


class OidcProvider:
    """A running provider.

    Attributes:
        issuer: Its issuer.
        lines: Its output.
    """

    def __init__(self) -> None:
        self.issuer = ""
        self.lines: list[str] = []

    def outcomes(self, client_id: str) -> list[str]:
        """Return the outcomes of the logout requests to a client so far."""
        found = (re.match(rf"logout of {client_id} (.*)", line) for line in self.lines)
        return [each[1] for each in found if each]


class Browser:
    """A browser at the provider. It has its own session there."""

    def __init__(self, provider: OidcProvider) -> None:
        self._provider = provider
        # It is plain HTTP. Without `verify`, httpx reads no certificates, which takes long.
        self._http = httpx.Client(base_url=provider.issuer, timeout=30, verify=False)

    def close(self) -> None:
        self._http.close()

    def sign_in(self, user: str, client_id: str) -> Mapping[str, Any]:
        """Sign in to a client by the code flow. Return the claims of the ID token."""
        query = {
            "client_id": client_id,
            "response_type": "code",
            "scope": "openid",
            "redirect_uri": _REDIRECT,
            "state": "s",
            "nonce": "n",
        }
        answer = self._http.get("/auth", params=query)
        while not (where := answer.headers.get("location", "")).startswith(_REDIRECT):
            answer = self._http.get(where) if where else self._confirm(answer, user)
        code = parse_qs(urlsplit(where).query)["code"][0]
        given = {"grant_type": "authorization_code", "code": code, "redirect_uri": _REDIRECT}
        authentication = (client_id, f"secret-of-{client_id}")
        tokens = self._http.post("/token", data=given, auth=authentication).raise_for_status()
        claims: Mapping[str, Any] = jwt.decode(
            tokens.json()["id_token"], options={"verify_signature": False}
        )
        return claims

    def sign_out(self) -> None:
        """Sign out at the provider. It has sent all logout requests when it answers."""
        page = self._http.get("/session/end").raise_for_status()
        found = re.search(r'name="xsrf" value="([^"]+)"', page.text)
        assert found, page.text
        answer = self._http.post("/session/end/confirm", data={"xsrf": found[1], "logout": "yes"})
        assert answer.status_code == 303, answer.text

    def _confirm(self, page: httpx.Response, user: str) -> httpx.Response:
        """Send the form of the sign-in page, or of the page that asks for consent."""
        page.raise_for_status()
        prompt = re.search(r'name="prompt" value="([^"]+)"', page.text)
        assert prompt, page.text
        form = {"prompt": prompt[1], "login": user, "password": "any"}
        return self._http.post(str(page.url), data=form)


@contextmanager
def oidc_provider(logout_addresses: Mapping[str, str]) -> Iterator[OidcProvider]:
    """Run a provider. Skip the test if there is no Node.

    Args:
        logout_addresses: The back-channel logout address of each client, by client id.
    """
    folder = packages()
    program = shutil.copy(_PROGRAM, folder)
    clients = {
        client_id: {"redirect": _REDIRECT, "logout": address}
        for client_id, address in logout_addresses.items()
    }
    provider = OidcProvider()
    process = subprocess.Popen(
        ["node", program, json.dumps(clients)],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    reading = Thread(target=lambda: provider.lines.extend(process.stdout or ()))
    reading.start()
    try:
        wait_until(lambda: _issuer(provider, process), seconds=60)
        yield provider
    finally:
        process.terminate()
        process.wait(30)
        reading.join()
        process.stdout.close()


def _issuer(provider: OidcProvider, process: "subprocess.Popen[str]") -> bool:
    assert process.poll() is None, "".join(provider.lines)
    for line in provider.lines:
        if line.startswith("issuer "):
            provider.issuer = line.split()[1]
    return bool(provider.issuer)
