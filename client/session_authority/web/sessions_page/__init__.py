"""The page "Your sessions", independent of any web framework."""

from session_authority.web.sessions_page.options import PageOptions
from session_authority.web.sessions_page.page import FORM_LIMIT_BYTES, SessionsPage

__all__ = ["FORM_LIMIT_BYTES", "PageOptions", "SessionsPage"]
