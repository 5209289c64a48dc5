"""The command `session-authority`, which runs the server's command line if that is installed."""

import sys
from typing import NoReturn


def main() -> NoReturn:
    """Run the command line, or name the extra that it needs."""
    try:
        from session_authority_server.cli import main as run

        run()
    except ModuleNotFoundError as error:
        sys.exit(
            f"session-authority: the module {error.name!r} is not installed; "
            "install session-authority with its extra `server`"
        )


if __name__ == "__main__":
    main()
