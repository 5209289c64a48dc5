"""Render responses: HTML for people, JSON for the page's own script."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache, cached_property
from pathlib import Path
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup, escape

from session_authority.session_token import presentable
from session_authority.web.exchange import PageRequest, PageResponse
from session_authority.web.sessions_page.assets import Assets
from session_authority.web.sessions_page.forgery import form_proof
from session_authority.web.sessions_page.language import Language
from session_authority.web.sessions_page.options import PageOptions
from session_authority.web.sessions_page.state import State, States

_TEMPLATES = Path(__file__).with_name("templates")

_ISOLATED = Markup("<bdi>{}</bdi>")  # for texts that may have another direction than the page

_SECURITY = (
    # No inline code, nothing from other sites, and no framing.
    (
        "Content-Security-Policy",
        "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; "
        "img-src 'self'; font-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    ),
    ("X-Frame-Options", "DENY"),
    ("X-Content-Type-Options", "nosniff"),
    # "no-referrer" would make browsers send the forms with `Origin: null`.
    ("Referrer-Policy", "same-origin"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("Cache-Control", "no-store"),
)


@dataclass(frozen=True)
class Visit:
    """A request, with the language, time and options for its response."""

    request: PageRequest
    language: Language
    now: datetime
    options: PageOptions

    @property
    def token(self) -> str:
        """The request's session token; empty if it is missing or malformed."""
        return presentable(self.request.token)

    @property
    def root(self) -> str:
        """The page's own path."""
        return self.request.root or "/"

    @property
    def is_scripts(self) -> bool:
        """Whether the request comes from the page's script, which expects JSON."""
        return "application/json" in self.request.headers.get("accept", "")

    @cached_property
    def states(self) -> States:
        """The states that the page can show instead of the list."""
        return States(self.language, self.options, self.root, self.request.reauthenticate_url)


@cache
def _templates() -> Environment:
    """Return the templates. All pages of a process share them, since compiling one takes longer than a request."""
    return Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _template(name: str) -> Template:
    return _templates().get_template(name)


class Renderer:
    """Renders the responses of one page."""

    def __init__(self, options: PageOptions, assets: Assets) -> None:
        self._options = options
        self._assets = assets

    def page(
        self, visit: Visit, template: str, status: int = 200, **values: object
    ) -> PageResponse:
        """Render a template."""
        root = visit.request.root
        text = _template(template).render(
            _=_escaping(visit.language),
            lang=visit.language.tag,
            dir=visit.language.direction,
            options=self._options,
            now=f"{visit.now:%Y-%m-%dT%H:%M:%SZ}",
            root=visit.root,
            below=lambda path: root + path,
            asset=lambda name: root + self._assets.path_of(name),
            proof=lambda: form_proof(visit.token),
            bdi=lambda text: _ISOLATED.format(text),
            sentences=lambda *texts: escape(visit.language.sentence_gap).join(filter(None, texts)),
            **{"here": visit.root, **values},
        )
        return self._answer(visit, status, "text/html; charset=utf-8", text.encode())

    def state(self, visit: Visit, state: State, *, signed_out: bool = False) -> PageResponse:
        """Render a state."""
        if visit.is_scripts:
            return self._answer(
                visit,
                state.status,
                "application/json",
                _json(state.name, state.text, state.link.url if state.link else visit.root),
                state.headers,
                signed_out=signed_out,
            )
        page = self.page(visit, "state.html", state.status, state=state, title=state.title)
        return PageResponse(
            status=page.status,
            headers=(*page.headers, *state.headers),
            body=page.body,
            signed_out=signed_out,
        )

    def done(
        self, visit: Visit, message: str, location: str, *, signed_out: bool = False
    ) -> PageResponse:
        """Redirect after a completed form, or send the script the message and the location."""
        location = quote(location, safe="/?#[]:@!$&'()*+,;=%")  # options may contain any characters
        if visit.is_scripts:
            name = "signed_out" if signed_out else "done"
            body = _json(name, message, location)
            return self._answer(visit, 200, "application/json", body, signed_out=signed_out)
        return self._answer(
            visit,
            303,
            "text/plain; charset=utf-8",
            b"",
            (("Location", location),),
            signed_out=signed_out,
        )

    def download(self, visit: Visit, body: bytes, file_name: str) -> PageResponse:
        """Return a file to download."""
        disposition = ("Content-Disposition", f'attachment; filename="{file_name}"')
        return self._answer(visit, 200, "application/json", body, (disposition,))

    def _answer(
        self,
        visit: Visit,
        status: int,
        content_type: str,
        body: bytes,
        headers: Sequence[tuple[str, str]] = (),
        *,
        signed_out: bool = False,
    ) -> PageResponse:
        return PageResponse(
            status=status,
            headers=(
                ("Content-Type", content_type),
                ("Content-Language", visit.language.tag),
                *_SECURITY,
                *headers,
            ),
            body=body,
            signed_out=signed_out,
        )


def _json(outcome: str, message: str, location: str) -> bytes:
    return json.dumps({"outcome": outcome, "message": message, "location": location}).encode()


def _escaping(language: Language) -> Callable[..., Markup]:
    def translate(message: str, **values: object) -> Markup:
        return escape(language.pattern(message)) % values

    return translate
