"""The example programs, each in a separate process, with a real authority that requires keys.

The pages docs/start/fastapi.md, django.md and grpc.md show the programs. Each program starts with the command of its page.
"""

import shlex
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from google.protobuf.empty_pb2 import Empty
from google.protobuf.wrappers_pb2 import StringValue
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Origin

from session_authority import SessionClient
from session_authority.grpc import token_metadata
from tests.integration.web.example_shops import Shop, make_django_users
from tests.integration.web.serving_apps import EXAMPLES, ROOT, RUNSERVER, UVICORN, serving_app
from tests.support.code_blocks import blocks_of
from tests.support.program import development_key_in, environment, serving

PROGRAMS = {
    "docs/start/fastapi.md": ["fastapi_app.py"],
    "docs/start/django.md": ["django_app.py", "django_chat.py"],
    "docs/start/grpc.md": ["grpc_service.py"],
}
OTHER_SITES = ["https://evil.example/", "//evil.example", "/\\evil.example", "javascript:alert(1)"]
WAIT_SECONDS = 60.0


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    folder = tmp_path_factory.mktemp("authority")
    with serving(folder, asking_for_keys=True) as authority:
        yield {
            "SESSION_AUTHORITY_ADDRESS": authority.address,
            "SESSION_AUTHORITY_API_KEY": development_key_in(folder),
        }


@pytest.fixture
def client(settings: dict[str, str]) -> Iterator[SessionClient]:
    address, key = settings.values()
    with SessionClient(address, api_key=key) as client:
        yield client


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with copies of the programs, as a reader of the pages has."""
    folder = tmp_path_factory.mktemp("copied")
    for names in PROGRAMS.values():
        for name in names:
            shutil.copy(EXAMPLES / name, folder)
    return folder


@pytest.fixture(scope="module")
def django_folder(folder: Path, settings: dict[str, str]) -> Path:
    make_django_users(folder, **settings)
    return folder


def command(page: str, beginning: str) -> list[str]:
    """Return the only command of a page that begins with `start`, without a leading "python"."""
    lines = [
        line
        for block in blocks_of(ROOT / page)
        if block.language == "sh"
        for line in block.code.splitlines()
    ]
    (found,) = [line for line in lines if line.startswith(beginning)]
    return shlex.split(found.removeprefix("python "))


@contextmanager
def shop(
    folder: Path,
    settings: dict[str, str],
    started: list[str],
    more: list[str],
    pattern: str,
    field: str,
) -> Iterator[Shop]:
    program, *rest = started
    if program.endswith(".py"):
        program = str(folder / program)
    with serving_app(program, *rest, *more, cwd=folder, **settings) as app:
        yield Shop(app.addresses(pattern)[0], field)
        assert "Traceback" not in app.output, app.output


@pytest.fixture(scope="module")
def fastapi_shop(folder: Path, settings: dict[str, str]) -> Iterator[Shop]:
    started = command("docs/start/fastapi.md", "uvicorn")
    with shop(folder, settings, started, ["--port", "0"], UVICORN, "name") as it:
        yield it


@pytest.fixture(scope="module")
def django_shop(django_folder: Path, settings: dict[str, str]) -> Iterator[Shop]:
    started = command("docs/start/django.md", "python django_app.py runserver")
    more = ["127.0.0.1:0", "--noreload"]
    with shop(django_folder, settings, started, more, RUNSERVER, "username") as it:
        yield it


@pytest.fixture(scope="module")
def django_chat(django_folder: Path, settings: dict[str, str]) -> Iterator[Shop]:
    started = command("docs/start/django.md", "uvicorn")
    with shop(django_folder, settings, started, ["--port", "0"], UVICORN, "username") as it:
        yield it


@pytest.fixture(params=["fastapi_shop", "django_shop"])
def either(request: pytest.FixtureRequest) -> Shop:
    shop: Shop = request.getfixturevalue(request.param)
    return shop


@pytest.fixture(params=["fastapi_shop", "django_chat"])
def chatting(request: pytest.FixtureRequest) -> Shop:
    shop: Shop = request.getfixturevalue(request.param)
    return shop


# The pages


@pytest.mark.parametrize(("page", "names"), PROGRAMS.items())
def test_each_page_shows_the_program_that_these_tests_run(page: str, names: list[str]) -> None:
    shown = [name for block in blocks_of(ROOT / page) for name in block.included]
    assert shown == [f"examples/{name}" for name in names]


@pytest.mark.parametrize("name", ["fastapi_app.py", "django_app.py", "grpc_service.py"])
def test_each_program_has_40_to_80_lines_of_code(name: str) -> None:
    lines = (EXAMPLES / name).read_text().splitlines()
    assert 40 <= len([line for line in lines if line.strip()]) <= 80


# The shops


def test_the_commands_of_the_page_create_djangos_database_and_a_user(
    settings: dict[str, str], tmp_path: Path
) -> None:
    shutil.copy(EXAMPLES / "django_app.py", tmp_path)
    for beginning, more in (("migrate", []), ("createsuperuser", ["--noinput"])):
        made = command("docs/start/django.md", f"python django_app.py {beginning}")
        subprocess.run(
            [sys.executable, *made, *more],
            cwd=tmp_path,
            env=environment(DJANGO_SUPERUSER_PASSWORD="difference engine", **settings),
            timeout=WAIT_SECONDS,
            check=True,
        )
    with sqlite3.connect(tmp_path / "shop.sqlite") as database:
        assert database.execute("SELECT username FROM auth_user").fetchall() == [("ada",)]


def test_a_visitor_who_signs_in_returns_to_the_requested_page(either: Shop) -> None:
    with either.browser() as laptop:
        form = laptop.get("/")
        assert form.url.path == "/sign-in"
        assert 'type="password"' in form.text

        home = laptop.sign_in(page=str(form.url))

        assert home.url.path == "/"
        assert "Hello, ada" in home.text
        assert "curl" in laptop.get("/account/sessions").text


@pytest.mark.parametrize(("name", "password"), [("ada", "wrong"), ("mallory", ""), ("", "x")])
def test_a_wrong_name_or_password_is_refused(either: Shop, name: str, password: str) -> None:
    with either.browser() as laptop:
        refused = laptop.sign_in(name, password)
        assert 'type="password"' in refused.text
        assert "auth_session" not in laptop.cookies
        assert laptop.get("/").url.path == "/sign-in"


@pytest.mark.parametrize("other_site", OTHER_SITES)
def test_a_sign_in_redirects_to_no_other_site(either: Shop, other_site: str) -> None:
    with either.browser() as laptop:
        home = laptop.sign_in(page=str(httpx.URL("/sign-in", params={"next": other_site})))
        assert (home.url.host, home.url.path) == ("localhost", "/")


def forge_in_fastapi(laptop: httpx.Client, path: str, fields: dict[str, str]) -> list[int]:
    """Post a form with the `Origin` of another site, and without `Origin`."""
    named = laptop.post(path, data=fields, headers={"origin": "https://evil.example"})
    laptop.headers.pop("origin", None)
    return [named.status_code, laptop.post(path, data=fields).status_code]


def forge_in_django(laptop: httpx.Client, path: str, fields: dict[str, str]) -> list[int]:
    """Post a form without the page's CSRF token, and with a wrong token."""
    wrong = fields | {"csrfmiddlewaretoken": "x" * 64}
    return [laptop.post(path, data=each).status_code for each in (fields, wrong)]


