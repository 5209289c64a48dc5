import asyncio
import gc
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from session_authority import (
    AsyncSessionClient,
    EndReason,
    Location,
    NearCacheStatistics,
    ReauthenticationRequired,
    Rejection,
    RejectionReason,
    Session,
    SessionClient,
    SessionLimitReached,
    Unavailable,
    testing,
)
from tests.support.waiting import wait_until

NOON = datetime(2030, 1, 1, 12, tzinfo=UTC)
SECOND = timedelta(seconds=1)
HOUR = timedelta(hours=1)


@pytest.fixture
def authority() -> Iterator[testing.Authority]:
    with testing.authority(now=NOON) as running:
        yield running


def test_an_app_with_threads_can_call_the_authority(authority: testing.Authority) -> None:
    with authority.client() as client:
        new = client.create("ada", user_agent="curl/8.5.0")
        assert client.validate(new.token)
        client.sign_out(new.token)
        assert not client.validate(new.token)


async def test_an_asyncio_app_can_call_the_authority_from_its_own_event_loop(
    authority: testing.Authority,
) -> None:
    async with authority.async_client() as client:
        new = authority.sign_in("ada")
        answers = await asyncio.gather(*(client.validate(new.token) for _ in range(50)))
        assert all(answers)
        authority.advance(timedelta(days=91))
        assert not await client.validate(new.token)


def test_a_user_is_signed_in_as_an_app_would(authority: testing.Authority) -> None:
    new = authority.sign_in(
        "ada",
        ip_address="192.0.2.1",
        user_agent="curl/8.5.0",
        authentication_methods=["pwd"],
        lifetime=HOUR,
        idle_timeout=timedelta(minutes=5),
        attributes={"tenant": "t-1"},
        actor_id="eve",
    )
    with authority.client() as client:
        session = client.require(new.token)
    assert (session.user_id, session.actor_id, session.ip_address) == ("ada", "eve", "192.0.2.1")
    assert (session.authentication_methods, session.attributes) == (("pwd",), {"tenant": "t-1"})
    assert (session.create_time, session.expire_time) == (NOON, NOON + HOUR)
    assert session.idle_expire_time == NOON + timedelta(minutes=5)


@pytest.mark.parametrize("kind", [SessionClient, AsyncSessionClient])
async def test_a_client_from_the_environment_ignores_other_client_settings(
    authority: testing.Authority,
    monkeypatch: pytest.MonkeyPatch,
    kind: type[SessionClient | AsyncSessionClient],
) -> None:
    monkeypatch.setenv("SESSION_AUTHORITY_ADDRESS", "authority.example:443")
    monkeypatch.setenv("SESSION_AUTHORITY_TLS_ROOT_CERTIFICATES", "/nowhere")
    for name, value in authority.environment.items():
        monkeypatch.setenv(name, value)
    client = kind.from_env()
    if isinstance(client, SessionClient):
        with client:
            assert client.create("ada").session.create_time == NOON
    else:
        async with client:
            assert (await client.create("ada")).session.create_time == NOON


def test_a_session_lives_to_its_last_second_on_a_stopped_clock(
    authority: testing.Authority,
) -> None:
    new = authority.sign_in("ada", lifetime=HOUR)
    with authority.client() as client:
        authority.advance(HOUR - SECOND)
        assert client.validate(new.token)
        assert authority.now == NOON + HOUR - SECOND
        authority.advance(SECOND)
        assert client.validate(new.token) == Rejection(RejectionReason.EXPIRED)


def test_a_clock_runs_unless_the_test_stops_it() -> None:
    before = datetime.now(UTC)
    with testing.authority() as authority, authority.client() as client:
        first, second = authority.now, authority.now
        assert before <= first < second <= datetime.now(UTC)
        # So an app's own clock is never ahead of the authority's.
        client.create("ada", authenticate_time=datetime.now(UTC))
        authority.advance(HOUR)
        assert HOUR < authority.now - before < HOUR + timedelta(minutes=5)


def test_use_just_before_the_clock_is_advanced_counts() -> None:
    with testing.authority(idle_timeout=HOUR, now=NOON) as authority, authority.client() as client:
        new = authority.sign_in("ada")
        for _ in range(5):
            authority.advance(timedelta(minutes=40))
            assert client.validate(new.token)
        authority.advance(HOUR)
        assert client.validate(new.token) == Rejection(RejectionReason.IDLE_TIMEOUT)


def test_the_clock_never_goes_back(authority: testing.Authority) -> None:
    with pytest.raises(ValueError, match="backwards"):
        authority.advance(-SECOND)
    assert authority.now == NOON


def test_the_authority_has_the_policy_of_the_test() -> None:
    with (
        testing.authority(
            session_limit=1, lifetime=HOUR, max_authentication_age=timedelta(minutes=10), now=NOON
        ) as authority,
        authority.client() as client,
    ):
        first = authority.sign_in("ada")
        second = authority.sign_in("ada")
        assert first.session.expire_time == NOON + HOUR
        assert not client.validate(first.token)
        ended = next(each for each in client.list(second.token, show_ended=True) if each.end_time)
        assert ended.end_reason is EndReason.LIMIT
        authority.advance(timedelta(minutes=11))
        with pytest.raises(ReauthenticationRequired):
            client.list(second.token)


def test_the_authority_refuses_a_sign_in_at_the_limit_if_configured() -> None:
    with testing.authority(session_limit=1, refuse_at_limit=True) as authority:
        authority.sign_in("ada")
        with pytest.raises(SessionLimitReached):
            authority.sign_in("ada")


def test_a_user_has_any_number_of_sessions_without_a_limit() -> None:
    with testing.authority(session_limit=None) as authority, authority.client() as client:
        for _ in range(101):
            newest = authority.sign_in("ada")
        assert len(client.list(newest.token)) == 101


