"""The page on which a user confirms the password, and the redirects to it and back."""

from typing import Any

from django import forms
from django.conf import settings
from django.contrib.auth import authenticate
from django.contrib.auth.decorators import login_not_required
from django.contrib.auth.views import redirect_to_login
from django.core.exceptions import ValidationError
from django.http import HttpRequest, HttpResponse, HttpResponseBase, HttpResponseRedirect
from django.shortcuts import resolve_url
from django.urls import NoReverseMatch, reverse
from django.utils.decorators import method_decorator
from django.utils.translation import gettext_lazy as _
from django.views.decorators.cache import never_cache
from django.views.decorators.csrf import csrf_protect
from django.views.decorators.debug import sensitive_post_parameters
from django.views.generic import FormView

from session_authority.web.django.options import options
from session_authority.web.django.requests import auth_session_of
from session_authority.web.next_page import confirm_address, is_same_page, next_page

BELOW = "reauthenticate"
"""The path of the view below the sessions page."""


class ConfirmPasswordForm(forms.Form):
    """Asks for the password of the user who is signed in, and has Django's backends check it."""

    password = forms.CharField(
        label=_("Password"),
        strip=False,
        widget=forms.PasswordInput(
            attrs={"autocomplete": "current-password", "autofocus": True, "required": True}
        ),
    )

    def __init__(self, request: HttpRequest, *args: Any, **kwargs: Any) -> None:
        self._request = request
        super().__init__(*args, **kwargs)

    def clean_password(self) -> str:
        """Reject a password that is not the user's."""
        password: str = self.cleaned_data["password"]
        user = self._request.user
        found = authenticate(self._request, username=user.get_username(), password=password)
        if found is None or found.pk != user.pk:
            raise ValidationError(_("That password is incorrect."), code="invalid")
        return password


@method_decorator(
    login_not_required, name="dispatch"
)  # the view itself redirects visitors to sign in
@method_decorator((csrf_protect, never_cache, sensitive_post_parameters("password")), "dispatch")
class ReauthenticateView(FormView):  # type: ignore[type-arg] # generic in Django's stubs only
    """Asks for the user's password, records the proof of identity, and redirects to `next`.

    The view always shows its form, so that it cannot redirect a browser in a loop. Subclass it for another proof.

    Attributes:
        authentication_methods: How users prove who they are, in the names of RFC 8176.
    """

    authentication_methods: tuple[str, ...] = ("pwd",)
    form_class = ConfirmPasswordForm
    template_name = "session_authority/reauthenticate.html"

    def dispatch(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        """Redirect a visitor to the login page, and reject an actor.

        If the user is not logged in, redirect to the login page, and from there to `next`. A login also proves the
        identity, so this page is not needed then. If the session has an actor, answer 403: an actor cannot prove the
        user's identity.
        """
        if not request.user.is_authenticated:
            return redirect_to_login(self.get_success_url())
        if auth_session_of(request).require().actor_id is not None:
            detail = "Only the account owner can confirm their identity."
            return HttpResponse(detail, status=403, content_type="text/plain")
        return super().dispatch(request, *args, **kwargs)

    def get_form_kwargs(self) -> dict[str, Any]:
        """Pass the request to the form."""
        return {**super().get_form_kwargs(), "request": self.request}

    def form_valid(self, form: ConfirmPasswordForm) -> HttpResponse:
        """Record the proof of identity."""
        auth_session_of(self.request).reauthenticate(
            authentication_methods=self.authentication_methods
        )
        return HttpResponseRedirect(self.get_success_url())

    def get_success_url(self) -> str:
        """Return `next` if it is a path of this site and not this page, and the home page otherwise."""
        home = options().page_options.home_url or resolve_url(settings.LOGIN_REDIRECT_URL)
        return next_page(self.request.GET.get("next"), default=home, confirm_url=self.request.path)


def confirm_url() -> str | None:
    """Return where users confirm their identity: the setting's `reauthenticate_url`, or the page of `urls`."""
    given = options().page_options.reauthenticate_url
    if given is not None:
        return given
    try:
        return f"{reverse('session_authority:sessions').rstrip('/')}/{BELOW}"
    except NoReverseMatch:
        return None


def wants_html(request: HttpRequest) -> bool:
    """Say whether to answer with a page. A browser that opens a page names HTML in `Accept`. Scripts don't."""
    return "text/html" in request.headers.get("accept", "text/html").lower()


def way_to_confirm(request: HttpRequest) -> str | None:
    """Return the address of the confirming page, with `next`; None for a program, and on that page itself."""
    url = confirm_url()
    if url is None or not wants_html(request):
        return None
    if is_same_page(request.path, url):
        return None
    return confirm_address(
        url,
        method=request.method or "GET",
        path=request.get_full_path(),
        referer=request.headers.get("referer", ""),
        origin=auth_session_of(request).visit.origin,
    )
