"""A visitor of the sessions page, without a real browser."""

import re
from collections.abc import Mapping
from typing import Any

from session_authority.web.exchange import PageRequest, PageResponse
from session_authority.web.sessions_page import PageOptions, SessionsPage
from tests.support.authority import Authority

ORIGIN = "https://app.example"
ROOT = "/account/sessions"
FORM = "application/x-www-form-urlencoded"
NONE: Mapping[str, str] = {}


class Visitor:
    """Sends the requests that a browser would send."""

    def __init__(self, authority: Authority, token: str | None, **options: Any) -> None:
        self.authority = authority
        self.client = authority.client
        self.token = token
        self.page = SessionsPage(PageOptions(**options), now=authority.clock.now)

    async def ask(self, method: str, below: str = "", **fields: Any) -> PageResponse:
        request = PageRequest(
            method=method, root=ROOT, below=below, origin=ORIGIN, token=self.token, **fields
        )
        return await self.client.run_operation(self.page.handle(request))

    async def look(self, **fields: Any) -> str:
        response = await self.ask("GET", **fields)
        assert response.status == 200
        return response.body.decode()

    async def proof(self) -> str:
        [first, *_] = re.findall(r'name="proof" value="([^"]+)"', await self.look())
        return str(first)

    async def send(
        self, below: str, headers: Mapping[str, str] = NONE, /, **form: str
    ) -> PageResponse:
        form = {"proof": await self.proof()} | form
        return await self.ask("POST", below, form=form, headers={"content-type": FORM, **headers})


def said(response: PageResponse) -> str:
    """Return the visible text."""
    bare = re.sub(
        r"<(script|style|title|svg|dialog).*?</\1>|<[^>]*>",
        "",
        response.body.decode(),
        flags=re.DOTALL,
    )
    return re.sub(r"\s+", " ", bare).replace("&#39;", "'").strip()


def header(response: PageResponse, name: str) -> str | None:
    values = [value for key, value in response.headers if key.lower() == name.lower()]
    assert len(values) <= 1
    return values[0] if values else None
