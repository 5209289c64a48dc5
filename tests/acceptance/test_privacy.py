"""How much of a user's address is stored, shown and logged."""

from datetime import timedelta
from typing import Any

import grpc
import pytest

from session_authority import AsyncSessionClient, Session
from session_authority.v1 import session_service_pb2 as pb
from session_authority_server.domain.location import Location
from session_authority_server.domain.policy import Policy
from session_authority_server.domain.privacy import EraseAddresses, KeepAddresses, KeepUserAgents
from tests.support.authority import Authority

FIREFOX = "Mozilla/5.0 (X11; Linux x86_64; rv:143.0) Gecko/20100101 Firefox/143.0"
SIGNED_IN, SEEN = "203.0.113.77", "2001:db8:1:2:3:4:5:6"


async def _sign_in_and_be_seen(authority: Authority, client: AsyncSessionClient) -> str:
    new = await client.create("ada", ip_address=SIGNED_IN, user_agent=FIREFOX)
    authority.pass_time(minutes=2)
    await client.validate(new.token, ip_address=SEEN)
    await authority.activity.flush()
    return new.token.reveal()


def _bytes(authority: Authority) -> str:
    """Return the content of every file that was written."""
    authority.audit.close()
    return "".join(
        path.read_bytes().decode("latin-1")
        for path in authority.path.parent.iterdir()
        if path.is_file()
    )


class TestTruncated:
    @pytest.fixture
    def policy(self) -> Policy:
        return Policy(keep_ip_addresses=KeepAddresses.TRUNCATED)

    async def test_only_the_network_is_stored_shown_and_logged(
        self, authority: Authority, client: AsyncSessionClient
    ) -> None:
        token = await _sign_in_and_be_seen(authority, client)
        shown = await client.validate(token)
        assert isinstance(shown, Session)
        assert (shown.ip_address, shown.last_ip_address) == ("203.0.113.0", "2001:db8:1::")
        [listed] = await client.list(token)
        assert (listed.ip_address, listed.last_ip_address) == ("203.0.113.0", "2001:db8:1::")
        content = _bytes(authority)
        assert '"ips":["203.0.113.0"]' in content
        assert SIGNED_IN not in content
        assert SEEN not in content

    async def test_a_location_is_that_of_the_network_and_is_stored_and_logged_nowhere(
        self, authority: Authority, client: AsyncSessionClient
    ) -> None:
        authority.places |= {
            "203.0.113.0": Location(city="Hamburg"),
            SIGNED_IN: Location(city="Berlin"),
        }
        new = await client.create("ada", ip_address=SIGNED_IN)
        [listed] = await client.list(new.token)
        assert listed.location is not None
        assert listed.location.city == "Hamburg"
        assert "Hamburg" not in _bytes(authority)

    async def test_the_address_of_an_activity_written_at_once_is_truncated(
        self, authority: Authority, client: AsyncSessionClient
    ) -> None:
        new = await client.create("ada", idle_timeout=timedelta(minutes=1))
        authority.pass_time(seconds=55)
        assert await client.validate(new.token, ip_address=SIGNED_IN)
        assert [touch.ip_address for touch in authority.store.touches] == ["203.0.113.0"]

    async def test_a_retry_from_the_same_network_is_a_retry(
        self, authority: Authority, client: AsyncSessionClient
    ) -> None:
        answers = [
            await authority.stub.CreateSession(
                pb.CreateSessionRequest(user_id="ada", ip_address=address, retry_secret=b"r" * 32)
            )
            for address in (SIGNED_IN, "203.0.113.78")
        ]
        assert answers[0] == answers[1]

    async def test_an_invalid_address_is_refused_with_all_other_violations(
        self, authority: Authority
    ) -> None:
        wrong = pb.CreateSessionRequest(user_id="", ip_address="fe80::1%eth0")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await authority.stub.CreateSession(wrong)
        assert "ip_address" in str(caught.value.details())
        assert "user_id" in str(caught.value.details())


class TestNone:
    @pytest.fixture
    def policy(self) -> Policy:
        return Policy(keep_ip_addresses=KeepAddresses.NONE, keep_user_agents=KeepUserAgents.NONE)

    async def test_only_the_family_of_the_device_is_stored(
        self, authority: Authority, client: AsyncSessionClient
    ) -> None:
        token = await _sign_in_and_be_seen(authority, client)
        shown = await client.validate(token)
        assert isinstance(shown, Session)
        assert (shown.ip_address, shown.last_ip_address) == (None, None)
        assert shown.device.display_name == "Firefox on Linux"
        assert shown.device.browser_version == ""
        content = _bytes(authority)
        for trace in (SIGNED_IN, "203.0.113", SEEN, "2001:db8", "Mozilla", "143.0", "ips"):
            assert trace not in content, trace


class TestErasedAtEnd:
    @pytest.fixture
    def policy(self) -> Policy:
        return Policy(erase_addresses=EraseAddresses.AT_END)

    async def test_the_history_shows_only_the_family_of_the_device(
        self, authority: Authority, client: AsyncSessionClient
    ) -> None:
        async def sign_in(**said: Any) -> str:
            new = await client.create("ada", ip_address=SIGNED_IN, user_agent=FIREFOX, **said)
            return new.token.reveal()

        signed_out = await sign_in()
        await sign_in(lifetime=timedelta(minutes=5))
        await sign_in(idle_timeout=timedelta(minutes=5))
        await client.sign_out(signed_out)
        revoked = await client.create("ada", ip_address=SIGNED_IN, user_agent=FIREFOX)
        asking = await sign_in()
        answer = await client.revoke(asking, revoked.session.session_id)
        assert not answer.session.ip_address
        assert answer.session.device.browser_version == ""
        authority.pass_time(minutes=5)
        await authority.expire()()

        listed = await client.list(asking, show_ended=True)
        assert len(listed) == 5
        for each in listed:
            assert each.device.display_name == "Firefox on Linux"
            if each.current:
                assert (each.ip_address, each.device.browser_version) == (SIGNED_IN, "143.0")
            else:
                assert not each.ip_address
                assert not each.last_ip_address
                assert each.device.browser_version == ""
        left = authority.query("SELECT count(*) FROM sessions WHERE user_agent != ''")
        assert left == [(1,)]
