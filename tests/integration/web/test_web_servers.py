"""The shops under web servers that fork, preload and reload their processes."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.integration.web.example_shops import Shop, make_django_users
from tests.integration.web.serving_apps import EXAMPLES, RUNSERVER, UVICORN, serving_app
from tests.support.program import Program, serving

GUNICORN = r"Listening at: (http://127\.0\.0\.1:\d+)"
FASTAPI = "tests.integration.web.forking_apps:asgi_app"
DJANGO = "tests.integration.web.forking_django:application"
REQUESTS = 200


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    with serving(tmp_path_factory.mktemp("authority")) as program:
        yield program


@pytest.fixture(scope="module")
def settings(authority: Program) -> dict[str, str]:
    return {"SESSION_AUTHORITY_ADDRESS": authority.address}


@pytest.fixture(scope="module")
def django_folder(settings: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("django")
    make_django_users(folder, **settings)
    return folder


def workers_that_accept(shop: Shop) -> set[int]:
    """Sign in once, and return the processes that accept the session."""
    with shop.browser() as laptop:
        assert "Hello, ada" in laptop.sign_in().text
        cookies = laptop.cookies
    workers: set[int] = set()

    def ask(_: int) -> None:
        if len(workers) >= 2:
            return
        # The kernel assigns each new connection to one of the processes.
        with shop.browser() as other:
            other.cookies = cookies
            worker, user = other.get("/who").json()
            assert user == "ada"
            workers.add(worker)

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(ask, range(REQUESTS)))
    return workers


@pytest.mark.parametrize(
    ("command", "pattern"),
    [
        (("uvicorn", FASTAPI, "--port", "0", "--workers", "2"), UVICORN),
        (
            ("gunicorn", FASTAPI, "--preload", "-k", "asgi", "-b", "127.0.0.1:0", "-w", "2"),
            GUNICORN,
        ),
    ],
    ids=["uvicorn", "gunicorn"],
)
def test_every_worker_of_an_asynchronous_server_has_its_own_connection(
    settings: dict[str, str], tmp_path: Path, command: tuple[str, ...], pattern: str
) -> None:
    with serving_app(*command, cwd=tmp_path, **settings) as app:
        (address,) = app.addresses(pattern)
        app.addresses("(startup complete|Booting worker)", count=2)
        workers = workers_that_accept(Shop(address, "name"))
    assert len(workers) == 2
    assert app.process.pid not in workers


def test_every_worker_forked_from_a_preloaded_django_has_its_own_connection(
    settings: dict[str, str], django_folder: Path
) -> None:
    command = ("gunicorn", DJANGO, "--preload", "-b", "127.0.0.1:0", "-w", "2")
    with serving_app(*command, cwd=django_folder, **settings) as app:
        workers = workers_that_accept(Shop(app.addresses(GUNICORN)[0], "username"))
    assert len(workers) == 2
    assert app.process.pid not in workers


def test_django_keeps_its_sessions_while_runserver_reloads(
    settings: dict[str, str], django_folder: Path
) -> None:
    program = django_folder / "django_app.py"
    program.write_text((EXAMPLES / "django_app.py").read_text())
    with serving_app(
        str(program), "runserver", "127.0.0.1:0", cwd=django_folder, **settings
    ) as app:
        with Shop(app.addresses(RUNSERVER)[0], "username").browser() as laptop:
            assert "Hello, ada" in laptop.sign_in().text
            cookies = laptop.cookies
        program.write_text(program.read_text() + "\n# changed\n")
        with Shop(app.addresses(RUNSERVER, count=2)[1], "username").browser() as laptop:
            laptop.cookies = cookies
            assert "Hello, ada" in laptop.get("/").text
