"""The generated reference is complete."""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import click
import pytest
from google.protobuf.descriptor import FileDescriptor
from tools.reference import __main__ as reference
from tools.reference import errors

import session_authority
from session_authority import SessionAuthorityError, _settings
from session_authority.v1 import (
    error_reason_pb2,
    session_admin_service_pb2,
    session_pb2,
    session_service_pb2,
    session_watch_service_pb2,
)
from session_authority.web.django import options
from session_authority_server.cli import commands
from session_authority_server.config import ENV_PREFIX, Settings
from session_authority_server.rpc.methods import METHODS

ROOT = Path(__file__).parents[2]
CODE = [ROOT / name for name in ("client", "server", "workers", "gateway")]
FILES: list[FileDescriptor] = [
    module.DESCRIPTOR
    for module in (
        session_pb2,
        session_service_pb2,
        session_admin_service_pb2,
        session_watch_service_pb2,
    )
]


def page(name: str) -> str:
    return (ROOT / "docs" / "reference" / f"{name}.md").read_text()


def headings(name: str) -> set[str]:
    return set(re.findall(r"^#+ (.+)$", page(name), re.MULTILINE))


def rows(name: str) -> set[str]:
    """Return the first cells of a page's tables and the first words of its lists."""
    return set(re.findall(r"^(?:\| |- )`([^`]+)`", page(name), re.MULTILINE))


def test_every_setting_is_in_the_reference() -> None:
    assert {ENV_PREFIX + name.upper() for name in Settings.model_fields} <= rows("settings")
    assert _settings.Settings.__dataclass_fields__.keys() <= rows("settings")
    assert options._DEFAULTS.keys() <= rows("settings")
    for variable in _settings._VARIABLES.values():
        assert f"| `{variable}` |" in page("settings")


def test_every_error_reason_and_exception_is_in_the_reference() -> None:
    names = error_reason_pb2.DESCRIPTOR.enum_types_by_name["ErrorReason"].values_by_name
    reasons = {name.removeprefix("ERROR_REASON_") for name in names}
    assert reasons - {"UNSPECIFIED"} <= headings("errors")
    exported = (getattr(session_authority, name) for name in session_authority.__all__)
    exceptions = {
        each.__name__
        for each in exported
        if isinstance(each, type) and issubclass(each, SessionAuthorityError)
    }
    assert exceptions <= headings("errors")


def test_every_rpc_message_and_enum_is_in_the_reference() -> None:
    assert {each.name for each in METHODS.values()} <= headings("api")
    for file in FILES:
        for named in (
            file.services_by_name,
            file.message_types_by_name,
            file.enum_types_by_name,
        ):
            assert set(named) <= headings("api")
        for message in file.message_types_by_name.values():
            assert {each.name for each in message.fields} <= rows("api")
        for enum in file.enum_types_by_name.values():
            assert {each.name for each in enum.values} <= rows("api")


def every_command(
    command: click.Command, name: str = "session-authority"
) -> Iterator[tuple[str, click.Command]]:
    yield name, command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for below in command.list_commands(context):
            found = command.get_command(context, below)
            assert found is not None
            yield from every_command(found, f"{name} {below}")


def test_every_command_and_option_is_in_the_reference() -> None:
    shown = {name: command for name, command in every_command(commands) if not command.hidden}
    assert len(shown) > 10
    assert shown.keys() <= headings("commands")
    for name, command in shown.items():
        section = page("commands").partition(f"## {name}\n")[2].partition("\n## ")[0]
        for parameter in command.params:
            if isinstance(parameter, click.Option):
                assert f"| `{parameter.opts[0]}`" in section, name


def limits_in_the_code() -> Iterator[str]:
    """Return the names of public constants that are limits."""
    for folder in CODE:
        for path in folder.rglob("*.py"):
            if {"v1", "testing", "demo_site.py"} & set(path.parts):
                continue
            for line in path.read_text().splitlines():
                found = re.match(r"([A-Z][A-Z0-9_]*) = [\d(]", line)
                if found and {"LIMIT", "MAX"} & set(found[1].split("_")):
                    yield found[1]


def test_every_limit_of_the_code_is_in_the_reference() -> None:
    table = (ROOT / "tools" / "reference" / "limits.py").read_text()
    used = {each.attr for each in ast.walk(ast.parse(table)) if isinstance(each, ast.Attribute)}
    limits = set(limits_in_the_code())
    assert len(limits) > 40
    assert limits - used == set()


def test_an_error_reason_whose_comment_names_the_wrong_status_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(errors, "api", lambda: FakeApi())
    with pytest.raises(ValueError, match="SESSION_NOT_FOUND is answered with NOT_FOUND"):
        list(errors.page())


class FakeApi:
    def reasons(self) -> Iterator[tuple[str, list[str]]]:
        yield "SESSION_NOT_FOUND", ["UNAVAILABLE. There is none."]


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.setattr(reference, "FOLDER", tmp_path / "reference")
    monkeypatch.setattr(reference, "_PAGES", {"a.md": lambda: "text\n"})
    monkeypatch.setattr(sys, "argv", ["reference"])
    reference.main()
    monkeypatch.setattr(sys, "argv", ["reference", "--check"])
    return reference


def test_an_unchanged_page_passes_the_check(written: ModuleType) -> None:
    written.main()


def test_a_stale_or_missing_page_fails_the_check(written: ModuleType) -> None:
    file = written.FOLDER / "a.md"
    file.write_text(file.read_text().replace("text", "tale"))
    with pytest.raises(SystemExit, match="make reference"):
        written.main()
    file.unlink()
    with pytest.raises(SystemExit, match="make reference"):
        written.main()
