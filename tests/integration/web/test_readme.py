"""What the README shows of web apps, run as it stands."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.integration.web.serving_apps import ROOT, serving_app
from tests.support.program import Program, environment, serving

LINES_LIMIT = 12


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    with serving(tmp_path_factory.mktemp("authority")) as program:
        yield program


def snippet(beginning: str) -> str:
    """Return the one block of the README that begins so."""
    readme = (ROOT / "README.md").read_text()
    blocks = re.findall(r"^```python\n(.*?)^```$", readme, re.DOTALL | re.MULTILINE)
    (found,) = [block for block in blocks if block.startswith(beginning)]
    return str(found)


@pytest.mark.parametrize("beginning", ["from fastapi", "# settings.py"])
def test_adoption_takes_a_dozen_lines(beginning: str) -> None:
    assert len(snippet(beginning).splitlines()) <= LINES_LIMIT


def test_the_fastapi_app_runs(authority: Program, tmp_path: Path) -> None:
    (tmp_path / "readme_app.py").write_text(snippet("from fastapi"))
    with (
        serving_app(
            "uvicorn",
            "readme_app:app",
            "--port",
            "0",
            "--app-dir",
            str(tmp_path),
            cwd=tmp_path,
            SESSION_AUTHORITY_ADDRESS=authority.address,
        ) as app,
        httpx.Client(
            base_url=app.addresses(r"running on (http://127\.0\.0\.1:\d+)")[0],
            headers={"user-agent": "curl/8.5.0"},
            timeout=30,
        ) as browser,
    ):
        assert browser.get("/me").status_code == 401
        assert browser.post("/sign-in?name=ada").status_code == 200
        assert browser.get("/me").json() == "ada on curl"
        assert "curl" in browser.get("/account/sessions").text


SITE = """
SECRET_KEY = "of a test"
ALLOWED_HOSTS = ["testserver"]
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": "site.sqlite"}}
INSTALLED_APPS = ["django.contrib.auth", "django.contrib.contenttypes", "django.contrib.sessions"]
MIDDLEWARE = [
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
]
TEMPLATES = [{"BACKEND": "django.template.backends.django.DjangoTemplates", "APP_DIRS": True}]
ROOT_URLCONF = "urls"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
"""
URLS = """
from django.urls import include, path
import views
urlpatterns = [path("delete-account", views.delete_account), path("me", views.me)]
"""
VIEWS = """
from django.http import HttpResponse
def me(request):
    return HttpResponse(request.user.get_username())
"""
SCRIPT = """
import django
django.setup()
from django.contrib.auth.models import User
from django.core.management import call_command
from django.test import Client
call_command("migrate", verbosity=0)
call_command("check")
ada = User.objects.create_user("ada")
before = Client()
before.force_login(ada)
assert before.get("/me", secure=True).content == b"ada", "the deploy signed somebody out"
assert before.get("/account/sessions", secure=True).status_code == 200
answer = before.get("/delete-account", secure=True)
confirm = "/account/sessions/reauthenticate?next=%2Fdelete-account"
assert answer.headers["Location"] == confirm, "the proof is old"
assert before.get(confirm, secure=True).status_code == 200
assert Client().get("/account/sessions", secure=True).status_code == 401
print("done")
"""


def test_the_django_site_runs(authority: Program, tmp_path: Path) -> None:
    parts = re.split(r"^# (\w+)\.py\n", snippet("# settings.py"), flags=re.MULTILINE)[1:]
    shown = dict(zip(parts[::2], parts[1::2], strict=True))
    for name, before in (("settings", SITE), ("urls", URLS), ("views", VIEWS)):
        (tmp_path / f"{name}.py").write_text(before + shown[name])
    (tmp_path / "script.py").write_text(SCRIPT)

    done = subprocess.run(
        [sys.executable, "script.py"],
        cwd=tmp_path,
        env=environment(
            DJANGO_SETTINGS_MODULE="settings", SESSION_AUTHORITY_ADDRESS=authority.address
        ),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("done\n")
