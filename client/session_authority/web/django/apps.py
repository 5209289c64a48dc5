"""The Django application, which connects the signals and registers the checks."""

from django.apps import AppConfig
from django.contrib.auth.signals import user_logged_in, user_logged_out
from django.core.checks import Tags, register


class SessionAuthorityConfig(AppConfig):
    """Session Authority as an installed app. It has no models."""

    name = "session_authority.web.django"
    label = "session_authority"
    verbose_name = "Session Authority"

    def ready(self) -> None:
        """Connect the receivers of login and logout, and register the checks of the settings."""
        from session_authority.web.django import checks, signals

        register(Tags.security)(checks.check_settings)
        user_logged_in.connect(signals.logged_in, dispatch_uid="session_authority")
        user_logged_out.connect(signals.logged_out, dispatch_uid="session_authority")
