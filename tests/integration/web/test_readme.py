"""The web apps in the README and on the Django page, run unchanged."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.integration.web.serving_apps import ROOT, serving_app
from tests.support.code_blocks import Block, blocks_of
from tests.support.program import Program, environment, serving

LINES_LIMIT = 12


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    with serving(tmp_path_factory.mktemp("authority")) as program:
        yield program


def python_blocks(document: str) -> list[Block]:
    return [each for each in blocks_of(ROOT / document) if each.language == "python"]


def readme_app() -> str:
    (block,) = python_blocks("README.md")
    return block.code


def test_adoption_takes_a_dozen_lines() -> None:
    assert len(readme_app().splitlines()) <= LINES_LIMIT


def test_the_fastapi_app_runs(authority: Program, tmp_path: Path) -> None:
    (tmp_path / "readme_app.py").write_text(readme_app())
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
TEMPLATES = [{"BACKEND": "django.template.backends.django.DjangoTemplates", "APP_DIRS": True}]
ROOT_URLCONF = "urls"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
"""
URLS = """
import views
urlpatterns += [path("delete-account", views.delete_account), path("me", views.me)]
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
browser = {"host": "testserver", "referer": "https://testserver/me"}
answer = before.post("/delete-account", secure=True, headers=browser)
confirm = "/account/sessions/reauthenticate?next=%2Fme"
assert answer.headers["Location"] == confirm, "the proof is old"
assert before.get(confirm, secure=True).status_code == 200
assert Client().get("/account/sessions", secure=True).status_code == 401
print("done")
"""


def test_the_django_site_runs(authority: Program, tmp_path: Path) -> None:
    for name, before in (("settings.py", SITE), ("urls.py", ""), ("views.py", VIEWS)):
        shown = [each.code for each in python_blocks("docs/use/django.md") if each.title == name]
        after = URLS if name == "urls.py" else ""
        (tmp_path / name).write_text("\n".join([before, *shown, after]))
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