@pytest.mark.parametrize(
    ("name", "forge"), [("fastapi_shop", forge_in_fastapi), ("django_shop", forge_in_django)]
)
def test_a_form_of_another_site_is_refused(
    request: pytest.FixtureRequest, name: str, forge: Callable[..., list[int]]
) -> None:
    shop: Shop = request.getfixturevalue(name)
    credentials = {"name": "ada", "username": "ada", "password": "difference engine"}
    with shop.browser() as laptop:
        laptop.get("/sign-in")
        assert forge(laptop, "/sign-in", credentials) == [403, 403]
        assert "auth_session" not in laptop.cookies
    with shop.browser() as laptop:
        laptop.sign_in()
        assert forge(laptop, "/sign-out", {}) == [403, 403]
        assert forge(laptop, "/close-account", {}) == [403, 403]
        assert "Hello, ada" in laptop.get("/").text


def test_logging_out_ends_the_session(either: Shop, client: SessionClient) -> None:
    with either.browser() as laptop:
        laptop.sign_in()
        token = laptop.token

        left = laptop.submit("/", "/sign-out")

        assert left.url.path == "/sign-in"
        assert laptop.get("/").url.path == "/sign-in"
        assert not client.validate(token)


def test_a_sensitive_action_asks_for_the_password_again(
    either: Shop, client: SessionClient
) -> None:
    with either.browser() as laptop, either.browser() as phone:
        phone.sign_in("grace")
        laptop.sign_in("grace")
        an_hour_ago = datetime.now(UTC) - timedelta(hours=1)
        old = client.reauthenticate(laptop.token, authenticate_time=an_hour_ago)
        laptop.token = old.token.reveal()

        asked = laptop.submit("/", "/close-account")

        assert asked.url.params["next"] == "/"
        confirm = str(asked.url)
        assert 'type="password"' in laptop.sign_in("grace", "wrong", page=confirm).text
        home = laptop.sign_in("grace", page=confirm)
        assert "Hello, grace" in home.text
        renewed = client.require(laptop.token)
        assert renewed.session_id == old.session.session_id
        assert renewed.authenticate_time > an_hour_ago

        assert laptop.submit("/", "/close-account").url.path == "/sign-in"
        assert phone.get("/").url.path == "/sign-in"
        assert 'type="password"' in laptop.sign_in("grace").text


