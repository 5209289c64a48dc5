"""The states that the page shows instead of the list, such as "signed out" or "outage"."""

from dataclasses import dataclass, field
from urllib.parse import urlencode

from session_authority.session import Rejection, RejectionReason
from session_authority.web.sessions_page.language import Language
from session_authority.web.sessions_page.options import PageOptions

RETRY_AFTER_SECONDS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """A link to another page."""

    text: str
    url: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """A form that sends the same request again."""

    path: str
    fields: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """A full-page message instead of the list.

    Attributes:
        status: The HTTP status.
        name: The name that the script compares.
        icon: The name of the icon above the title.
        title: The heading.
        text: The explanation.
        link: A link to the next page.
        retry: A form that repeats the failed request.
        offers_sign_out: Whether to offer signing out of the visitor's session.
        headers: Further HTTP headers.
    """

    status: int
    name: str = "failed"
    icon: str = "alert"
    title: str
    text: str
    link: Link | None = None
    retry: Retry | None = None
    offers_sign_out: bool = False
    headers: tuple[tuple[str, str], ...] = ()


class States:
    """Builds the full-page messages that replace the list, such as "logged out", in one language."""

    def __init__(
        self,
        language: Language,
        options: PageOptions,
        root: str,
        reauthenticate_url: str | None = None,
    ) -> None:
        self._reauthenticate_url = reauthenticate_url
        self._language = language
        self._options = options
        self._root = root

    def signed_out(self, rejection: Rejection | None) -> State:
        """Say that the visitor has no live session."""
        _ = self._language.gettext
        match None if rejection is None else rejection.reason:
            case RejectionReason.REVOKED:
                text = _("This device was logged out remotely. Log in to see your sessions.")
            case RejectionReason.EXPIRED | RejectionReason.IDLE_TIMEOUT:
                text = _("Your session on this device has expired. Log in to see your sessions.")
            case RejectionReason.LIMIT:
                text = _(
                    "This device was logged out because of a newer login. Log in to see your sessions."
                )
            case _:
                text = _("Log in to see your sessions.")
        url = self._options.sign_in_url
        return State(
            status=401,
            name="signed_out",
            icon="lock",
            title=_("You're logged out"),
            text=text,
            link=Link(text=_("Log in"), url=self._with_next(url)) if url else None,
            # RFC 9110 requires this header with 401. Browsers ignore the scheme, which is not registered.
            headers=(("WWW-Authenticate", "Cookie"),),
        )

    def superseded(self) -> State:
        """Say that the page is out of date, because a newer token has replaced the request's token."""
        return self._out_of_date(401)

    def reauthenticate(self) -> State:
        """Say that the authority's policy requires a recent authentication."""
        _ = self._language.gettext
        options = self._options
        url = options.reauthenticate_url or self._reauthenticate_url or options.sign_in_url
        return State(
            status=403,
            name="reauthenticate",
            icon="lock",
            title=_("Confirm it's you"),
            text=_(
                "For your security, confirm your identity again to see and manage your sessions."
            ),
            link=Link(text=_("Continue"), url=self._with_next(url)) if url else None,
            offers_sign_out=True,
        )

    def impersonating(self) -> State:
        """Say that another person acts as the user, and may not manage the sessions."""
        _ = self._language.gettext
        return State(
            status=403,
            icon="person",
            title=_("You're acting for someone else"),
            text=_("Only the account owner can see these sessions and log them out."),
            link=self._home(),
            offers_sign_out=True,
        )

    def outage(self, retry: Retry | None) -> State:
        """Say that the authority is not available."""
        _ = self._language.gettext
        if retry is None:
            title = _("We can't show your sessions right now")
            text = _("This doesn't log you out. Please try again in a few seconds.")
        else:
            title = _("That didn't work")
            text = _("The service isn't responding right now. Please try again in a few seconds.")
        return State(
            status=503,
            icon="cloud",
            title=title,
            text=text,
            link=None if retry else Link(text=_("Try again"), url=self._root),
            retry=retry,
            headers=(("Retry-After", str(RETRY_AFTER_SECONDS)),),
        )

    def fault(self) -> State:
        """Say that the authority failed, or the client is misconfigured."""
        _ = self._language.gettext
        return State(
            status=500,
            icon="cloud",
            title=_("Something went wrong on our side"),
            text=_("This doesn't log you out. Please try again later."),
            link=Link(text=_("Try again"), url=self._root),
        )

    def forged(self) -> State:
        """Return the message that the page is out of date.

        The form's CSRF proof does not belong to the request's session token. Either the token has changed since the
        page was loaded, or another site forged the form.
        """
        return self._out_of_date(403)

    def no_such_session(self) -> State:
        """Say that the user has no such session, or that it was deleted."""
        _ = self._language.gettext
        return State(
            status=404,
            name="gone",
            title=_("Session not found"),
            text=_("It may have been logged out long ago. Nothing was changed."),
            link=self._back(),
        )

    def refused(self, status: int, headers: tuple[tuple[str, str], ...] = ()) -> State:
        """Say that the request is not valid."""
        _ = self._language.gettext
        return State(
            status=status,
            title=_("Page not found"),
            text=_("The link or the request isn't valid. Nothing was changed."),
            link=self._back(),
            headers=headers,
        )

    def _out_of_date(self, status: int) -> State:
        _ = self._language.gettext
        return State(
            status=status,
            name="out_of_date",
            title=_("This page is out of date"),
            text=_("Nothing was changed. Please open your sessions again."),
            link=self._back(),
            headers=(("WWW-Authenticate", "Cookie"),) if status == 401 else (),
        )

    def _back(self) -> Link:
        return Link(text=self._language.gettext("Your sessions"), url=self._root)

    def _home(self) -> Link | None:
        url = self._options.home_url
        return Link(text=self._language.gettext("Back"), url=url) if url else None

    def _with_next(self, url: str) -> str:
        """Add the page's own path as the query field `next`. Never use a value from the request."""
        address, mark, fragment = url.partition("#")
        joint = "&" if "?" in address else "?"
        return address + joint + urlencode({"next": self._root}) + mark + fragment
