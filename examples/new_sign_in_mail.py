"""A receiver of events that mails users when somebody signs in from a new device.

Each setting comes from the environment: EVENT_SECRETS (`whsec_...`, several while the secret is rotated), SMTP_ADDRESS
and SESSIONS_PAGE.
"""

import asyncio
import os
import smtplib
from email.message import EmailMessage

from fastapi import FastAPI, Request, Response

from session_authority import EventRejected, events

SMTP_HOST, _, SMTP_PORT = os.environ.get("SMTP_ADDRESS", "127.0.0.1:8025").partition(":")
SESSIONS_PAGE = os.environ.get("SESSIONS_PAGE", "http://localhost:8000/account/sessions")
# An app has these in its database. The ids of handled events belong there too, with the time, and for some days.
MAIL_ADDRESSES = {"ada": "ada@example.com"}
handled: set[str] = set()

app = FastAPI()


@app.post("/events")
async def receive(request: Request) -> Response:
    secrets = os.environ["EVENT_SECRETS"].split()
    try:
        event = events.verify(request.headers, await request.body(), secrets)
    except EventRejected:
        return Response(status_code=400)
    # The same event may arrive twice. After an error, it arrives again.
    if event.event_id not in handled:
        if isinstance(event, events.NewDevice):
            await asyncio.to_thread(mail, event)
        handled.add(event.event_id)
    return Response(status_code=204)


def mail(event: events.NewDevice) -> None:
    address = MAIL_ADDRESSES.get(event.user_id)
    if address is None:
        return
    place = f" in {event.location.city}, {event.location.country}" if event.location else ""
    message = EmailMessage()
    message["From"] = "security@example.com"
    message["To"] = address
    message["Subject"] = "New sign-in to your account"
    message.set_content(
        f"Somebody signed in to your account with {event.device.display_name or 'a new device'}"
        f"{place} on {event.create_time:%d %B %Y at %H:%M} UTC.\n\n"
        f"If it was not you, sign the device out here, and change your password:\n{SESSIONS_PAGE}\n"
    )
    with smtplib.SMTP(SMTP_HOST, int(SMTP_PORT), timeout=10) as smtp:
        smtp.send_message(message)