@pytest.mark.parametrize(
    ("policy", "complaint"),
    [
        ({"idle_timeout": timedelta(seconds=59)}, "idle_timeout must be at least 60"),
        ({"lifetime": timedelta(0)}, "lifetime must be at least 1"),
        ({"session_limit": -1}, "session_limit must be at least 1"),
        ({"max_authentication_age": -SECOND}, "max_authentication_age must be positive"),
        ({"now": datetime(2030, 1, 1)}, "now must have a time zone"),  # noqa: DTZ001
    ],
)
def test_an_invalid_policy_is_refused(policy: dict[str, object], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint), testing.authority(**policy):  # type: ignore[arg-type]
        pass


def test_in_an_outage_calls_fail_and_afterwards_sessions_are_kept(
    authority: testing.Authority,
) -> None:
    new = authority.sign_in("ada")
    with authority.client() as client:
        with authority.outage():
            with authority.outage(), pytest.raises(Unavailable):
                client.validate(new.token)
            with pytest.raises(Unavailable):
                client.sign_out(new.token)
        assert client.validate(new.token)


def test_an_outage_ends_the_streams_of_near_caches(authority: testing.Authority) -> None:
    new = authority.sign_in("ada")
    with SessionClient(authority.address, near_cache=True) as client:
        wait_until(lambda: client.validate(new.token) and _statistics(client).hits)
        with authority.outage():
            # Well before the authority's next check of its streams.
            wait_until(lambda: not _statistics(client).connected, seconds=0.4)
            with pytest.raises(Unavailable):
                client.validate(new.token)
        wait_until(lambda: client.validate(new.token) and _statistics(client).connected)


def _statistics(client: SessionClient) -> NearCacheStatistics:
    found = client.near_cache_statistics
    assert found is not None
    return found


def test_a_stopped_authority_stays_unavailable(authority: testing.Authority) -> None:
    new = authority.sign_in("ada")
    with authority.client() as client:
        assert client.validate(new.token)
        authority.stop()
        authority.stop()
        with pytest.raises(Unavailable):
            client.validate(new.token)
    with pytest.raises(RuntimeError, match="has stopped"):
        authority.advance(SECOND)
    with pytest.raises(RuntimeError, match="has stopped"), authority.outage():
        pass


def test_an_authority_can_stop_while_calls_are_in_flight(authority: testing.Authority) -> None:
    new = authority.sign_in("ada")
    with authority.client() as client, ThreadPoolExecutor(4) as threads:

        def validate_until_it_stops(_: int) -> type[Exception]:
            while True:
                try:
                    assert client.validate(new.token)
                except Unavailable as error:
                    return type(error)

        ends = [threads.submit(validate_until_it_stops, number) for number in range(4)]
        authority.stop()
        assert all(issubclass(each.result(30), Unavailable) for each in ends)


def test_concurrent_authorities_are_independent() -> None:
    together = threading.Barrier(3)

    def sign_in_and_look(user_id: str) -> list[Session]:
        together.wait()
        with testing.authority() as authority, authority.client() as client:
            new = authority.sign_in(user_id)
            together.wait()
            authority.advance(HOUR)
            assert client.validate(new.token)
            found = client.list(new.token)
            together.wait()
            return found

    with ThreadPoolExecutor(3) as threads:
        for sessions in threads.map(sign_in_and_look, ["ada"] * 3):
            assert len(sessions) == 1


def test_the_authority_leaves_neither_threads_nor_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    gc.collect()  # frees gRPC's objects, which keep threads alive
    before = {each.ident for each in threading.enumerate()}
    with testing.authority() as authority:
        authority.sign_in("ada")
        assert list(tmp_path.iterdir())
    del authority
    gc.collect()
    for each in threading.enumerate():
        if each.ident not in before:
            each.join(10)  # gRPC ends its threads without waiting for them
            assert not each.is_alive()
    assert not list(tmp_path.iterdir())


def test_the_authority_ignores_server_settings_in_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SESSION_AUTHORITY_TLS_CERTIFICATE", "/nowhere/tls.pem")
    monkeypatch.setenv("SESSION_AUTHORITY_AUDIT_LOG", "/nowhere/audit.jsonl")
    with testing.authority() as authority:
        authority.sign_in("ada")


def test_a_listed_session_has_the_given_location_of_its_latest_address() -> None:
    hamburg = Location(city="Hamburg", region="Hamburg", country="Germany", country_code="DE")
    with testing.authority(locations={"2001:DB8::0:7": hamburg}) as authority:
        new = authority.sign_in("ada", ip_address="192.0.2.1")
        with authority.client() as client:
            assert [each.location for each in client.list(new.token)] == [None]
            located = authority.sign_in("ada", ip_address="2001:db8::7")
            assert new.session.location is located.session.location is None
            assert [each.location for each in client.list(located.token)] == [hamburg, None]


def test_an_authority_that_cannot_start_raises_with_the_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def serving(*_: object, **__: object) -> None:
        raise OSError("no room for the file")

    monkeypatch.setattr("session_authority.testing._authority.serving", serving)
    with pytest.raises(OSError, match="no room"), testing.authority():
        pass


def test_without_the_server_package_the_error_says_what_to_install() -> None:
    script = (
        "import sys; sys.modules['sqlalchemy'] = None\n"
        "import session_authority\n"
        "import session_authority.testing\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, check=False, text=True
    )
    last_line = ran.stderr.strip().splitlines()[-1]
    assert last_line.startswith("ImportError: session_authority.testing runs the real server")
    assert last_line.endswith("install session-authority with its extra `server`")


def test_the_repr_of_the_authority_has_only_its_address(authority: testing.Authority) -> None:
    assert repr(authority) == f"Authority('{authority.address}')"
