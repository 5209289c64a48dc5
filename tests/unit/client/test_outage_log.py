"""The client logs that it cannot reach its authority, at most once a minute and without secrets."""

import logging

import grpc
import pytest

from session_authority import (
    ApiKeyRejected,
    AsyncSessionClient,
    ClientClosed,
    InternalError,
    InvalidArgument,
    PermissionMissing,
    SessionAuthorityError,
    SessionClient,
    SessionNotLive,
    Unavailable,
)
from session_authority._outage_log import WARNING_INTERVAL_SECONDS, OutageLog
from tests.support.fake_authority import TOKEN, FakeAuthority, Fault, accepted, fault
from tests.support.waiting import until
from tests.unit.client.conftest import Twin

pytestmark = pytest.mark.usefixtures("brief_retries")

KEY = "sak_" + "K" * 70
NOBODY_LISTENS = "127.0.0.1:9"
LOGGER = "session_authority.client"


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == LOGGER]


@pytest.mark.parametrize("near_cache", [False, True])
async def test_a_wrong_address_is_logged_once_with_its_cause(
    client_type: type[SessionClient | AsyncSessionClient],
    near_cache: bool,
    caplog: pytest.LogCaptureFixture,
) -> None:
    twin = Twin(client_type(NOBODY_LISTENS, api_key=KEY, near_cache=near_cache))
    for _ in range(3):
        with pytest.raises(Unavailable):
            await twin.validate(TOKEN)
    await twin.close()

    [message] = warnings(caplog)
    assert message.startswith(f"Calls to the session authority at {NOBODY_LISTENS} fail: ")
    assert "Connection refused" in message
    assert KEY not in message
    assert TOKEN not in message


async def test_a_call_that_succeeds_after_a_retry_is_not_logged(
    twin: Twin, authority: FakeAuthority, caplog: pytest.LogCaptureFixture
) -> None:
    down = fault(grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE")
    authority.answers("ValidateSession", down, accepted())
    assert await twin.validate(TOKEN)
    assert warnings(caplog) == []


async def test_the_logged_cause_contains_no_secret(
    twin: Twin, authority: FakeAuthority, caplog: pytest.LogCaptureFixture
) -> None:
    text = f"a proxy refused {TOKEN} of Bearer {KEY}"
    authority.answers("ValidateSession", Fault(grpc.StatusCode.PERMISSION_DENIED, text))
    with pytest.raises(SessionAuthorityError):
        await twin.validate(TOKEN)

    [message] = warnings(caplog)
    assert "a proxy refused" in message
    assert TOKEN not in message
    assert KEY not in message


async def test_a_near_cache_that_cannot_follow_its_stream_is_logged(
    client_type: type[SessionClient | AsyncSessionClient],
    authority: FakeAuthority,
    caplog: pytest.LogCaptureFixture,
) -> None:
    authority.answers("ValidateSession", accepted())
    authority.watch.refused = grpc.StatusCode.PERMISSION_DENIED
    twin = Twin(client_type(authority.address, near_cache=True))
    assert await twin.validate(TOKEN)
    await until(lambda: warnings(caplog))
    await twin.close()

    [message] = warnings(caplog)
    assert authority.address in message
    assert "PERMISSION_DENIED" in message


async def test_closing_a_client_is_not_logged(
    client_type: type[SessionClient | AsyncSessionClient],
    authority: FakeAuthority,
    caplog: pytest.LogCaptureFixture,
) -> None:
    authority.answers("ValidateSession", accepted())
    twin = Twin(client_type(authority.address, near_cache=True))
    assert await twin.validate(TOKEN)
    await until(lambda: authority.watch.pings)
    await twin.close()
    with pytest.raises(ClientClosed):
        await twin.validate(TOKEN)
    assert warnings(caplog) == []


def test_a_lasting_outage_is_logged_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    now = 0.0
    log = OutageLog("authority:50551", lambda: now)
    for second in range(200):
        now = float(second)
        log.failed(Unavailable("down"))
    assert len(warnings(caplog)) == 1 + 199 // WARNING_INTERVAL_SECONDS


@pytest.mark.parametrize("kind", [Unavailable, ApiKeyRejected, PermissionMissing, InternalError])
def test_errors_that_affect_every_call_are_logged(
    kind: type[SessionAuthorityError], caplog: pytest.LogCaptureFixture
) -> None:
    OutageLog("authority:50551").failed(kind("because"))
    [message] = warnings(caplog)
    assert "authority:50551" in message
    assert "because" in message


@pytest.mark.parametrize(
    "error",
    [
        SessionNotLive("signed out"),
        InvalidArgument("no such address"),
        Unavailable("the server stops", reason="WATCH_INTERRUPTED"),
    ],
)
def test_errors_of_a_single_request_are_not_logged(
    error: SessionAuthorityError, caplog: pytest.LogCaptureFixture
) -> None:
    OutageLog("authority:50551").failed(error)
    assert warnings(caplog) == []


def test_an_api_key_given_as_the_address_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    OutageLog(KEY).failed(Unavailable("no such host"))
    [message] = warnings(caplog)
    assert KEY not in message


def test_the_warning_is_shown_without_any_logging_configuration(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    OutageLog("authority:50551").failed(Unavailable("down"))
    assert "authority:50551" in capsys.readouterr().err
