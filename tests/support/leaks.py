"""The capture of all output of a run, and the search for secrets in it.

`Capture` records the content of logs, errors, metrics, reprs and files by place. It also records every token, key and
retry secret that is created. `Capture.leaks` returns the secrets that appear in a place. The capture reads log lines
before `logs.py` masks them.
"""

import base64
import contextlib
import importlib
import logging
import pkgutil
import re
import traceback
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from enum import Enum
from functools import cache, wraps
from itertools import islice
from pathlib import Path
from typing import Any
from unittest import mock

import grpc
import structlog
from google.protobuf import text_encoding
from prometheus_client import generate_latest

import session_authority
import session_authority_server
from session_authority_server.domain.errors import AuthorityError
from session_authority_server.domain.token import Token
from session_authority_server.rpc import error_table
from session_authority_server.store.database import Database
from session_authority_server.usecases.create_session import SignIn
from session_authority_server.usecases.reauthenticate_session import Reauthentication

_PREFIXES = ("ses_", "sak_")
# Tokens share the characters of their id. Only the characters after it identify a secret.
_SECRET_PART_OF_TOKEN = slice(30, None)
# The shortest form has 16 bytes, so that it contains a window at each _STRIDE.
_WINDOW = 12
_STRIDE = 16 - _WINDOW + 1
_ZEROS = re.compile(rb"\0{40,}")
# The limit of recorded objects of each class. More objects show nothing new.
REPRS_LIMIT = 500


def spellings(secret: bytes) -> Iterator[bytes]:
    """Yield every encoding of 32 secret bytes and of each half."""
    for part in (secret, secret[:16], secret[16:]):
        yield part
        yield part.hex().encode()
        yield part.hex().upper().encode()
        yield repr(part)[2:-1].encode()
        yield text_encoding.CEscape(part, as_utf8=False).encode()
        yield ", ".join(map(str, part)).encode()
        yield part.decode("latin-1").encode()
    for encode in (base64.b64encode, base64.urlsafe_b64encode, base64.b32encode):
        yield encode(secret).rstrip(b"=")
        yield encode(
            secret[:15]
        )  # in whole groups, so that the result does not depend on the bytes that follow


class Secrets:
    """The created secrets, and the search for them."""

    def __init__(self) -> None:
        self._known: set[bytes] = set()
        self._forms: dict[bytes, str] = {}
        self._windows: dict[bytes, list[tuple[bytes, int]]] = defaultdict(list)
        self._indexed = 0

    def __len__(self) -> int:
        return len(self._known)

    def add_token(self, token: Token) -> None:
        """Also search for a session token or API key, whole or in part."""
        if self.add(token.secret, f"the secret of {token.id}"):
            for prefix in _PREFIXES:
                text = token.encode(prefix).encode()
                self._forms[text[len(prefix) :]] = f"the token of {token.id}"
                self._forms[text[_SECRET_PART_OF_TOKEN]] = f"the end of the token of {token.id}"

    def add(self, secret: bytes, name: str = "a retry secret") -> bool:
        """Also search for secret bytes, and return whether they are new. Zeros are not a secret."""
        if secret in self._known or not secret.strip(b"\0") or len(secret) != 32:
            return False
        self._known.add(secret)
        for form in spellings(secret):
            self._forms.setdefault(form, name)
        return True

    def found_in(self, content: bytes) -> list[str]:
        """Return the names of the secrets that some bytes contain."""
        content = _ZEROS.sub(b"\0", content)  # most of a database file
        starts = range(0, len(content) - _WINDOW + 1, _STRIDE)
        index = self._index()
        windows = [at for at in starts if content[at : at + _WINDOW] in index]
        return sorted(
            {
                self._forms[form]
                for at in windows
                for form, offset in index[content[at : at + _WINDOW]]
                if at >= offset and content.startswith(form, at - offset)
            }
        )

    def _index(self) -> dict[bytes, list[tuple[bytes, int]]]:
        """Index the forms by the windows at their beginning, so that one pass over a text finds every secret."""
        for form in islice(self._forms, self._indexed, None):
            for offset in range(_STRIDE):
                self._windows[form[offset : offset + _WINDOW]].append((form, offset))
        self._indexed = len(self._forms)
        return self._windows


