"""The example new_sign_in_mail.py, which mails users about sign-ins from new devices, with a real mail server."""

import json
import socket
from collections.abc import Iterator
from datetime import UTC, datetime
from email.message import EmailMessage
from email.parser import BytesParser
from email.policy import default
from typing import Any
from uuid import uuid4

import new_sign_in_mail
import pytest
from aiosmtpd.controller import Controller
from httpx import Response
from starlette.testclient import TestClient

from session_authority_server.domain.webhook import shown_key, signed_headers

KEY = bytes(range(32))
SIGN_IN = {
    "user_id": "ada",
    "session_id": "s-1",
    "create_time": "2026-01-15T12:00:00Z",
    "authenticate_time": "2026-01-15T12:00:00Z",
    "expire_time": "2026-04-15T12:00:00Z",
    "authentication_methods": ["pwd"],
    "device": {"display_name": "Chrome on Windows", "type": "desktop"},
    "new_device": True,
    "location": {"city": "Hamburg", "country": "Germany", "country_code": "DE"},
}


class Mailbox:
    """The mails that the server has accepted."""

    def __init__(self) -> None:
        self.mails: list[EmailMessage] = []

    async def handle_DATA(  # noqa: N802 - the library calls it
        self, _server: object, _session: object, envelope: Any
    ) -> str:
        self.mails.append(BytesParser(EmailMessage, policy=default).parsebytes(envelope.content))
        return "250 accepted"


@pytest.fixture
def mailbox(monkeypatch: pytest.MonkeyPatch) -> Iterator[Mailbox]:
    monkeypatch.setenv("EVENT_SECRETS", shown_key(KEY))
    mailbox = Mailbox()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = Controller(mailbox, hostname="127.0.0.1", port=port)
    server.start()
    monkeypatch.setattr(new_sign_in_mail, "SMTP_PORT", str(port))
    yield mailbox
    server.stop()


def deliver(kind: str, event_id: str, key: bytes = KEY, **changes: object) -> Response:
    message = {"type": kind, "timestamp": "2026-01-15T12:00:00Z", "data": {**SIGN_IN, **changes}}
    body = json.dumps(message).encode()
    headers = dict(signed_headers([key], event_id, datetime.now(UTC), body))
    app = TestClient(new_sign_in_mail.app)
    response: Response = app.post("/events", content=body, headers=headers)
    return response


def test_a_user_gets_one_mail_about_a_sign_in_from_a_new_device(mailbox: Mailbox) -> None:
    event_id = str(uuid4())
    for _ in range(2):
        assert deliver("new-device", event_id).status_code == 204

    [mail] = mailbox.mails
    assert mail["To"] == "ada@example.com"
    text = mail.get_content()
    assert "Chrome on Windows in Hamburg, Germany on 15 January 2026 at 12:00 UTC" in text
    assert "http://localhost:8000/account/sessions" in text


def test_other_events_and_users_without_an_address_cause_no_mail(mailbox: Mailbox) -> None:
    assert deliver("session-established", str(uuid4())).status_code == 204
    assert deliver("new-device", str(uuid4()), user_id="bob").status_code == 204
    assert mailbox.mails == []


def test_an_event_that_is_not_signed_by_the_authority_causes_no_mail(mailbox: Mailbox) -> None:
    assert deliver("new-device", str(uuid4()), key=bytes(32)).status_code == 400
    assert mailbox.mails == []


def test_an_event_is_accepted_only_once_its_mail_is_sent(
    mailbox: Mailbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    event_id, port = str(uuid4()), new_sign_in_mail.SMTP_PORT
    monkeypatch.setattr(new_sign_in_mail, "SMTP_PORT", "1")
    with pytest.raises(ConnectionRefusedError):
        deliver("new-device", event_id)
    monkeypatch.setattr(new_sign_in_mail, "SMTP_PORT", port)
    assert deliver("new-device", event_id).status_code == 204
    assert len(mailbox.mails) == 1
