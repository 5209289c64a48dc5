"""The URLs of the sessions page: `path("account/sessions", include("session_authority.web.django.urls"))`.

Below the page, at `reauthenticate`, users confirm their password.
"""

from django.urls import path, re_path

from session_authority.web.django.reauthentication import BELOW, ReauthenticateView
from session_authority.web.django.views import sessions_page

app_name = "session_authority"
urlpatterns = [
    path("", sessions_page, name="sessions"),
    # The site may include the URLs with or without a slash at the end. "^/" would raise a warning of Django's check.
    re_path(rf"^(?:/)?{BELOW}$", ReauthenticateView.as_view()),
    re_path(r"^(?P<below>.+)$", sessions_page),
]