class Capture(logging.Handler):
    """Record of all output, by place, while `capturing` lasts."""

    def __init__(self) -> None:
        super().__init__(logging.NOTSET)
        self.secrets = Secrets()
        self._said: dict[str, dict[str, None]] = defaultdict(dict)
        self._bytes: dict[str, bytes] = {}
        self._exceptions: list[BaseException] = []
        self._shown: Counter[type] = Counter()

    @property
    def places(self) -> set[str]:
        """Return the places with any output."""
        return {place for place, said in self._said.items() if said} | set(self._bytes)

    def say(self, place: str, *texts: object) -> None:
        """Record the texts of a place, each text once."""
        self._said[place].update(dict.fromkeys(map(str, texts)))

    def read_files(self, folder: Path, when: str) -> None:
        """Read every byte of every file in a folder."""
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                self._bytes[f"{path.name} {when}"] = path.read_bytes()

    def leaks(self) -> list[str]:
        """Return each place that contains a secret, with the name of the secret."""
        for error in self._exceptions:
            self.say("exceptions", *texts_of(error))
        self.say("metrics", generate_latest().decode())
        everything = dict(self._bytes)
        for place, said in self._said.items():
            everything[place] = "\n".join(said).encode("utf-8", "surrogatepass")
        return [
            f"{place}: {name}"
            for place, content in everything.items()
            for name in self.secrets.found_in(content)
        ]

    def emit(self, record: logging.LogRecord) -> None:
        self.say("logs", record.getMessage(), repr(record.__dict__))
        if record.exc_info and record.exc_info[1] is not None:
            self.say("logs", *texts_of(record.exc_info[1]))

    def structured(self, _logger: object, method: str, event: Any) -> Any:
        """Record a line of structlog before it is masked."""
        self.say("structlog", method, repr(dict(event)))
        error = event.get("exc_info") or event.get("exception")
        if isinstance(error, BaseException):
            self.say("structlog", *texts_of(error))
        elif error is True:
            self.say("structlog", traceback.format_exc())
        raise structlog.DropEvent

    def made(self, it: object) -> None:
        """Record the repr and the secret of a new object."""
        if isinstance(it, Token):
            self.secrets.add_token(it)
        elif isinstance(it, SignIn | Reauthentication):
            self.secrets.add(it.retry_secret)
        if isinstance(it, BaseException):
            self._exceptions.append(it)
            return
        self._shown[type(it)] += 1
        if self._shown[type(it)] <= REPRS_LIMIT:
            self.say("reprs", repr(it), str(it))


def texts_of(error: BaseException) -> Iterator[str]:
    """Yield every text of an exception: its reprs, fields, notes, traceback, causes and contexts."""
    yield from (str(error), repr(error), repr(error.args), repr(vars(error)))
    yield from map(str, getattr(error, "__notes__", ()))
    yield "".join(traceback.format_exception(error))
    for led_to_it in (error.__cause__, error.__context__):
        if led_to_it is not None:
            yield from texts_of(led_to_it)


@contextlib.contextmanager
def capturing() -> Iterator[Capture]:
    """Record all output of this process."""
    capture = Capture()
    with contextlib.ExitStack() as stack:
        stack.enter_context(_all_logs(capture))
        stack.enter_context(_structlog(capture))
        stack.enter_context(_answers(capture))
        stack.enter_context(_databases(capture))
        stack.enter_context(_objects(capture))
        yield capture


