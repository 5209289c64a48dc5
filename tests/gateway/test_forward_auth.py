"""`/verify` as proxies ask it, and with requests that no proxy should send."""

from collections.abc import AsyncIterator, Iterator
from datetime import timedelta

import httpx
import pytest

from session_authority import AsyncSessionClient
from session_authority.testing import Authority, authority
from session_authority_gateway.application import new_application, new_parts
from session_authority_gateway.settings import load_gateway_settings
from tests.support.waiting import wait_until

COOKIE = "__Host-auth_session"


@pytest.fixture(scope="module")
def running() -> Iterator[Authority]:
    with authority() as it:
        yield it


def asking(client: AsyncSessionClient, peer: str = "127.0.0.1") -> httpx.AsyncClient:
    settings = load_gateway_settings(
        sign_in_url="/sign-in", trusted_proxies="127.0.0.1, 10.0.0.0/8"
    )
    application = new_application(new_parts(settings, client), lambda: True)
    transport = httpx.ASGITransport(application, client=(peer, 1234))
    return httpx.AsyncClient(transport=transport, base_url="http://gateway")


@pytest.fixture
async def proxy(running: Authority) -> AsyncIterator[httpx.AsyncClient]:
    async with AsyncSessionClient(running.address) as client, asking(client) as it:
        yield it


async def test_a_peer_that_is_not_a_trusted_proxy_gets_no_answer(running: Authority) -> None:
    token = running.sign_in("mary").token.reveal()
    async with AsyncSessionClient(running.address) as client:
        for peer in ("192.0.2.1", "::1"):
            async with asking(client, peer) as outsider:
                answer = await outsider.get("/verify", headers={"x-session-token": token})
            assert answer.status_code == 403
            assert "TRUSTED_PROXIES" in answer.json()["message"]
            assert "x-session-user-id" not in answer.headers
        async with asking(client, "10.1.2.3") as insider:
            answer = await insider.get("/verify", headers={"x-session-token": token})
        assert answer.status_code == 200


@pytest.mark.parametrize(
    "query", ["sesion=optional", "session=a&session=b", "session", "=", "a&b", "%ff=%ff"]
)
async def test_an_invalid_option_never_allows(
    running: Authority, proxy: httpx.AsyncClient, query: str
) -> None:
    token = running.sign_in("mary").token.reveal()
    answer = await proxy.get(f"/verify?{query}", headers={"x-session-token": token})
    assert (answer.status_code, answer.json()["error"]) == (500, "bad_option")


async def test_nginx_gets_its_redirect_as_401(proxy: httpx.AsyncClient) -> None:
    headers = {"accept": "text/html", "x-forwarded-method": "GET", "x-forwarded-uri": "/a"}
    answer = await proxy.get("/verify/nginx", headers=headers)
    assert (answer.status_code, answer.headers["location"]) == (401, "/sign-in?next=%2Fa")


async def test_an_answer_to_head_has_no_body(proxy: httpx.AsyncClient) -> None:
    answer = await proxy.head("/verify")
    assert (answer.status_code, answer.content) == (401, b"")


@pytest.mark.parametrize(
    ("forwarded", "recorded"),
    [
        ("203.0.113.9", "203.0.113.9"),
        ("198.51.100.1, 203.0.113.10", "203.0.113.10"),  # the left one may be forged
    ],
)
async def test_the_address_of_the_visitor_is_recorded(
    running: Authority, proxy: httpx.AsyncClient, forwarded: str, recorded: str
) -> None:
    token = running.sign_in("mary").token.reveal()
    running.advance(timedelta(minutes=2))  # beyond the resolution of last-active times
    headers = {"x-session-token": token, "x-forwarded-for": forwarded}
    assert (await proxy.get("/verify", headers=headers)).status_code == 200
    with running.client() as client:
        wait_until(lambda: client.require(token, passive=True).last_ip_address == recorded)


async def test_the_plain_cookie_of_development_counts_only_on_the_visitors_own_machine(
    running: Authority, proxy: httpx.AsyncClient
) -> None:
    cookie = f"auth_session={running.sign_in('mary').token.reveal()}"
    for host, proto, status in (
        ("localhost:8080", "http", 200),
        ("127.0.0.1", "http", 200),
        ("shop.example", "http", 401),
        ("shop.example", "https", 401),
        ("localhost", "https", 401),
        ("", "http", 401),
    ):
        headers = {"cookie": cookie, "x-forwarded-host": host, "x-forwarded-proto": proto}
        assert (await proxy.get("/verify", headers=headers)).status_code == status, host


async def test_a_token_in_a_header_outranks_the_cookie_even_if_it_is_invalid(
    running: Authority, proxy: httpx.AsyncClient
) -> None:
    cookie = f"{COOKIE}={running.sign_in('mary').token.reveal()}"
    for name, value in (("x-session-token", "ses_none"), ("authorization", "Bearer ses_none")):
        answer = await proxy.get("/verify", headers={"cookie": cookie, name: value})
        assert answer.status_code == 401
        assert "set-cookie" not in answer.headers
    other = {"cookie": cookie, "authorization": "Bearer of-another-kind"}
    assert (await proxy.get("/verify", headers=other)).status_code == 200


async def test_an_authority_that_does_not_answer_is_an_outage_and_not_a_sign_out() -> None:
    cookie = {"cookie": f"{COOKIE}=ses_any", "accept": "text/html"}
    async with (
        AsyncSessionClient("127.0.0.1:1", deadline_seconds=0.2) as client,
        asking(client) as proxy,
    ):
        answer = await proxy.get("/verify", headers=cookie)
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
    assert "set-cookie" not in answer.headers


async def test_the_health_says_whether_the_gateway_drains(running: Authority) -> None:
    async with AsyncSessionClient(running.address) as client:
        parts = new_parts(load_gateway_settings(), client)
        for serving, status in ((True, 200), (False, 503)):
            application = new_application(parts, lambda serving=serving: serving)  # type: ignore[misc]
            transport = httpx.ASGITransport(application)
            async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as http:
                assert (await http.get("/healthz")).status_code == status
