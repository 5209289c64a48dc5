"""Tests of a Django site with a test authority. `client.login` and `client.force_login` work.

    class ProfileTests(SessionAuthorityMixin, TestCase):
        def test_a_session_expires(self):
            self.client.force_login(self.ada)
            self.authority.advance(timedelta(days=90))
            self.assertRedirects(self.client.get("/profile"), "/login/?next=/profile")

With pytest, the fixture `authority` of `session_authority.testing.pytest` does the same.
"""

import unittest
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar

from django.conf import settings
from django.test import override_settings

from session_authority.sync import SessionClient
from session_authority.testing._authority import Authority, authority
from session_authority.web.django.options import SETTING


@contextmanager
def connected(running: Authority) -> Iterator[SessionClient]:
    """Make the site call a test authority until the end of the block. Its other settings stay."""
    given = getattr(settings, SETTING, {})
    with (
        running.client() as client,
        override_settings(**{SETTING: {**given, "CLIENT": client}}),
    ):
        yield client


class SessionAuthorityMixin(unittest.TestCase):
    """Gives each test of a `TestCase` a new authority. List it before Django's class.

    Attributes:
        authority: The authority of the test.
        authority_policy: The arguments of `testing.authority`, such as `{"idle_timeout": timedelta(hours=1)}`.
    """

    authority: Authority
    authority_policy: ClassVar[Mapping[str, Any]] = {}

    def setUp(self) -> None:
        """Start the authority and connect the site."""
        self.authority = self.enterContext(authority(**self.authority_policy))
        self.enterContext(connected(self.authority))
        super().setUp()
