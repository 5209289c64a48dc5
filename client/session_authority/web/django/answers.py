"""The responses of a Django site to errors of the authority."""

from contextlib import suppress

from django.contrib.auth.views import redirect_to_login
from django.http import (
    HttpRequest,
    HttpResponse,
    HttpResponseBase,
    HttpResponseRedirect,
    JsonResponse,
)
from django.template import TemplateDoesNotExist, loader

from session_authority.errors import (
    AuthenticationTooOld,
    ReauthenticationRequired,
    SessionLimitReached,
    SessionNotLive,
    Unavailable,
)
from session_authority.web.django.reauthentication import wants_html, way_to_confirm
from session_authority.web.visit import RETRY_AFTER_SECONDS


def answer(request: HttpRequest, error: Exception) -> HttpResponseBase | None:
    """Return the response for an error of the library; None for any other error, which is a fault."""
    response: HttpResponseBase | None = None
    match error:
        case Unavailable():
            response = unavailable(request)
        case SessionNotLive() | AuthenticationTooOld():
            response = redirect_to_login(request.get_full_path())
        case ReauthenticationRequired():
            response = _reauthenticate(request, error)
        case SessionLimitReached():
            detail = "You're logged in on too many devices. Please log out one of them first."
            response = HttpResponse(detail, status=403, content_type="text/plain")
    if response is not None:
        response.headers["Cache-Control"] = "no-store"
    return response


def unavailable(request: HttpRequest) -> HttpResponse:
    """Return the response during an outage. A site may replace the template, which gets neither request nor user."""
    detail = "We can't check your session right now. This doesn't log you out. Please try again in a few seconds."
    response: HttpResponse = JsonResponse({"detail": detail}, status=503)
    if wants_html(request):
        with suppress(TemplateDoesNotExist):  # a site without templates answers with JSON
            content = loader.render_to_string("session_authority/unavailable.html")
            response = HttpResponse(content, status=503)
    response.headers["Cache-Control"] = "no-store"
    response.headers["Retry-After"] = str(RETRY_AFTER_SECONDS)
    return response


def _reauthenticate(request: HttpRequest, error: ReauthenticationRequired) -> HttpResponse:
    address = way_to_confirm(request)
    if address is not None:
        return HttpResponseRedirect(address)
    detail = "Please confirm your identity first."
    if wants_html(request):
        return HttpResponse(detail, status=403, content_type="text/plain")
    return JsonResponse({"detail": detail, **error.metadata}, status=403)
