"""Load settings, set up the log, run the event loop and print errors, for every command."""

import asyncio
import os
from collections.abc import Coroutine
from typing import Any, TypeVar

import click
import uvloop

from session_authority_server.app.process import CannotStart, StoppedServing
from session_authority_server.config import ConfigurationError, Settings, load_settings
from session_authority_server.domain.errors import ClockWrong, EndingsLost, StoreUnavailable
from session_authority_server.observability import logs
from session_authority_server.store.engine.sqlite import AlreadyServed, FileReplaced

T = TypeVar("T")
# The errors of a command whose messages say what to do.
EXPECTED = (CannotStart, AlreadyServed, ClockWrong, EndingsLost, FileReplaced, StoreUnavailable)

# Silence gRPC, which would log a port that is taken. `CannotStart` already reports that.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")


def settings_of(context: click.Context, **given: Any) -> Settings:
    """Return the settings and set up the log. The command line takes precedence."""
    try:
        settings = load_settings(context.obj, **given)
    except ConfigurationError as error:
        raise click.ClickException(str(error)) from None
    logs.configure(settings.log_level, settings.log_format)
    return settings


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run a command's work, and print its errors in one line."""
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            try:
                return runner.run(work)
            except StoppedServing as error:
                # The server is drained. A normal exit would crash in gRPC's shutdown.
                click.ClickException(str(error)).show()
                os._exit(1)
    except EXPECTED as error:
        raise click.ClickException(str(error)) from None
