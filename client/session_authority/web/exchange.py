"""What a web framework hands to the sessions page, and what it gets back. Knows no framework."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, quote

FIELDS_LIMIT = 64
FORM_TYPE = "application/x-www-form-urlencoded"


@dataclass(frozen=True, slots=True, kw_only=True)
class PageRequest:
    """A request for the page or something below it.

    Attributes:
        method: The HTTP method, in capitals.
        root: The path at which the page is installed, without a slash at the end: "/account/sessions". Give it
            decoded, as frameworks do; it is kept quoted, as a path of this site.
        below: What of the request's path comes after that: "" for the page itself, "/log-out" for an action.
        origin: The origin that the browser sees, as "https://app.example": what an `Origin` header must be equivalent to.
        headers: The request's headers, by their names in lower case.
        query: The query's fields, of each the last.
        form: The form's fields, of each the last; empty unless the body was a URL-encoded form.
        body_bytes: How many bytes of the body were read; None if the framework does not say it.
        token: The session token that the request's cookie held, if any.
        reauthenticate_url: Where users confirm who they are, unless the page's options say so.
    """

    method: str
    root: str
    below: str = ""
    origin: str
    headers: Mapping[str, str] = field(default_factory=dict)
    query: Mapping[str, str] = field(default_factory=dict)
    form: Mapping[str, str] = field(default_factory=dict, repr=False)
    body_bytes: int | None = None
    token: str | None = field(default=None, repr=False)
    reauthenticate_url: str | None = None

    def __post_init__(self) -> None:
        # A visitor may choose a part of the path. Browsers go to another host after two slashes, and they take
        # an unquoted "\\" or tab for a slash. A header holds no letters beyond Latin-1.
        path = quote(self.root, safe="/:@!$&'()*+,;=", errors="replace")
        object.__setattr__(self, "root", "/" + path.lstrip("/") if path else "")


@dataclass(frozen=True, slots=True, kw_only=True)
class PageResponse:
    """What to answer.

    Attributes:
        status: The HTTP status.
        headers: All headers but those of cookies and of length.
        body: The body, which for HEAD is not sent.
        signed_out: Whether the session of the request's cookie is over, so that the cookie is to be cleared.
    """

    status: int
    headers: Sequence[tuple[str, str]]
    body: bytes = b""
    signed_out: bool = False


def fields(encoded: str) -> dict[str, str]:
    """Give the fields of a URL-encoded text, of each the last; none of one that has more than 64."""
    try:
        pairs = parse_qsl(encoded, keep_blank_values=True, max_num_fields=FIELDS_LIMIT)
    except ValueError:
        return {}
    return dict(pairs)


def is_form(content_type: str) -> bool:
    """Say whether a body of this type is a URL-encoded form."""
    return content_type.partition(";")[0].strip().lower() == FORM_TYPE
