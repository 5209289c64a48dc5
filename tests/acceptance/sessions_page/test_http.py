"""Statuses, headers and bodies of the sessions page, also in an outage."""

import json
import re
from collections.abc import AsyncIterator
from typing import Any

import pytest

from session_authority import ApiKeyRejected, AsyncSessionClient, NewSession
from session_authority.web.exchange import PageRequest
from session_authority.web.sessions_page import FORM_LIMIT_BYTES
from tests.acceptance.sessions_page.visitor import FORM, ORIGIN, ROOT, Visitor, header, said
from tests.support.authority import Authority

REFUSED = [
    ("GET", "/nonsense", 404, None),
    ("POST", "/nonsense", 404, None),
    ("GET", "/static/page.css", 404, None),
    ("GET", "/static/../page.py", 404, None),
    ("POST", "", 405, "GET, HEAD"),
    ("DELETE", "", 405, "GET, HEAD"),
    ("OPTIONS", "/sessions.json", 405, "GET, HEAD"),
    ("GET", "/log-out", 405, "POST"),
    ("HEAD", "/sign-out", 405, "POST"),
]
WRONG_LENGTHS = [
    ("4097", 413),
    ("9" * 19, 413),
    ("9" * 20, 413),
    ("9" * 4300, 413),
    ("9" * 5000, 413),
    ("-1", 400),
    ("+5", 400),
    ("5, 5", 400),
    ("5 5", 400),
    ("0x10", 400),
    ("1e3", 400),
    ("1_0", 400),
    ("\u00b2", 400),
    ("\u0665", 400),
    ("nonsense", 400),
    ("61", 400),  # one byte more than the body
]


class TestOutage:
    @pytest.fixture
    async def nowhere(self) -> AsyncIterator[AsyncSessionClient]:
        async with AsyncSessionClient("127.0.0.1:1", deadline_seconds=0.2) as client:
            yield client

    async def test_03_an_outage_is_not_a_sign_out(
        self, visitor: Visitor, nowhere: AsyncSessionClient
    ) -> None:
        visitor.client = nowhere

        response = await visitor.ask("GET")

        assert (response.status, response.signed_out) == (503, False)
        assert header(response, "retry-after") == "5"
        assert "This doesn't log you out." in said(response)

    @pytest.mark.parametrize("below", ["/log-out", "/log-out-elsewhere", "/sign-out", "/name"])
    async def test_22_a_failed_form_can_be_sent_again_unchanged(
        self,
        client: AsyncSessionClient,
        visitor: Visitor,
        other: NewSession,
        nowhere: AsyncSessionClient,
        below: str,
    ) -> None:
        form = {
            "proof": await visitor.proof(),
            "session_id": other.session.session_id,
            "confirmed": "yes",
            "label": "Work laptop",
        }
        visitor.client = nowhere
        failed = await visitor.ask("POST", below, form=form, headers={"content-type": FORM})
        assert (failed.status, failed.signed_out) == (503, False)
        assert f'action="{ROOT}{below}"' in failed.body.decode()

        visitor.client = client
        fields = dict(re.findall(r'name="(\w+)" value="([^"]*)"', failed.body.decode()))
        again = await visitor.ask("POST", below, form=fields, headers={"content-type": FORM})

        assert again.status == 303

    async def test_a_refused_api_key_is_a_server_error_and_not_a_sign_out(
        self, authority: Authority, visitor: Visitor, caplog: pytest.LogCaptureFixture
    ) -> None:
        operation = visitor.page.handle(
            PageRequest(method="GET", root=ROOT, origin=ORIGIN, token=visitor.token)
        )
        next(operation)
        with pytest.raises(StopIteration) as done:
            operation.throw(ApiKeyRejected(reason="API_KEY_EXPIRED"))

        response = done.value.value
        assert (response.status, response.signed_out) == (500, False)
        assert "can't be shown" in caplog.text
        assert "SESSION_AUTHORITY_API_KEY" not in response.body.decode()


