"""The leak detector finds planted secrets in every place and encoding."""

import base64
import logging
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn

import grpc
import pytest
import structlog
from google.protobuf.text_format import MessageToString
from prometheus_client import REGISTRY, Counter

from session_authority import InvalidArgument, NewSession
from session_authority.v1 import session_service_pb2 as pb
from session_authority_server.domain import token as tokens
from session_authority_server.domain.errors import InvalidRequest, Violation
from session_authority_server.domain.token import Token
from session_authority_server.rpc import error_table
from session_authority_server.store.database import Database
from session_authority_server.usecases.create_session import SignIn
from session_authority_server.usecases.validate_sessions import Validation
from tests.support.leaks import Capture, Secrets, capturing

NOW = datetime(2026, 1, 15, 12, tzinfo=UTC)


@pytest.fixture
def capture() -> Iterator[Capture]:
    with capturing() as captured:
        yield captured


@pytest.fixture
def token(capture: Capture) -> str:
    """Return a token that was created during the capture."""
    return tokens.mint(NOW).encode()


def test_output_without_secrets_has_no_findings(
    capture: Capture, token: str, tmp_path: Path
) -> None:
    parsed = tokens.parse(token)
    assert parsed is not None
    logging.getLogger("anything").debug("signed in: %s", parsed.id)
    structlog.get_logger("anything").info("signed in", session_id=str(parsed.id))
    (tmp_path / "sessions.sqlite").write_bytes(tokens.hash_secret(parsed.secret))
    capture.read_files(tmp_path, "at the end")
    Validation(token)
    SignIn(user_id="ada", retry_secret=b"0123456789abcdef" * 2)
    assert capture.leaks() == []
    assert {"logs", "structlog", "reprs", "sessions.sqlite at the end"} <= capture.places
    assert len(capture.secrets) == 2


def _log_it(text: str) -> None:
    logging.getLogger("sqlalchemy.engine.Engine").debug("[cached] %s", text)


def _log_it_aside(text: str) -> None:
    logging.getLogger("x").debug("said", extra={"request": text})


def _fail(text: str) -> NoReturn:
    raise KeyError(text)


def _log_an_exception(text: str) -> None:
    try:
        _fail(text)
    except KeyError:
        logging.getLogger("x").debug("failed", exc_info=True)


def _log_it_structured(text: str) -> None:
    structlog.get_logger("x").debug("refused", given=text)


def _log_an_exception_structured(text: str) -> None:
    try:
        _fail(text)
    except KeyError:
        structlog.get_logger("x").exception("failed")


def _answer_with_it(text: str) -> None:
    error_table.answer(InvalidRequest([Violation("ip_address", f"is {text}")]))


def _receive_it(text: str) -> None:
    grpc.aio.AioRpcError(grpc.StatusCode.UNKNOWN, grpc.aio.Metadata(), grpc.aio.Metadata(), text)


def _receive_it_in_metadata(text: str) -> None:
    trailers = grpc.aio.Metadata(("x-debug", text))
    grpc.aio.AioRpcError(grpc.StatusCode.UNKNOWN, grpc.aio.Metadata(), trailers, "no")


def _raise_it(text: str) -> None:
    InvalidArgument(text)


def _raise_it_in_metadata(text: str) -> None:
    InvalidArgument("no", metadata={"given": text})


def _note_it(text: str) -> None:
    InvalidArgument("no").add_note(text)


def _raise_it_from(text: str) -> None:
    try:
        try:
            _fail(text)
        except KeyError as error:
            raise InvalidArgument("no") from error
    except InvalidArgument:
        pass


def _raise_it_while(text: str) -> None:
    try:
        try:
            _fail(text)
        except KeyError:
            raise InvalidArgument("no") from None
    except InvalidArgument:
        pass


def _show_it(text: str) -> None:
    Validation(session_token="", user_id=text)


def _hand_it_out(text: str) -> None:
    session: Any = None
    stand_in: Any = text  # as if the client had not wrapped the token
    NewSession(session, stand_in)


