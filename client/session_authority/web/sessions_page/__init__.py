"""The page "Your sessions": one for all frameworks, which move a request in and a response out."""

from session_authority.web.sessions_page.options import PageOptions
from session_authority.web.sessions_page.page import FORM_LIMIT_BYTES, SessionsPage

__all__ = ["FORM_LIMIT_BYTES", "PageOptions", "SessionsPage"]
