import contextlib
import os
from collections.abc import AsyncIterator

import click
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from session_authority import AsyncSessionClient, Session
from session_authority_server.app import development_key
from session_authority_server.app.process import CannotStart, catch_signals
from session_authority_server.app.serving import ServeOptions, serving
from session_authority_server.cli.shared import run, settings_of
from session_authority_server.config import Settings

_USER = "ada"
# Without a setting, the demo uses its own database, so it changes no other.
_DEFAULTS = {
    "database_url": "sqlite:///session-authority-demo.sqlite",
    "log_level": "warning",
}
# The demo's own client connects without encryption, and so the server must listen on this machine only.
_WITHOUT_TLS = {"tls_certificate": "", "tls_key": "", "tls_client_ca": ""}
_DEVICES = (
    (
        "203.0.113.7",
        "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) "
        "Chrome/141.0.0.0 Safari/537.36",
    ),
    (
        "198.51.100.23",
        "Mozilla/5.0 (iPhone; CPU iPhone OS 18_6 like Mac OS X) AppleWebKit/605.1.15 "
        "(KHTML, like Gecko) Version/18.6 Mobile/15E148 Safari/604.1",
    ),
    (
        "2001:db8::5",
        "Mozilla/5.0 (X11; Linux x86_64; rv:143.0) Gecko/20100101 Firefox/143.0",
    ),
)


@click.command()
@click.option("--listen", help="Address to serve on, as host:port. Port 0 picks a free port.")
@click.option("--database-url", help="Database to keep sessions in.")
@click.option("--web-port", default=8000, help="Local port of the web app. 0 picks a free port.")
@click.option("--leave", is_flag=True, help="Stop after the demo instead of continuing to serve.")
@click.pass_context
def demo(
    context: click.Context, listen: str | None, database_url: str | None, web_port: int, leave: bool
) -> None:
    """Start a server and a web app, show a log-out among three devices, and keep serving."""
    given = {"listen": listen, "database_url": database_url}
    chosen = settings_of(context, **given, **_WITHOUT_TLS).model_fields_set
    defaults = {name: value for name, value in _DEFAULTS.items() if name not in chosen}
    settings = settings_of(context, **given | defaults, **_WITHOUT_TLS)
    run(_demo(settings, web_port=web_port, leave=leave))


async def _demo(settings: Settings, *, web_port: int, leave: bool) -> None:
    console = Console(highlight=False)
    async with serving(settings, ServeOptions()) as served:
        address = served.address
        console.print(
            f"[bold]Session Authority[/] serves on {address}, with sessions in {settings.database}\n",
            soft_wrap=True,
        )
        async with AsyncSessionClient(address, api_key=_key(settings)) as client:
            await _show(console, client)
            if leave:
                return
            async with _web_app(client, web_port) as how_to_open:
                signalled = catch_signals()
                _print_invitation(console, address, settings)
                console.print("Press Ctrl-C to stop.")
                console.print(f"\n[bold]{how_to_open}[/]", soft_wrap=True)
                await signalled.wait()
                console.print("\nDraining ...")
    console.print("Stopped.")


@contextlib.asynccontextmanager
async def _web_app(client: AsyncSessionClient, port: int) -> AsyncIterator[str]:
    """Serve the web app, and yield a line that says how to open it."""
    try:
        from session_authority_server.cli.demo_site import serving_demo_site
    except ImportError as error:
        yield f"For the web app, install session-authority with its extra `demo` ({error.name} is missing)"
        return
    async with serving_demo_site(client, port) as address:
        yield f"Open {address} and log in with any name."


async def _show(console: Console, client: AsyncSessionClient) -> None:
    signed_in = [
        await client.create(
            _USER, ip_address=address, user_agent=agent, authentication_methods=["pwd"]
        )
        for address, agent in _DEVICES
    ]
    laptop, phone, shared = signed_in
    kept = {new.session.session_id for new in signed_in}
    for session in await client.list(laptop.token):
        if session.session_id not in kept:  # from an earlier demo
            await client.revoke(laptop.token, session.session_id)
    console.print(f"{_USER} logs in on three devices. The first device shows all of them:")
    console.print(_table(await client.list(laptop.token)))
    revoked = await client.revoke(laptop.token, shared.session.session_id)
    console.print(f'She logs out "{shared.session.device.display_name}":')
    for name, token in (("first", laptop.token), ("second", phone.token), ("third", shared.token)):
        outcome = await client.validate(token)
        if isinstance(outcome, Session):
            said = f"[green]live[/], {outcome.device.display_name}"
        else:
            said = f"[red]refused[/], {outcome.reason.name}"
        console.print(f"  the {name} device's token: {said}")
    console.print(
        f"No service accepts that token after {revoked.effective_time:%H:%M:%S.%f} UTC.\n"
    )


def _table(sessions: list[Session]) -> Table:
    table = Table(box=SIMPLE, pad_edge=False)
    for heading in ("device", "IP address", "last active", "logged in", ""):
        table.add_column(heading, no_wrap=True)
    for session in sessions:
        table.add_row(
            session.device.display_name,
            session.last_ip_address or "-",
            f"{session.last_active_time:%H:%M:%S}",
            f"{session.create_time:%H:%M:%S}",
            "this device" if session.current else "",
        )
    return table


def _key(settings: Settings) -> str:
    # The file's key belongs to this database. The key in the environment may belong to another, so it comes second.
    key = development_key.read(settings) or os.environ.get(development_key.VARIABLE)
    if key is None:
        raise CannotStart(
            f"{settings.database} has no development key. Put a key with the permissions create, "
            f"validate and manage in {development_key.VARIABLE}."
        )
    return key


def _print_invitation(console: Console, address: str, settings: Settings) -> None:
    service = "session_authority.v1.SessionService"
    # Print where the key is, not the key: people paste terminal output into chats.
    in_python, in_shell = (
        f'os.environ["{development_key.VARIABLE}"]',
        f"${development_key.VARIABLE}",
    )
    if settings.sqlite_path is not None and development_key.read(settings):
        file = development_key.key_file(settings.sqlite_path)
        in_python, in_shell = f'open("{file}").read().strip()', f"$(cat '{file}')"
    console.print("[bold]Try it from Python[/] (.venv/bin/python):\n")
    console.print(
        "from session_authority import SessionClient\n"
        f"import os; key = {in_python}\n"
        f'client = SessionClient("{address}", api_key=key)\n'
        'new = client.create("grace", ip_address="203.0.113.9", user_agent="curl/8.5.0")\n'
        "print(client.validate(new.token))\n"
        "client.sign_out(new.token)\n"
        "print(client.validate(new.token))\n",
        soft_wrap=True,
        markup=False,
    )
    console.print("[bold]or from a shell[/], through server reflection:\n")
    console.print(
        ".venv/bin/buf curl --protocol grpc --http2-prior-knowledge \\\n"
        f'  --header "authorization: Bearer {in_shell}" \\\n'
        f'  --data \'{{"user_id": "grace"}}\' http://{address}/{service}/CreateSession\n',
        soft_wrap=True,
        markup=False,
    )