PLANTED: list[tuple[Callable[[str], None], str]] = [
    (_log_it, "logs"),
    (_log_it_aside, "logs"),
    (_log_an_exception, "logs"),
    (_log_it_structured, "structlog"),
    (_log_an_exception_structured, "structlog"),
    (_answer_with_it, "answers"),
    (_receive_it, "received errors"),
    (_receive_it_in_metadata, "received errors"),
    (_raise_it, "exceptions"),
    (_raise_it_in_metadata, "exceptions"),
    (_note_it, "exceptions"),
    (_raise_it_from, "exceptions"),
    (_raise_it_while, "exceptions"),
    (_show_it, "reprs"),
    (_hand_it_out, "reprs"),
]


@pytest.mark.parametrize(("plant", "place"), PLANTED)
def test_a_planted_secret_is_found_in_its_place(
    capture: Capture, token: str, plant: Callable[[str], None], place: str
) -> None:
    plant(f"<{token}>")
    leaks = capture.leaks()
    assert any(leak.startswith(f"{place}: the token of ") for leak in leaks)
    assert token[4:] not in "".join(leaks), "the detector leaks"


def test_a_secret_in_a_metric_label_is_found(capture: Capture, token: str) -> None:
    counter = Counter("planted", "Planted.", ["token"])
    try:
        counter.labels(token=token).inc()
        assert any(leak.startswith("metrics: ") for leak in capture.leaks())
    finally:
        REGISTRY.unregister(counter)


def test_printed_secrets_are_found(
    capture: Capture, token: str, capsys: pytest.CaptureFixture[str]
) -> None:
    sys.stderr.write(token)
    capture.say("output", *capsys.readouterr())
    assert any(leak.startswith("output: ") for leak in capture.leaks())


async def test_a_secret_in_a_database_is_found_even_if_it_was_deleted(
    capture: Capture, token: str, tmp_path: Path
) -> None:
    database = Database.sqlite(tmp_path / "sessions.sqlite")
    parsed = tokens.parse(token)
    assert parsed is not None

    async def work(connection: Any) -> None:
        await connection.exec_driver_sql("CREATE TABLE t (x BLOB)")
        await connection.exec_driver_sql("INSERT INTO t VALUES (zeroblob(32))")

    await database.write(work)
    (tmp_path / "audit").write_bytes(b"{}\n" + parsed.secret)
    await database.close()
    (tmp_path / "audit").unlink()
    assert [leak.partition(":")[0] for leak in capture.leaks()] == ["audit before the end"]
    assert any("sqlite-wal before the end" in place for place in capture.places)


@pytest.mark.parametrize(
    "spell",
    [
        lambda secret: secret,
        lambda secret: secret.hex().encode(),
        lambda secret: secret.hex().upper().encode(),
        base64.b64encode,
        base64.urlsafe_b64encode,
        base64.b32encode,
        lambda secret: repr(secret).encode(),
        lambda secret: repr(list(secret)).encode(),
        lambda secret: secret.decode("latin-1").encode(),
        lambda secret: MessageToString(pb.CreateSessionRequest(retry_secret=secret)).encode(),
        lambda secret: secret[:16],
        lambda secret: secret[16:].hex().encode(),
        lambda secret: base64.b64encode(secret[:20]),
    ],
)
def test_a_secret_is_found_in_every_encoding(
    spell: Callable[[bytes], bytes], secrets: Secrets
) -> None:
    content = b"x" * 20_000 + spell(bytes(range(7, 256, 8))) + b"y" * 20_000
    assert secrets.found_in(content) == ["the secret"]
    assert secrets.found_in(b"x" * 40_000) == []


@pytest.fixture(scope="module", params=[0, 1_100], ids=["alone", "among many"])
def secrets(request: pytest.FixtureRequest) -> Secrets:
    secrets = Secrets()
    for _ in range(request.param):
        secrets.add(tokens.mint(NOW).secret, "another")
    assert secrets.add(bytes(range(7, 256, 8)), "the secret")
    return secrets


@pytest.mark.parametrize("prefix", ["ses_", "sak_"])
def test_a_part_of_a_token_or_key_is_found(prefix: str) -> None:
    secrets = Secrets()
    token = tokens.mint(NOW)
    secrets.add_token(token)
    text = token.encode(prefix)
    for part in (text, text[4:], text[30:]):
        assert secrets.found_in(f"<{part}>".encode())
    assert not secrets.found_in(f"{token.id} {text[:20]}".encode())


def test_zeros_are_not_a_secret() -> None:
    secrets = Secrets()
    secrets.add_token(Token(tokens.new_id(NOW), bytes(32)))
    assert len(secrets) == 0
