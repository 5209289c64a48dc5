"""The page's addresses: `path("account/sessions", include("session_authority.web.django.urls"))`."""

from django.urls import re_path

from session_authority.web.django.views import sessions_page

app_name = "session_authority"
urlpatterns = [re_path(r"^(?P<below>.*)$", sessions_page, name="sessions")]
