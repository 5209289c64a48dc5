"""The requests and responses of the sessions page, independent of any web framework."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, quote

FIELDS_LIMIT = 64
FORM_TYPE = "application/x-www-form-urlencoded"


@dataclass(frozen=True, slots=True, kw_only=True)
class PageRequest:
    """A request for the page or for a path below it.

    Attributes:
        method: The HTTP method, in capitals.
        root: The path of the page, without a slash at the end: "/account/sessions". Pass it decoded, as
            frameworks do. It is stored quoted.
        below: The rest of the request's path: "" for the page itself, "/log-out" for an action.
        origin: The origin that the browser sees, for example "https://app.example". An `Origin` header must be
            equivalent to it.
        headers: The request's headers by lower-case name.
        query: The query's fields. The last value of a repeated field counts.
        form: The form's fields, likewise. Empty unless the body is a URL-encoded form.
        body_bytes: How many bytes of the body were read; None if the framework does not know.
        token: The session token of the request's cookie, if any.
        reauthenticate_url: Where users confirm their identity, if the page's options don't set it.
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
        # A visitor may control a part of `root`, which the page uses in links and redirects. Keep exactly one slash at
        # the start, because browsers read "//name" as another host. Quote backslashes and tabs, because browsers may
        # read them as slashes. Quote all characters that are not ASCII, because a header carries only Latin-1.
        path = quote(self.root, safe="/:@!$&'()*+,;=", errors="replace")
        object.__setattr__(self, "root", "/" + path.lstrip("/") if path else "")


@dataclass(frozen=True, slots=True, kw_only=True)
class PageResponse:
    """A response of the page.

    Attributes:
        status: The HTTP status.
        headers: All headers except cookies and Content-Length.
        body: The body. The framework must not send it for HEAD.
        signed_out: Whether the session of the request's cookie has ended, so that the cookie must be cleared.
    """

    status: int
    headers: Sequence[tuple[str, str]]
    body: bytes = b""
    signed_out: bool = False


def fields(encoded: str) -> dict[str, str]:
    """Parse a URL-encoded text. The last value of a repeated field counts. Over 64 fields, return none."""
    try:
        pairs = parse_qsl(encoded, keep_blank_values=True, max_num_fields=FIELDS_LIMIT)
    except ValueError:
        return {}
    return dict(pairs)


def is_form(content_type: str) -> bool:
    """Say whether a body of this type is a URL-encoded form."""
    return content_type.partition(";")[0].strip().lower() == FORM_TYPE
