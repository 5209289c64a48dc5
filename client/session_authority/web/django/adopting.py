"""Adoption: logins that are older than the deployment of Session Authority get a session at their next request."""

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
"""The key in Django's session for the id of the authority's session."""


def adopt(
    visit: Visit,
    client: SessionClient,
    login: SessionBase,
    user_id: str,
    deployed: datetime,
    log_out: Callable[[], object],
) -> Session | None:
    """Create a session for a login that has none. Return None if the login is not valid for this request.

    The login's authentication time is the deployment of Session Authority. So the login is rejected if all of the
    user's sessions were ended since then. Concurrent requests share a retry secret, so they get the same session.
    """
    authenticate_time = min(deployed, visit.started)  # the setting may be in the future
    secret = salted_hmac(
        "session_authority.adopt", login.session_key or "", algorithm="sha256"
    ).digest()
    try:
        session = client.run_operation(visit.adopt(user_id, authenticate_time, secret))
    except (AuthenticationTooOld, RetryStale):
        log_out()
        return None
    except RetryMismatch:
        # Another request adopted this login at the same time, with another user agent.
        return None
    if _first_adopted(login, session.session_id) != session.session_id:
        client.run_operation(visit.sign_out())
        log_out()
        return None
    login[MARK] = session.session_id
    return session


def _first_adopted(login: SessionBase, session_id: str) -> str:
    """Record the session of an adopted login, and return the first session that was recorded for it.

    The record is separate from the login's own Django session. A request that began before the adoption may save the
    login's session later, and so delete the mark from it.
    """
    key = salted_hmac("session_authority.adopted", login.session_key or "", algorithm="sha256")
    record_key = key.hexdigest()[:32]
    store = type(login)
    recorded = store(record_key).get(MARK)
    if isinstance(recorded, str):
        return recorded
    with suppress(
        CreateError
    ):  # a concurrent request, which got the same session, created the record
        store(record_key).save(must_create=True)
    record = store(record_key)
    record[MARK] = session_id
    record.set_expiry(MAX_AGE_SECONDS)  # outlives every unmarked login that can still be adopted
    record.save()
    return session_id
