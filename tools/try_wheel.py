"""Install a wheel into empty environments, and run the quick start of README.md from it.

python tools/try_wheel.py dist/NAME.whl
"""

import http.cookiejar
import os
import re
import subprocess
import sys
import tempfile
import time
import urllib.request
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[1]
_WAIT_SECONDS = 60
_APP = re.compile(r"```python\n(from fastapi import .*?)```", re.DOTALL)


def main(wheel: Path) -> None:
    """Try a wheel with the client alone, and then with the extras of the quick start."""
    version = wheel.name.split("-")[1]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        command = _installed(folder / "client", str(wheel)) / "session-authority"
        alone = subprocess.run([command, "--version"], capture_output=True, text=True, check=False)
        _require(alone.returncode == 1, alone.stderr)
        _require("with its extra `server`" in alone.stderr, alone.stderr)

        programs = _installed(folder / "server", f"{wheel}[server,fastapi]", "uvicorn")
        command = programs / "session-authority"
        shown = subprocess.run([command, "--version"], capture_output=True, text=True, check=True)
        _require(shown.stdout.split()[-1] == version, f"{shown.stdout} is not {version}")
        _quick_start(programs, folder)
        _gateway(_installed(folder / "gateway", f"{wheel}[gateway,otel]"), folder)
    sys.stdout.write(f"{wheel.name}: the quick start and the gateway run\n")


def _installed(environment: Path, *requirements: str) -> Path:
    """Install into a new environment, and return the folder of its programs."""
    venv.create(environment, with_pip=True)
    programs = environment / "bin"
    subprocess.run([programs / "pip", "install", "--quiet", *requirements], check=True)
    return programs


def _quick_start(programs: Path, folder: Path) -> None:
    found = _APP.search((ROOT / "README.md").read_text())
    _require(found is not None, "README.md has no app")
    assert found is not None
    (folder / "app.py").write_text(found[1])
    serve: list[str | Path] = [programs / "session-authority", "serve", "--listen", "127.0.0.1:0"]
    with _running(serve, folder, r"serving on (\S+),") as authority:
        key = (folder / "session-authority.sqlite.key").read_text().strip()
        app: list[str | Path] = [
            programs / "uvicorn",
            "--app-dir",
            folder,
            "--port",
            "0",
            "app:app",
        ]
        variables = {"SESSION_AUTHORITY_ADDRESS": authority, "SESSION_AUTHORITY_API_KEY": key}
        with _running(app, folder, r"running on (http://\S+)", **variables) as site:
            browser = urllib.request.build_opener(
                urllib.request.HTTPCookieProcessor(http.cookiejar.CookieJar())
            )
            browser.open(urllib.request.Request(f"{site}/sign-in?name=ada", method="POST"))
            _require(browser.open(f"{site}/me").read().startswith(b'"ada on '), "/me")
            _require(b"<html" in browser.open(f"{site}/account/sessions").read(), "the page")


def _gateway(programs: Path, folder: Path) -> None:
    ports = (
        "--listen",
        "127.0.0.1:0",
        "--grpc-listen",
        "127.0.0.1:0",
        "--json-listen",
        "127.0.0.1:0",
    )
    command: list[str | Path] = [programs / "session-authority", "gateway", *ports]
    with _running(command, folder, r"gateway on (\S+) and \S+ \(gRPC\) and ") as gateway:
        healthy = urllib.request.urlopen(f"http://{gateway}/healthz")
        _require(healthy.read() == b"serving", "/healthz")


@contextmanager
def _running(
    command: list[str | Path], folder: Path, pattern: str, **variables: str
) -> Iterator[str]:
    """Run a program, and yield what it prints in the group of a pattern."""
    output = folder / f"{Path(command[0]).name}.log"
    with output.open("w") as log:
        process = subprocess.Popen(
            command, cwd=folder, env=os.environ | variables, stdout=log, stderr=log
        )
    try:
        give_up = time.monotonic() + _WAIT_SECONDS
        while not (found := re.search(pattern, output.read_text())):
            _require(process.poll() is None and time.monotonic() < give_up, output.read_text())
            time.sleep(0.1)
        yield found[1]
    finally:
        process.terminate()
        process.wait(_WAIT_SECONDS)


def _require(condition: bool, otherwise: str) -> None:
    if not condition:
        raise SystemExit(f"the wheel does not work: {otherwise}")


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
