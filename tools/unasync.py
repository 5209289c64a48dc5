"""Write the synchronous half of the client from its asynchronous half.

    python tools/unasync.py            writes the files
    python tools/unasync.py --check    fails if a file is not what would be written

Each `_aio` file becomes a `_sync` file by the substitutions below. Event loops and threads need different mechanisms
in two places: `_batching_aio.py` and `_concurrency_aio.py`. Their `_sync` files are written by hand.
"""

import difflib
import re
import subprocess
import sys
from pathlib import Path

CLIENT = Path(__file__).parents[1] / "client" / "session_authority"
FILES = {
    "aio.py": "sync.py",
    "_caller_aio.py": "_caller_sync.py",
    "near_cache/driver_aio.py": "near_cache/driver_sync.py",
    "near_cache/keeper_aio.py": "near_cache/keeper_sync.py",
}

SENTENCES = {
    "The client for asyncio.": "The client for threads.",
    "Calls the session authority from asyncio.": "Calls the session authority. Each call blocks its thread.",
    "from an event loop": "from threads",
    """\
    One client serves all event loops, each with its own connections. A process may fork before the client's first
    call, but not after it: the asyncio side of gRPC does not survive a fork. The client connects at its first call.
    Close it""": """\
    One client serves all threads of a process. A forked process gets its own connections. The client connects at its
    first call. Close it""",
    "A function or a coroutine function. It runs on the event loop that called this method.": "A function. It runs in a thread of the client's own.",
    "the running loop's connection": "the connection",
}

TOKENS = {
    r"\basync (def|with)\b": r"\1",
    r"\bawait ": "",
    r"\bAsync(?=[A-Z])": "",
    r"\b__a(enter|exit)__\b": r"__\1__",
    r"_aio\b": "_sync",
    r"\bgrpc\.aio\.": "grpc.",
    r"\basyncio\.sleep\b": "time.sleep",
    r"^import asyncio$": "import time",
    r"\ban `with`": "a `with`",
}

_LEFT_OVER = re.compile(r"\b(async|await|asyncio|aio|loops?)\b|grpc\.aio")


def synchronous(name: str) -> str:
    """Return the synchronous form of a file of the client.

    Raises:
        ValueError: A word of the asynchronous side is left in it.
    """
    text = (CLIENT / name).read_text()
    for sentence, replacement in SENTENCES.items():
        text = text.replace(sentence, replacement)
    for pattern, replacement in TOKENS.items():
        text = re.sub(pattern, replacement, text, flags=re.MULTILINE)
    if left_over := _LEFT_OVER.search(text):
        raise ValueError(f"{name}: no substitution for {left_over[0]!r}")
    text = f"# Generated from {Path(name).name} by `make sync`. Do not edit.\n{text}"
    target = str(CLIENT / FILES[name])
    text = _ruff(text, "check", "--fix-only", "--quiet", "--select=I", f"--stdin-filename={target}")
    return _ruff(text, "format", "--quiet", f"--stdin-filename={target}")


def _ruff(text: str, *arguments: str) -> str:
    command = [sys.executable, "-m", "ruff", *arguments, "-"]
    ran = subprocess.run(command, input=text, stdout=subprocess.PIPE, check=True, text=True)  # noqa: S603 - our own words
    return ran.stdout


def main() -> None:
    """Write the files, or with `--check` compare them."""
    stale = False
    for name, target in FILES.items():
        path, text = CLIENT / target, synchronous(name)
        if sys.argv[1:] != ["--check"]:
            path.write_text(text)
            continue
        present = path.read_text().splitlines(keepends=True)
        difference = [*difflib.unified_diff(present, text.splitlines(keepends=True), target, name)]
        sys.stdout.writelines(difference)
        stale = stale or bool(difference)
    if stale:
        sys.exit("run `make sync`")


if __name__ == "__main__":
    main()
