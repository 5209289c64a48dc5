"""Logins that are older than Session Authority's arrival, and get a session at their next request."""

from collections.abc import Callable
from contextlib import suppress
from datetime import datetime

from django.contrib.sessions.backends.base import CreateError, SessionBase
from django.utils.crypto import salted_hmac

from session_authority.errors import AuthenticationTooOld, RetryMismatch, RetryStale
from session_authority.session import Session
from session_authority.sync import SessionClient
from session_authority.web.cookies import MAX_AGE_SECONDS
from session_authority.web.visit import Visit

MARK = "_session_authority_id"
"""The key of Django's session that holds the id of the authority's session."""


def adopt(
    visit: Visit,
    client: SessionClient,
    login: SessionBase,
    user_id: str,
    arrival: datetime,
    over: Callable[[], object],
) -> Session | None:
    """Give a session to a login that has none; None if the login does not count for this request.

    The login's time is that of Session Authority's arrival: whatever ended all of the user's sessions since
    then covers it. Requests that arrive together share a retry secret, so they get the same session.
    """
    authenticate_time = min(arrival, visit.started)  # the arrival may lie ahead
    secret = salted_hmac(
        "session_authority.adopt", login.session_key or "", algorithm="sha256"
    ).digest()
    try:
        session = client.run_operation(visit.adopt(user_id, authenticate_time, secret))
    except (AuthenticationTooOld, RetryStale):
        over()
        return None
    except RetryMismatch:
        # A parallel request of this login came first, apparently from another device.
        return None
    if _first_adopted(login, session.session_id) != session.session_id:
        client.run_operation(visit.sign_out())
        over()
        return None
    login[MARK] = session.session_id
    return session


def _first_adopted(login: SessionBase, session_id: str) -> str:
    """Record which session the login got, and return the one that it got first.

    A request that began before the adoption may save Django's session later, without the mark.
    """
    key = salted_hmac("session_authority.adopted", login.session_key or "", algorithm="sha256")
    record_key = key.hexdigest()[:32]
    store = type(login)
    recorded = store(record_key).get(MARK)
    if isinstance(recorded, str):
        return recorded
    with suppress(CreateError):  # a parallel request, which got the same session, created it
        store(record_key).save(must_create=True)
    record = store(record_key)
    record[MARK] = session_id
    record.set_expiry(MAX_AGE_SECONDS)  # longer than a login that is in use can be adopted
    record.save()
    return session_id
