"""The examples, run as they say; and what web servers do to processes, which the client survives."""

import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import httpx
import pytest

from session_authority import SessionClient
from session_authority.grpc import token_metadata
from tests.integration.web.serving_apps import EXAMPLES, RUNSERVER, django_example, serving_app
from tests.support.program import Program, serving

UVICORN = r"Uvicorn running on (http://127\.0\.0\.1:\d+)"
GUNICORN = r"Listening at: (http://127\.0\.0\.1:\d+)"
REQUESTS = 200


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    with serving(tmp_path_factory.mktemp("authority")) as program:
        yield program


def browser(address: str) -> httpx.Client:
    # What one opens in a browser, and what lets the cookie be plain.
    return httpx.Client(
        base_url=address.replace("127.0.0.1", "localhost"),
        follow_redirects=True,
        timeout=30,
        headers={"user-agent": "curl/8.5.0", "accept": "text/html"},
        transport=httpx.HTTPTransport(retries=5),
    )


def test_the_fastapi_example_signs_in_and_shows_the_page(
    authority: Program, tmp_path: Path
) -> None:
    with (
        serving_app(
            "uvicorn",
            "examples.fastapi_app:app",
            "--port",
            "0",
            cwd=tmp_path,
            SESSION_AUTHORITY_ADDRESS=authority.address,
        ) as app,
        browser(app.addresses(UVICORN)[0]) as laptop,
    ):
        assert "Sign in" in laptop.get("/").text
        assert "Sign in" in laptop.get("/me").text  # sent there
        assert "Hello, ada" in laptop.post("/sign-in", data={"name": "ada"}).text
        assert laptop.get("/me").json() == {"user_id": "ada", "device": "curl"}
        assert laptop.delete("/account").status_code == 200
        assert "curl" in laptop.get("/account/sessions").text
        assert "Sign in" in laptop.post("/sign-out").text
        assert laptop.get("/me", headers={"accept": "*/*"}).status_code == 401


def _sign_in_to_django(laptop: httpx.Client) -> None:
    token = re.search(r'csrfmiddlewaretoken" value="(\w+)"', laptop.get("/").text)
    assert token
    signed_in = laptop.post("/sign-in", data={"name": "ada", "csrfmiddlewaretoken": token[1]})
    assert "Hello, ada" in signed_in.text
    assert "signed in on curl" in signed_in.text


def test_the_django_example_survives_the_reloads_of_runserver(
    authority: Program, tmp_path: Path
) -> None:
    example = tmp_path / "site" / "django_app.py"
    example.parent.mkdir()
    example.write_text((EXAMPLES / "django_app.py").read_text())
    settings = django_example(tmp_path, authority.address)
    with serving_app(str(example), "runserver", "127.0.0.1:0", cwd=tmp_path, **settings) as app:
        with browser(app.addresses(RUNSERVER)[0]) as laptop:
            _sign_in_to_django(laptop)
            assert "curl" in laptop.get("/account/sessions").text
            cookies = laptop.cookies
        example.write_text(example.read_text() + "\n# changed\n")
        with browser(app.addresses(RUNSERVER, count=2)[1]) as laptop:
            laptop.cookies = cookies
            home = laptop.get("/").text
            assert "Hello, ada" in home
            token = re.search(r'csrfmiddlewaretoken" value="(\w+)"', home)
            assert token
            left = laptop.post("/sign-out", data={"csrfmiddlewaretoken": token[1]})
            assert "Sign in" in left.text


async def test_the_grpc_example_greets_the_user_behind_the_call(
    authority: Program, tmp_path: Path
) -> None:
    from examples.grpc_service import greet

    with (
        serving_app(
            str(EXAMPLES / "grpc_service.py"),
            cwd=tmp_path,
            SESSION_AUTHORITY_ADDRESS=authority.address,
            LISTEN="127.0.0.1:0",
        ) as app,
        SessionClient(authority.address) as client,
    ):
        token = client.create("ada", user_agent="curl/8.5.0").token
        (address,) = app.addresses(r"serving on (127\.0\.0\.1:\d+)")
        async with grpc.aio.insecure_channel(address) as channel:
            assert await greet(channel, "hello", token_metadata(token)) == "hello, ada on curl"
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await greet(channel, "hello")
    assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED


def _workers_that_know(
    address: str, sign_in: Callable[[httpx.Client], None], path: str
) -> set[int]:
    """Sign in once, and return which processes know it."""
    with browser(address) as laptop:
        sign_in(laptop)
        cookies = laptop.cookies
    workers: set[int] = set()

    def ask(_: int) -> None:
        if len(workers) >= 2:
            return
        # A connection of its own, for the system to give to whichever process.
        with browser(address) as other:
            other.cookies = cookies
            worker, user = other.get(path).json()
            assert user == "ada"
            workers.add(worker)

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(ask, range(REQUESTS)))
    return workers


def _sign_in_to_fastapi(laptop: httpx.Client) -> None:
    assert "Hello, ada" in laptop.post("/sign-in", data={"name": "ada"}).text


@pytest.mark.parametrize(
    ("command", "pattern"),
    [
        (
            [
                "uvicorn",
                "tests.integration.web.forking_apps:asgi_app",
                "--port",
                "0",
                "--workers",
                "2",
            ],
            UVICORN,
        ),
        (
            [
                "gunicorn",
                "tests.integration.web.forking_apps:asgi_app",
                "--preload",
                "-k",
                "asgi",
                "--bind",
                "127.0.0.1:0",
                "--workers",
                "2",
            ],
            GUNICORN,
        ),
    ],
    ids=["uvicorn", "gunicorn"],
)
def test_every_worker_of_an_asynchronous_server_has_a_connection_of_its_own(
    authority: Program, tmp_path: Path, command: list[str], pattern: str
) -> None:
    with serving_app(*command, cwd=tmp_path, SESSION_AUTHORITY_ADDRESS=authority.address) as app:
        (address,) = app.addresses(pattern)
        app.addresses("(startup complete|Booting worker)", count=2)
        workers = _workers_that_know(address, _sign_in_to_fastapi, "/who")
    assert len(workers) == 2
    assert app.process.pid not in workers


def test_every_worker_forked_from_a_preloaded_django_has_a_connection_of_its_own(
    authority: Program, tmp_path: Path
) -> None:
    settings = django_example(tmp_path, authority.address)
    with serving_app(
        "gunicorn",
        "tests.integration.web.forking_django:application",
        "--preload",
        "--bind",
        "127.0.0.1:0",
        "--workers",
        "2",
        cwd=tmp_path,
        **settings,
    ) as app:
        (address,) = app.addresses(GUNICORN)
        workers = _workers_that_know(address, _sign_in_to_django, "/who")
    assert len(workers) == 2
    assert app.process.pid not in workers
