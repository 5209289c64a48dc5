"""The page about the command line, from the parser of the command."""

import inspect
from collections.abc import Iterator

import click
from tools.reference.markdown import one_line, shown, table

from session_authority_server.cli import commands


def page() -> Iterator[str]:
    """Return the page about the command line."""
    yield from _command(commands, click.Context(commands, info_name="session-authority"), "##")


def _command(command: click.Command, context: click.Context, heading: str) -> Iterator[str]:
    usage = " ".join([context.command_path, *command.collect_usage_pieces(context)])
    yield from (f"{heading} {context.command_path}", "")
    for paragraph in inspect.cleandoc(command.help or "").split("\n\n"):
        yield from (one_line(paragraph), "")
    yield from (f"`{usage}`", "")
    options = [
        each for each in command.params if isinstance(each, click.Option) and not each.hidden
    ]
    if options:
        rows = (_option(each, context) for each in options)
        yield from table("option", "default", "meaning", rows=rows)
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            found = command.get_command(context, name)
            if found is not None and not found.hidden:
                below = click.Context(found, info_name=name, parent=context)
                yield from _command(found, below, "##" if heading == "##" else "###")


def _option(option: click.Option, context: click.Context) -> list[str]:
    names = ", ".join(f"`{each}`" for each in option.opts)
    if not option.is_flag:
        names += f" {option.make_metavar(context)}"
    default = option.default if isinstance(option.default, str | int) else ""
    is_given = default != "" and not option.is_flag
    return [names, shown(default) if is_given else "", option.help or ""]
