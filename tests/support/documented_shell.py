"""The shell that runs the documents' commands: bash, in which this process runs some of the commands.

`session-authority` runs in this process, since starting a process takes two seconds. A server runs in a separate
process, on a free port, until another server replaces it or the shell ends. `make` and `pip` only check that the
target or the extra exists.
"""

import re
import socket
import subprocess
import tomllib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import click

from session_authority_server.cli import commands
from tests.support.code_blocks import ROOT
from tests.support.program import environment, run, running

_SECONDS = 120
_FUNCTIONS = r"""
_ask() {
    local asked code
    exec {asked}<>"/dev/tcp/127.0.0.1/$DOCUMENTED_PORT"
    { printf '%s\0' "$#" "$@" "$PWD"; env -0; printf '\0'; } >&"$asked"
    read -r code <&"$asked"
    exec {asked}>&-
    cat "$DOCUMENTED_ANSWER/out"
    cat "$DOCUMENTED_ANSWER/err" >&2
    return "$code"
}
session-authority() { _ask session-authority "$@"; }
make() { _ask make "$@"; }
pip() { _ask pip "$@"; }
"""
_READY = r"(?:(?:serving|serves|worker) on|open) (\S+)"
_FREE_PORT = "127.0.0.1:0"
_METRICS = "SESSION_AUTHORITY_METRICS_LISTEN"
_ANY_SERVER = re.compile(r"postgresql://[^/\s]+/")


class DocumentedShell:
    """Runs scripts in a folder.

    Attributes:
        output: The output of the last script.
    """

    def __init__(self, folder: Path, postgresql: str) -> None:
        """Use a folder, and one PostgreSQL server for every database address in the scripts."""
        self.output = ""
        self._folder = folder
        self._postgresql = postgresql
        self._server = ExitStack()
        self._answer = folder / ".answer"
        self._answer.mkdir()

    def run(self, script: Path, **variables: str) -> None:
        """Run a script. Stop at the first command that fails.

        Raises:
            AssertionError: A command failed. The message names the command and the reason.
        """
        functions = self._answer / "functions"
        functions.write_text(_FUNCTIONS)
        log = self._answer / "log"
        with socket.create_server(("127.0.0.1", 0)) as listener, log.open("wb") as output:
            listener.settimeout(0.02)
            shell = subprocess.Popen(
                ["bash", "-eu", "-c", f'. "{functions}"; . "{script}"'],
                cwd=self._folder,
                env=environment(
                    DOCUMENTED_PORT=str(listener.getsockname()[1]),
                    DOCUMENTED_ANSWER=str(self._answer),
                    **variables,
                ),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
            try:
                while shell.poll() is None:
                    try:
                        asked, _ = listener.accept()
                    except TimeoutError:
                        continue
                    with asked:
                        asked.settimeout(_SECONDS)
                        self._answer_one(asked)
            finally:
                shell.kill()
                shell.wait()
        self.output = log.read_text()
        assert shell.returncode == 0, self.output

    def close(self) -> None:
        """End the server that the last script started, if any."""
        self._server.close()

    def _answer_one(self, asked: socket.socket) -> None:
        received = b""
        while not received.endswith(b"\0\0"):
            received += asked.recv(65_536)
        words = received.decode().split("\0")
        count = int(words[0])
        arguments, cwd = words[1 : count + 1], Path(words[count + 1])
        variables = dict(word.split("=", 1) for word in words[count + 2 :] if word)
        settings = {
            name: self._here(value)
            for name, value in variables.items()
            if name.startswith("SESSION_AUTHORITY_")
        }
        try:
            done = self._do(arguments[0], [*map(self._here, arguments[1:])], cwd, settings)
        except (AssertionError, click.ClickException) as error:
            message = error.format_message() if isinstance(error, click.ClickException) else error
            done = subprocess.CompletedProcess(arguments, 1, "", f"{arguments}: {message}\n")
        (self._answer / "out").write_text(done.stdout)
        (self._answer / "err").write_text(done.stderr)
        asked.sendall(f"{done.returncode}\n".encode())

    def _do(
        self, program: str, arguments: list[str], cwd: Path, settings: dict[str, str]
    ) -> subprocess.CompletedProcess[str]:
        if program == "make":
            check_targets(arguments)
        elif program == "pip":
            check_requirements(arguments)
        elif is_server(arguments):
            self._server.close()
            here = ("--listen", _FREE_PORT) if arguments[0] == "serve" else ()
            if settings.get(_METRICS):
                settings[_METRICS] = _FREE_PORT
            server = self._server.enter_context(
                running(*arguments, *here, cwd=cwd, settings=settings)
            )
            server.wait_for(_READY)
            return subprocess.CompletedProcess(arguments, 0, server.stdout, server.stderr)
        else:
            return run(*arguments, cwd=cwd, settings=settings)
        return subprocess.CompletedProcess(arguments, 0, "", "")

    def _here(self, word: str) -> str:
        """Replace the addresses in a word of a command with this test's addresses."""
        return _ANY_SERVER.sub(self._postgresql, word)


@contextmanager
def documented_shell(folder: Path, postgresql: str) -> Iterator[DocumentedShell]:
    """Yield a shell. Its servers end with the context."""
    shell = DocumentedShell(folder, postgresql)
    try:
        yield shell
    finally:
        shell.close()


def is_server(arguments: list[str]) -> bool:
    """Return whether a command of `session-authority` runs until a signal ends it."""
    return arguments[:1] in (["serve"], ["worker"], ["demo"]) and not (
        {"--once", "--help"} & set(arguments)
    )


def check_arguments(arguments: list[str]) -> None:
    """Parse the arguments of `session-authority`, without running the command.

    Raises:
        click.ClickException: The arguments are wrong.
    """
    command: click.Command = commands
    context = None
    while True:
        try:
            context = command.make_context(command.name, list(arguments), parent=context)
        except click.exceptions.Exit:  # --help and --version
            return
        if not isinstance(command, click.Group):
            return
        arguments = [*context._protected_args, *context.args]
        _, found, arguments = command.resolve_command(context, arguments)
        assert found is not None
        command = found


def check_targets(targets: list[str]) -> None:
    """Check that the Makefile has the targets."""
    present = set(re.findall(r"^([\w./-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    missing = {target for target in targets if "=" not in target} - present
    assert not missing, f"the Makefile does not make {missing}"


def check_requirements(arguments: list[str]) -> None:
    """Check that the package has the extras."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for requirement in arguments[1:]:
        name, _, extras = requirement.rstrip("]").partition("[")
        if name in (".", project["name"]):
            wanted = set(extras.split(",")) - {""}
            assert wanted <= set(project["optional-dependencies"]), requirement