def test_logging_out_another_device_takes_effect(either: Shop) -> None:
    with either.browser() as laptop, either.browser() as phone:
        phone.sign_in()
        laptop.sign_in()

        laptop.submit(
            "/account/sessions", "/account/sessions/log-out-elsewhere", confirmed="yes"
        ).raise_for_status()

        assert phone.get("/").url.path == "/sign-in"
        assert "Hello, ada" in laptop.get("/").text


def open_chat(shop: Shop, cookies: str, origin: str | None = None) -> ClientConnection:
    address = shop.address.replace("127.0.0.1", "localhost")
    return connect(
        address.replace("http", "ws") + "/chat",
        origin=Origin(origin or address),
        additional_headers={"cookie": cookies},
        open_timeout=WAIT_SECONDS,
    )


def test_a_websocket_closes_when_its_session_is_revoked(
    chatting: Shop, client: SessionClient
) -> None:
    with chatting.browser() as laptop:
        laptop.sign_in()
        with open_chat(chatting, laptop.cookie_header) as socket:
            socket.send("hello")
            assert socket.recv(WAIT_SECONDS) == "ada says: hello"

            client.sign_out(laptop.token)
            socket.send("still here?")

            with pytest.raises(ConnectionClosed) as closed:
                socket.recv(WAIT_SECONDS)
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1008


def test_a_websocket_of_a_visitor_or_of_another_site_is_refused(chatting: Shop) -> None:
    with chatting.browser() as laptop:
        laptop.sign_in()
        for cookies, origin in (("", None), (laptop.cookie_header, "https://evil.example")):
            with pytest.raises(InvalidStatus) as refused:
                open_chat(chatting, cookies, origin)
            assert refused.value.response.status_code in (401, 403)


# The gRPC service


@pytest.fixture(scope="module")
def service(folder: Path, settings: dict[str, str]) -> Iterator[str]:
    program, *rest = command("docs/start/grpc.md", "python grpc_service.py serve")
    given = settings | {"SHOP_ADDRESS": "127.0.0.1:0"}
    with serving_app(str(folder / program), *rest, cwd=folder, **given) as app:
        (port,) = app.addresses(r"serving on port (\d+)")
        yield f"127.0.0.1:{port}"


@pytest.fixture
def ask(service: str) -> Iterator[Callable[..., str]]:
    """Call a method with a user's token. Return its answer, or its status if it fails."""
    with grpc.insecure_channel(service) as channel:

        def ask(method: str, token: Any = "") -> str:
            call: Any = channel.unary_unary(
                f"/example.Shop/{method}", Empty.SerializeToString, StringValue.FromString
            )
            try:
                answer: StringValue = call(Empty(), metadata=token_metadata(token), timeout=30)
            except grpc.RpcError as error:
                return str(error.code().name)
            return answer.value

        yield ask


def test_the_service_identifies_the_user_by_the_token(
    ask: Callable[..., str], client: SessionClient
) -> None:
    new = client.create("ada", user_agent="curl/8.5.0")
    assert ask("Greet", new.token) == "Hello, ada on curl"
    assert ask("Greet") == "UNAUTHENTICATED"
    assert ask("Ping") == "pong"
    client.sign_out(new.token)
    assert ask("Greet", new.token) == "UNAUTHENTICATED"


def test_the_service_asks_for_a_recent_proof_before_a_payment(
    ask: Callable[..., str], client: SessionClient
) -> None:
    # Other tests end all sessions of ada and grace. Older proofs of those users are then refused.
    old = client.create("lin", authenticate_time=datetime.now(UTC) - timedelta(hours=1))
    assert ask("Pay", old.token) == "FAILED_PRECONDITION"
    renewed = client.reauthenticate(old.token, authentication_methods=["pwd"])
    assert ask("Pay", renewed.token) == "Paid by lin"


def test_the_caller_prints_the_output_that_the_page_shows(
    service: str, folder: Path, settings: dict[str, str]
) -> None:
    done = subprocess.run(
        [sys.executable, *command("docs/start/grpc.md", "python grpc_service.py call")],
        cwd=folder,
        env=environment(SHOP_ADDRESS=service, **settings),
        capture_output=True,
        text=True,
        timeout=WAIT_SECONDS,
        check=False,
    )
    assert done.stderr == ""
    (documented,) = (
        each.code for each in blocks_of(ROOT / "docs/start/grpc.md") if each.language == "text"
    )
    assert done.stdout == documented
