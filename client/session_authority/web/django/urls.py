"""The page's addresses: `path("account/sessions", include("session_authority.web.django.urls"))`."""

from django.urls import path, re_path

from session_authority.web.django.views import sessions_page

app_name = "session_authority"
urlpatterns = [
    path("", sessions_page, name="sessions"),
    re_path(r"^(?P<below>.+)$", sessions_page),
]
