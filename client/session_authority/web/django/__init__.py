"""Sessions for Django: revocable logins. `login()` and `logout()` stay as they are.

INSTALLED_APPS += ["session_authority.web.django"]
MIDDLEWARE += ["session_authority.web.django.middleware.SessionAuthorityMiddleware"]  # directly after authentication
SESSION_AUTHORITY = {"TRUSTED_PROXIES": ["10.0.0.0/8"]}
urlpatterns += [path("account/sessions", include("session_authority.web.django.urls"))]
"""

try:
    import django as _django  # noqa: F401
except ImportError as error:
    raise ImportError(
        f"session_authority.web.django needs Django ({error}); "
        "install session-authority with its extra `django`"
    ) from None
