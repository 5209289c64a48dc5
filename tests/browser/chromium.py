"""The browser that the tests use: the system's Chromium. It can connect only to the test site.

The headless shell is the same browser without its windows, and takes a third of the time.
"""

import shutil

from playwright.sync_api import Browser, Playwright

EXECUTABLE = (
    shutil.which("chromium-headless-shell")
    or shutil.which("chromium")
    or shutil.which("chromium-browser")
    or shutil.which("google-chrome")
)

_ARGUMENTS = [
    "--no-sandbox",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-gpu-compositing",  # no pixels are looked at
    "--disable-sync",
    "--no-first-run",
]


def launch(driver: Playwright) -> Browser:
    """Start the browser."""
    assert EXECUTABLE is not None
    return driver.chromium.launch(executable_path=EXECUTABLE, args=_ARGUMENTS)