class TestHttp:
    async def test_unknown_paths_and_methods_get_precise_statuses(self, visitor: Visitor) -> None:
        for method, below, status, allow in REFUSED:
            response = await visitor.ask(method, below)

            assert (response.status, header(response, "allow")) == (status, allow), below
            assert header(response, "cache-control") == "no-store"

    async def test_a_form_with_a_wrong_content_length_changes_nothing(
        self, visitor: Visitor
    ) -> None:
        form = {"proof": await visitor.proof()}
        for stated, status in WRONG_LENGTHS:
            headers = {"content-type": FORM, "content-length": stated}

            response = await visitor.ask(
                "POST", "/sign-out", form=form, headers=headers, body_bytes=60
            )

            assert (response.status, response.signed_out) == (status, False), stated
            assert "Nothing was changed" in said(response)
        assert await visitor.client.validate(visitor.token)

    @pytest.mark.parametrize("stated", [None, "", "60", " 60 ", "0", "0000000060"])
    async def test_a_complete_form_is_accepted(self, visitor: Visitor, stated: str | None) -> None:
        form = {"proof": await visitor.proof()}
        headers = {"content-type": FORM} | ({} if stated is None else {"content-length": stated})

        response = await visitor.ask("POST", "/sign-out", form=form, headers=headers, body_bytes=60)

        assert (response.status, response.signed_out) == (303, True)

    async def test_forms_that_are_too_large_or_not_url_encoded_are_refused(
        self, visitor: Visitor
    ) -> None:
        long = str(FORM_LIMIT_BYTES + 1)
        too_long = await visitor.send("/sign-out", {"content-length": long})
        really_too_long = await visitor.send("/sign-out", filler="x" * FORM_LIMIT_BYTES)
        no_form = await visitor.send("/sign-out", {"content-type": "application/json"})

        assert [each.status for each in (too_long, really_too_long, no_form)] == [413, 413, 415]

    async def test_every_answer_has_security_headers_and_is_not_cached(
        self, visitor: Visitor, other: NewSession
    ) -> None:
        for response in (
            await visitor.ask("GET"),
            await visitor.ask("GET", "/sessions.json"),
            await visitor.ask("GET", "/nonsense"),
            await visitor.send("/log-out", session_id=other.session.session_id),
            await visitor.send("/log-out", session_id=other.session.session_id, confirmed="yes"),
            await visitor.send("/log-out-elsewhere", {"accept": "application/json"}),
        ):
            assert header(response, "cache-control") == "no-store"
            policy = header(response, "content-security-policy") or ""
            assert "default-src 'none'" in policy
            assert "frame-ancestors 'none'" in policy
            assert "unsafe" not in policy
            assert header(response, "x-frame-options") == "DENY"
            assert header(response, "x-content-type-options") == "nosniff"
            assert header(response, "referrer-policy") == "same-origin"
            assert header(response, "set-cookie") is None

    async def test_assets_are_cached_forever_under_names_that_contain_their_hash(
        self, authority: Authority, visitor: Visitor
    ) -> None:
        page = await visitor.look()
        paths = re.findall(rf'(?:href|src)="{ROOT}(/static/[^"]+)"', page)
        assert [path.rpartition(".")[2] for path in paths] == ["svg", "css", "js"]
        for path in paths:
            response = await Visitor(authority, None).ask("GET", path)
            assert response.status == 200
            assert "immutable" in (header(response, "cache-control") or "")
            assert response.body
            assert (await visitor.ask("POST", path)).status == 405

    async def test_no_url_contains_an_id_or_a_token(
        self, visitor: Visitor, other: NewSession
    ) -> None:
        page = await visitor.look()
        moved = await visitor.send("/log-out", session_id=other.session.session_id, confirmed="yes")

        for address in [
            *re.findall(r'(?:href|src|action)="([^"]*)"', page),
            header(moved, "location"),
        ]:
            assert address is not None
            assert other.session.session_id not in address
            assert "ses_" not in address


class TestDownload:
    async def test_a_user_can_download_their_sessions_as_json(
        self, authority: Authority, client: AsyncSessionClient, visitor: Visitor, other: NewSession
    ) -> None:
        await client.create("bob")
        gone = await client.create("ada", attributes={"plan": "secret of the app"})
        await client.sign_out(gone.token)

        response = await visitor.ask("GET", "/sessions.json")

        assert header(response, "content-type") == "application/json"
        assert header(response, "content-disposition") == 'attachment; filename="sessions.json"'
        document = json.loads(response.body)
        assert document["complete"] is True
        assert document["exported_at"] == "2026-01-15T12:00:00Z"
        by_id = {each["session_id"]: each for each in document["sessions"]}
        assert set(by_id) == {
            visitor_id(document),
            other.session.session_id,
            gone.session.session_id,
        }
        assert by_id[gone.session.session_id]["end_reason"] == "signed_out"
        assert by_id[other.session.session_id]["device"]["display_name"] == "Firefox on Linux"
        assert by_id[other.session.session_id]["create_time"] == "2026-01-15T12:00:00Z"
        assert b"secret of the app" not in response.body
        assert b"ses_" not in response.body


def visitor_id(document: dict[str, Any]) -> str:
    [current] = [each for each in document["sessions"] if each["current"]]
    return str(current["session_id"])
