"""The web app that `make run` starts."""

import re
import socket
from pathlib import Path

import httpx

from session_authority_server.cli.demo_site import PRETEND_DEVICES
from tests.support.program import running


def test_the_demonstration_is_a_web_app_in_which_users_can_log_out(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        with running(
            "demo", "--listen", "127.0.0.1:0", "--web-port", port, cwd=tmp_path
        ) as program:
            address = program.wait_for(r"Open (http://127\.0\.0\.1:\d+) and log in with any name")
            assert not address.endswith(f":{port}")  # of another user
            with httpx.Client(base_url=address, follow_redirects=True, timeout=30) as laptop:
                _try(laptop)
                _come_back(laptop)
            assert program.stop() == 0
    assert program.stderr == ""


def _try(laptop: httpx.Client) -> None:
    agent = "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 Chrome/141.0.0.0"
    laptop.headers["user-agent"] = agent
    assert "Choose any name" in laptop.get("/").text
    home = laptop.post("/sign-in", data={"name": "<b>\x00mary"}).text
    assert "Hello, &lt;b&gt;mary" in home
    assert home.count("<strong>logged in</strong>") == 2

    page = laptop.get("/account/sessions").text
    for device in ("Chrome on Windows", "Safari on iOS", "Firefox on Linux"):
        assert device in page
    proof = re.search(r'name="proof" value="([^"]+)"', page)
    assert proof
    _current, other, *_ = re.findall(r'name="session_id" value="([^"]+)"', page)
    laptop.post(
        "/account/sessions/log-out",
        data={"proof": proof[1], "session_id": other, "confirmed": "yes"},
        headers={"origin": str(laptop.base_url).rstrip("/")},
    ).raise_for_status()
    home = laptop.get("/").text
    assert home.count("<strong>logged in</strong>") == 1
    assert home.count("<strong>logged out</strong>") == 1

    # Signing in again restores the simulated devices, without duplicates.
    home = laptop.post("/sign-in", data={"name": "<b>mary"}).text
    assert home.count("<strong>logged in</strong>") == 2
    page = laptop.get("/account/sessions").text
    assert len(re.findall(r'name="session_id"', page)) == 1 + len(PRETEND_DEVICES)
    assert "Choose any name" in laptop.post("/sign-out").text
    assert laptop.get("/", headers={"host": "evil.example"}).status_code == 400


def _come_back(laptop: httpx.Client) -> None:
    """Sign in through the link on the sessions page. The browser returns there, and never to another site."""
    [link] = re.findall(r'href="([^"]+)">Log in<', laptop.get("/account/sessions").text)
    form = laptop.get(link).text
    [following] = re.findall(r'name="next" value="([^"]*)"', form)
    assert laptop.post("/sign-in", data={"name": "mary", "next": following}).url.path == (
        "/account/sessions"
    )
    assert laptop.get(link).url.path == "/account/sessions", "who is signed in goes there at once"
    for evil in (
        "https://evil.example/",
        "//evil.example",
        "/\\evil.example",
        "javascript:alert(1)",
    ):
        home = laptop.post("/sign-in", data={"name": "mary", "next": evil})
        assert (home.url.host, home.url.path) == ("127.0.0.1", "/")
        assert laptop.get("/", params={"next": evil}).url.host == "127.0.0.1"
    assert 'rel="icon" href="data:' in laptop.get("/").text
