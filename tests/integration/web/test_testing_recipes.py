"""The recipes of docs/use/testing.md, run with pytest."""

import re
import subprocess
import sys
from pathlib import Path

from tests.integration.web.serving_apps import ROOT
from tests.support.program import environment

SHOP = """
from fastapi import FastAPI
from session_authority.web.fastapi import CurrentSession, RecentAuthentication, Sessions

app = FastAPI()
sessions = Sessions.from_env()
sessions.install(app)

@app.get("/profile")
async def profile(session: CurrentSession) -> str:
    return session.user_id

@app.get("/vault", dependencies=[RecentAuthentication(minutes=10)])
async def vault() -> str:
    return "gold"
"""
SITE = """
import sys
import django
from django.conf import settings
settings.configure(
    SECRET_KEY="of a test",
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
    INSTALLED_APPS=[
        "django.contrib.auth", "django.contrib.contenttypes", "django.contrib.sessions",
        "session_authority.web.django",
    ],
    MIDDLEWARE=[
        "django.contrib.sessions.middleware.SessionMiddleware",
        "django.contrib.auth.middleware.AuthenticationMiddleware",
        "session_authority.web.django.middleware.SessionAuthorityMiddleware",
    ],
    TEMPLATES=[{"BACKEND": "django.template.backends.django.DjangoTemplates", "APP_DIRS": True}],
    LOGIN_URL="/login/",
    ROOT_URLCONF="site_of_a_test",
    USE_TZ=True,
)
django.setup()
from django.contrib.auth.decorators import login_required
from django.core.management import execute_from_command_line
from django.http import HttpResponse
from django.urls import path
urlpatterns = [path("profile", login_required(lambda request: HttpResponse(request.user.username)))]
if __name__ == "__main__":
    sys.modules["site_of_a_test"] = sys.modules["__main__"]
    execute_from_command_line(["manage.py", "test", "--verbosity", "0"])
"""


def recipe(name: str) -> str:
    text = (ROOT / "docs" / "use" / "testing.md").read_text()
    (found,) = re.findall(rf"^```python\n# {name}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    return str(found)


def run(folder: Path, *command: str) -> str:
    done = subprocess.run(
        [sys.executable, *command],
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_the_recipe_for_fastapi_runs(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(SHOP)
    for name in ("conftest.py", "test_fastapi_profile.py"):
        (tmp_path / name).write_text(recipe(name))
    strict = ("-W", "error", "-W", "ignore:Using `httpx`", "-p", "no:asyncio")
    assert "4 passed" in run(tmp_path, "-m", "pytest", "-q", *strict)


def test_the_recipe_for_django_runs(tmp_path: Path) -> None:
    (tmp_path / "site_of_a_test.py").write_text(SITE)
    (tmp_path / "test_django_profile.py").write_text(recipe("test_django_profile.py"))
    assert "Ran 2 tests" in run(tmp_path, "site_of_a_test.py")