@contextlib.contextmanager
def _all_logs(capture: Capture) -> Iterator[None]:
    named = [
        logger
        for logger in logging.root.manager.loggerDict.values()
        if isinstance(logger, logging.Logger)
    ]
    loggers = [logging.root, *named]
    before = [(logger, logger.level, logger.disabled, logger.propagate) for logger in loggers]
    others = [(handler, handler.level) for handler in logging.root.handlers]
    for (
        handler,
        level,
    ) in others:  # pytest's handler, which would format every line of every library
        handler.setLevel(max(level, logging.INFO))
    for logger in loggers:
        _set_level(logger, logging.DEBUG if logger is logging.root else logging.NOTSET)
        logger.disabled, logger.propagate = False, True
    logging.root.addHandler(capture)
    try:
        yield
    finally:
        logging.root.removeHandler(capture)
        for handler, level in others:
            handler.setLevel(level)
        for logger, level, disabled, propagate in before:
            _set_level(logger, level)
            logger.disabled, logger.propagate = disabled, propagate


def _set_level(logger: logging.Logger, level: int) -> None:
    if logger.level != level:  # each change empties the caches of all loggers
        logger.setLevel(level)


@contextlib.contextmanager
def _structlog(capture: Capture) -> Iterator[None]:
    before = structlog.get_config()
    structlog.configure(processors=[capture.structured], cache_logger_on_first_use=False)
    try:
        yield
    finally:
        structlog.configure(**before)


@contextlib.contextmanager
def _answers(capture: Capture) -> Iterator[None]:
    """Record every error that the server sends and a client receives."""
    send, receive = error_table.answer, grpc.aio.AioRpcError.__init__

    def sent(error: AuthorityError) -> error_table.Answer:
        answer = send(error)
        capture.say("answers", answer.message, repr(answer.trailing_metadata), repr(answer))
        for _, value in answer.trailing_metadata:
            capture.say("answers", value.decode("latin-1") if isinstance(value, bytes) else value)
        return answer

    def received(self: grpc.aio.AioRpcError, *given: Any, **named: Any) -> None:
        receive(self, *given, **named)
        capture.say("received errors", *texts_of(self), repr(self.trailing_metadata()))

    with (
        mock.patch.object(error_table, "answer", sent),
        mock.patch.object(grpc.aio.AioRpcError, "__init__", received),
    ):
        yield


@contextlib.contextmanager
def _databases(capture: Capture) -> Iterator[None]:
    """Read a database's files before it is closed, since closing changes them."""
    close = Database.close

    async def read_and_close(self: Database) -> None:
        path = getattr(self.dialect, "url", None)
        database = getattr(path, "database", None)
        if database:
            capture.read_files(Path(database).parent, "before the end")
        await close(self)

    with mock.patch.object(Database, "close", read_and_close):
        yield


@contextlib.contextmanager
def _objects(capture: Capture) -> Iterator[None]:
    """Record every new object of this project."""
    makers: dict[Any, Any] = {kind: vars(kind)["__init__"] for kind in _kinds()}
    for kind, make in makers.items():
        kind.__init__ = _noting(kind, make, capture)
    try:
        yield
    finally:
        for kind, make in makers.items():
            kind.__init__ = make


@cache
def _kinds() -> tuple[type, ...]:
    return tuple(_found_kinds())


def _found_kinds() -> Iterator[type]:
    """Yield every class of this project whose objects may be shown, including exceptions."""
    for package in (session_authority, session_authority_server):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            # The Django integration can only be imported in a Django project.
            if any(part in module.name for part in (".v1", ".migrations", "__main__", ".django")):
                continue
            for kind in vars(importlib.import_module(module.name)).values():
                if (
                    issubclass(
                        type(kind), type
                    )  # `isclass` would initialise a lazy object of Django
                    and kind.__module__ == module.name
                    and "__init__" in vars(kind)
                    and not issubclass(kind, Enum)
                    and not getattr(kind, "_is_protocol", False)
                ):
                    yield kind
    yield AuthorityError


def _noting(kind: type, make: Any, capture: Capture) -> Callable[..., None]:
    @wraps(make)
    def made(self: Any, *given: Any, **named: Any) -> None:
        make(self, *given, **named)
        if type(self) is kind or isinstance(self, BaseException):
            capture.made(self)

    return made
