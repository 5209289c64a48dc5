"""The URLs at which a site receives sign-outs at identity providers.

path("backchannel/", include("session_authority.web.django.backchannel"))
"""

from collections.abc import Callable
from datetime import datetime

from django.http import Http404, HttpRequest, HttpResponse, UnreadablePostError
from django.urls import path
from django.views.decorators.csrf import csrf_exempt

from session_authority.backchannel.driver import run
from session_authority.backchannel.receiver import BODY_LIMIT_BYTES, Posted, Receiver, Steps
from session_authority.backchannel.signal import REASON, EndedIdentity
from session_authority.web.django.options import options


@csrf_exempt  # the token is signed, and the request has no cookie
def logout(request: HttpRequest) -> HttpResponse:
    """Receive a logout token: OpenID Connect Back-Channel Logout."""
    return _answer(request, lambda receiver, posted: receiver.logout(posted))


@csrf_exempt
def event(request: HttpRequest) -> HttpResponse:
    """Receive a security event: OpenID Shared Signals, by push."""
    return _answer(request, lambda receiver, posted: receiver.event(posted))


def _answer(request: HttpRequest, begin: Callable[[Receiver, Posted], Steps]) -> HttpResponse:
    receiver = options().receiver
    if receiver is None:
        raise Http404
    try:
        body = request.read(BODY_LIMIT_BYTES + 1)
    except UnreadablePostError:  # the provider has disconnected
        body = b""
    posted = Posted(
        request.method or "",
        request.headers.get("Content-Type", ""),
        body if len(body) <= BODY_LIMIT_BYTES else None,
    )
    answer = run(begin(receiver, posted), _end)
    response = HttpResponse(answer.body, status=answer.status)
    for name, value in answer.headers:
        response.headers[name] = value
    return response


def _end(identity: EndedIdentity) -> datetime:
    return options().client.revoke_identity(
        identity.issuer, subject=identity.subject, sid=identity.sid, reason=REASON
    )


app_name = "session_authority_backchannel"
urlpatterns = [path("logout", logout, name="logout"), path("events", event, name="events")]
