import pytest

from session_authority import AsyncSessionClient, NewSession
from tests.acceptance.sessions_page.visitor import Visitor
from tests.browser.devices import CHROME_ON_WINDOWS, FIREFOX_ON_LINUX
from tests.support.authority import Authority


@pytest.fixture
async def mine(client: AsyncSessionClient) -> NewSession:
    return await client.create(
        "ada",
        user_agent=CHROME_ON_WINDOWS,
        ip_address="203.0.113.7",
        authentication_methods=["pwd", "otp"],
    )


@pytest.fixture
async def other(client: AsyncSessionClient, mine: NewSession) -> NewSession:
    return await client.create("ada", user_agent=FIREFOX_ON_LINUX, ip_address="192.0.2.44")


@pytest.fixture
def visitor(authority: Authority, mine: NewSession) -> Visitor:
    return Visitor(authority, mine.token.reveal(), sign_in_url="/sign-in")
