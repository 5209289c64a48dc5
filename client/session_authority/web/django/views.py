"""The sessions page as a Django view."""

from contextlib import suppress
from typing import Any

from django.http import Http404, HttpRequest, HttpResponse, UnreadablePostError
from django.views.decorators.csrf import csrf_exempt

from session_authority.errors import SessionAuthorityError
from session_authority.web.django.auth_session import AuthSession
from session_authority.web.django.options import options
from session_authority.web.django.reauthentication import confirm_url
from session_authority.web.django.requests import auth_session_of
from session_authority.web.exchange import PageRequest, is_form


@csrf_exempt  # the page's forms have their own CSRF token, bound to the session
def sessions_page(request: HttpRequest, below: str = "") -> HttpResponse:
    """Pass a request to the page, and return its response."""
    auth_session = auth_session_of(request)
    request.get_host()  # raises for a host that is not in ALLOWED_HOSTS
    visit, found = auth_session.visit, options()
    if len(visit.tokens) > 1:
        with suppress(SessionAuthorityError):  # the page gets the same error and shows it
            _ = auth_session.session  # finds the live token among several
    response = found.client.run_operation(found.page.handle(_request(request, below, auth_session)))
    if response.signed_out:
        auth_session.signed_out_on_page()
    answer = HttpResponse(response.body, status=response.status)
    for name, value in response.headers:
        answer.headers[name] = value
    return answer


def _request(request: HttpRequest, below: str, auth_session: AuthSession) -> PageRequest:
    root = request.path.removesuffix(below)
    # The site may include the URLs with or without a slash at the end. "account/sessionsx" is another page.
    if below and not below.startswith("/") and not root.endswith("/"):
        raise Http404
    below = below.removeprefix("/")
    form: dict[str, Any] = {}
    body_bytes = None
    if is_form(request.headers.get("Content-Type", "")):
        with suppress(UnreadablePostError):  # the browser disconnected: the body counts as empty
            body_bytes = 0
            body_bytes = len(request.body)
            form = request.POST.dict()
    visit = auth_session.visit
    return PageRequest(
        method=request.method or "GET",
        root=root.rstrip("/"),
        below="/" + below if below else "",
        origin=visit.origin,
        headers={name.lower(): value for name, value in request.headers.items()},
        query=request.GET.dict(),
        form=form,
        body_bytes=body_bytes,
        token=visit.token,
        reauthenticate_url=confirm_url(),
    )
