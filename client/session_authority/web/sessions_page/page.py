"""Answer the requests to the page, without I/O, cookies or a clock of its own."""

import logging
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import NamedTuple
from urllib.parse import urlencode

from session_authority import _core
from session_authority.errors import (
    ImpersonationForbidden,
    InvalidArgument,
    ReauthenticationRequired,
    SessionAuthorityError,
    SessionNotFound,
    SessionNotLive,
    Unavailable,
)
from session_authority.session import (
    Rejection,
    RejectionReason,
    Session,
    SessionState,
    ValidationRequest,
)
from session_authority.web.cookies import may_clear
from session_authority.web.exchange import PageRequest, PageResponse, is_form
from session_authority.web.sessions_page.assets import Assets
from session_authority.web.sessions_page.export import to_json
from session_authority.web.sessions_page.forgery import (
    has_wrong_origin,
    is_genuine,
    may_be_same_origin,
)
from session_authority.web.sessions_page.language import Language, Languages
from session_authority.web.sessions_page.listing import (
    LISTED_LIMIT_SESSIONS,
    PAGE_LIMIT,
    by_device,
    find_session,
    read_all,
    read_page,
)
from session_authority.web.sessions_page.notice import NOTICE_FIELDS, Notice, Outcome, effect
from session_authority.web.sessions_page.options import PageOptions
from session_authority.web.sessions_page.rendering import Renderer, Visit
from session_authority.web.sessions_page.row import Row, device_name, row_of
from session_authority.web.sessions_page.state import Retry, State
from session_authority.web.site import system_time

FORM_LIMIT_BYTES = 4096
"""Limit for a form's body. Longer bodies are answered with 413, so a framework can stop reading there."""

LABEL_LIMIT_CHARACTERS = 64
"""The authority refuses a longer name of a session. The page only explains the refusal."""

_DIGITS_LIMIT = 19
"""Limit for the digits of a `Content-Length`. Python raises for a number of more than 4,300 digits."""

_log = logging.getLogger(__name__)

_Answer = _core.Operation[PageResponse]


class _Route(NamedTuple):
    method: str
    answer: Callable[[Visit], _Answer]


class SessionsPage:
    """The page "Your sessions" with its files, forms and download.

    Args:
        options: The page's appearance and links.
        now: The clock.

    Raises:
        ConfigurationError: If an option is invalid.
    """

    def __init__(self, options: PageOptions, *, now: Callable[[], datetime] = system_time) -> None:
        self._options = options
        self._within_seconds = options.effective_within_seconds or 0
        self._now = now
        self._languages = Languages(options.catalogues, options.language)
        self._assets = Assets()
        self._renderer = Renderer(options, self._assets)
        self._warned_of_origin = False
        self._routes = {
            "": _Route("GET", self._show),
            "/": _Route("GET", self._show),
            "/sessions.json": _Route("GET", self._download),
            "/log-out": _Route("POST", self._log_out),
            "/log-out-elsewhere": _Route("POST", self._log_out_elsewhere),
            "/sign-out": _Route("POST", self._sign_out),
            "/name": _Route("POST", self._name),
        }

    def handle(self, request: PageRequest) -> _Answer:
        """Answer a request, with calls to the authority if needed.

        The caller throws errors of `session_authority.errors` from these calls into the generator. Each error
        becomes an answer.
        """
        asset = self._assets.find(request)
        if asset is not None and request.method in ("GET", "HEAD"):
            return asset
        visit = Visit(
            request=request,
            language=self._languages.choose(request.headers.get("accept-language", "")),
            now=self._now(),
            options=self._options,
        )
        route = _Route("GET", self._show) if asset else self._routes.get(request.below)
        refusal = _refusal(visit, route)
        self._warn_of_wrong_origin(request)
        if route is None or refusal is not None:
            return self._renderer.state(visit, refusal or visit.states.refused(404))
        try:
            try:
                return (yield from route.answer(visit))
            except SessionNotLive as error:
                rejection = error.rejection
            return (yield from self._signed_out(visit, rejection))
        except SessionAuthorityError as error:
            return self._renderer.state(visit, _state_of(error, visit))

    def _warn_of_wrong_origin(self, request: PageRequest) -> None:
        if has_wrong_origin(request) and not self._warned_of_origin:
            self._warned_of_origin = True
            _log.warning(
                "A form of the sessions page was refused, because its origin is %r in the browser and %r in the app. "
                "Make the proxy forward Host and X-Forwarded-Proto, and add the proxy to the trusted proxies, "
                "or configure the site's origin.",
                request.headers["origin"],
                request.origin,
            )

    def _show(self, visit: Visit) -> _Answer:
        query = visit.request.query
        number = _page_number(query)
        listing = yield from read_page(visit.token, number, show_ended=self._options.show_ended)
        if number > 1 and not listing.others:
            last = min(listing.page_count, number - 1)
            return self._renderer.done(visit, "", _address(visit, {**query, "page": str(last)}))
        notice = Notice.of_query(query, visit.token, visit.now)
        say = visit.language, visit.now
        return self._renderer.page(
            visit,
            "sessions.html",
            title=visit.language.gettext("Your sessions"),
            listing=listing,
            lead=_active_count(visit.language, listing.total),
            total=_total(visit.language, listing.total),
            number=visit.language.number,
            here=_address(visit, {"page": str(number)}),
            address=lambda page: _address(visit, {"page": str(page)}),
            current=row_of(listing.current, *say) if listing.current else None,
            others=_groups(listing.others, *say),
            ended=_groups(listing.ended, *say),
            sessions=lambda count: _session_count(visit.language, count),
            notice=notice.text(visit.language, self._within_seconds) if notice else "",
            effect=effect(visit.language, self._within_seconds),
        )

    def _download(self, visit: Visit) -> _Answer:
        sessions, is_complete = yield from read_all(visit.token)
        body = to_json(sessions, is_complete=is_complete, now=visit.now)
        return self._renderer.download(visit, body, "sessions.json")

    def _log_out(self, visit: Visit) -> _Answer:
        session_id = visit.request.form.get("session_id", "")
        if "confirmed" not in visit.request.form:
            return (yield from self._confirm(visit, session_id))
        revoked = yield from _core.revoke(visit.token, session_id)
        if revoked.session.current:
            return self._redirect_signed_out(visit)
        outcome = Outcome.ALREADY_LOGGED_OUT if revoked.already_ended else Outcome.LOGGED_OUT
        return self._redirect_with_notice(
            visit, Notice(outcome, device_name(revoked.session.device, visit.language))
        )

    def _confirm(self, visit: Visit, session_id: str) -> _Answer:
        session = yield from find_session(visit.token, session_id)
        if session is None:
            raise SessionNotFound
        row = row_of(session, visit.language, visit.now)
        if session.state is SessionState.ENDED:
            return self._redirect_with_notice(visit, Notice(Outcome.ALREADY_LOGGED_OUT, row.name))
        return self._renderer.page(
            visit,
            "confirm.html",
            title=visit.language.gettext("Log out %(device)s?", device=row.name),
            row=row,
            action="/log-out",
            page=_page_number(visit.request.form),
            here=_address(visit, visit.request.form),
            effect=effect(visit.language, self._within_seconds),
        )

    def _name(self, visit: Visit) -> _Answer:
        session_id, label = (
            visit.request.form.get("session_id", ""),
            visit.request.form.get("label"),
        )
        if label is None:
            return (yield from self._ask_name(visit, session_id))
        try:
            session = yield from _core.name(visit.token, session_id, label)
        except InvalidArgument as error:
            if not any(each.field == "label" for each in error.violations):
                raise
            return (yield from self._ask_name(visit, session_id, label))
        return self._redirect_with_notice(
            visit, Notice(Outcome.NAMED if session.label else Outcome.NAME_REMOVED)
        )

    def _ask_name(self, visit: Visit, session_id: str, refused: str | None = None) -> _Answer:
        """Show the form for the name of a session, with the name that was refused, if any."""
        session = yield from find_session(visit.token, session_id)
        if session is None:
            raise SessionNotFound
        if session.state is SessionState.ENDED:
            name = device_name(session.device, visit.language)
            return self._redirect_with_notice(visit, Notice(Outcome.ALREADY_LOGGED_OUT, name))
        return self._renderer.page(
            visit,
            "name.html",
            200 if refused is None else 400,
            title=visit.language.gettext("Name this session"),
            row=row_of(session, visit.language, visit.now),
            label=(session.label or "") if refused is None else refused,
            problem="" if refused is None else _label_problem(visit.language, refused),
            page=_page_number(visit.request.form),
            here=_address(visit, visit.request.form),
        )

    def _log_out_elsewhere(self, visit: Visit) -> _Answer:
        if "confirmed" in visit.request.form:
            yield from _core.revoke_others(visit.token)
            return self._redirect_with_notice(visit, Notice(Outcome.LOGGED_OUT_ELSEWHERE))
        yield from read_page(
            visit.token, 1, show_ended=False
        )  # raises if the user may not see the sessions
        return self._renderer.page(
            visit,
            "confirm.html",
            title=visit.language.gettext("Log out everywhere else?"),
            row=None,
            action="/log-out-elsewhere",
            here=visit.root,
            effect=effect(visit.language, self._within_seconds),
        )

    def _sign_out(self, visit: Visit) -> _Answer:
        yield from _core.sign_out(visit.token)
        return self._redirect_signed_out(visit)

    def _redirect_signed_out(self, visit: Visit) -> PageResponse:
        location = self._options.signed_out_path or visit.root
        message = visit.language.gettext("You're logged out")
        had_one = visit.request.token is not None
        return self._renderer.done(visit, message, location, signed_out=had_one)

    def _redirect_with_notice(self, visit: Visit, notice: Notice) -> PageResponse:
        message = notice.text(visit.language, self._within_seconds)
        page = visit.request.form.get("page", "1")
        location = _address(visit, {**notice.fields(visit.token, visit.now), "page": page})
        return self._renderer.done(visit, message, location)

    def _signed_out(self, visit: Visit, rejection: Rejection | None) -> _Answer:
        if rejection is None:
            # The error named no reason. Find it out, because a superseded token's cookie must stay.
            question = ValidationRequest(visit.token, passive=True)
            answer = yield from _core.validate(question)
            rejection = answer if isinstance(answer, Rejection) else None
        if rejection is None or rejection.reason is RejectionReason.SUPERSEDED:
            return self._renderer.state(visit, visit.states.superseded())
        # Keep the cookie if the reason is unknown: the token may be superseded. Keep it also for the page's
        # script: the script loads the page next, and that response shows the reason and clears the cookie.
        opens = may_clear(lambda name: visit.request.headers.get(name, ""))
        clears = opens and rejection.reason is not RejectionReason.UNKNOWN and not visit.is_scripts
        return self._renderer.state(
            visit,
            visit.states.signed_out(rejection),
            signed_out=clears and visit.request.token is not None,
        )


def _refusal(visit: Visit, route: _Route | None) -> State | None:
    """Return the refusal of an invalid request, or None if it is valid. Make no call to the authority."""
    request, states = visit.request, visit.states
    if route is None:
        return states.refused(404)
    allowed = ("GET", "HEAD") if route.method == "GET" else ("POST",)
    if request.method not in allowed:
        return states.refused(405, (("Allow", ", ".join(allowed)),))
    if route.method == "GET":
        return None
    stated, read = _stated_bytes(request), request.body_bytes
    if stated is None:
        return states.refused(400)
    fields = sum(len(name) + len(value) for name, value in request.form.items())
    if max(stated, read or 0, fields) > FORM_LIMIT_BYTES:
        return states.refused(413)
    if read is not None and read < stated:
        return states.refused(400)  # The connection ended in the middle of the form.
    if not is_form(request.headers.get("content-type", "")):
        return states.refused(415)
    # A form from another site comes without the cookie. The answer to it must not clear the cookie.
    genuine = is_genuine(request, visit.token) if visit.token else may_be_same_origin(request)
    return None if genuine else states.forged()


def _stated_bytes(request: PageRequest) -> int | None:
    """Return the `Content-Length`: 0 if it is missing, None if it is not a number."""
    stated = request.headers.get("content-length", "").strip() or "0"
    if not (stated.isascii() and stated.isdecimal()):
        return None
    return int(stated) if len(stated) <= _DIGITS_LIMIT else FORM_LIMIT_BYTES + 1


def _state_of(error: SessionAuthorityError, visit: Visit) -> State:
    states, request = visit.states, visit.request
    match error:
        case Unavailable():
            fields = {
                name: request.form[name]
                for name in ("session_id", "confirmed", "label", "page")
                if name in request.form
            }
            posted = request.method == "POST"
            return states.outage(Retry(path=request.below, fields=fields) if posted else None)
        case ReauthenticationRequired():
            return states.reauthenticate()
        case ImpersonationForbidden():
            return states.impersonating()
        case SessionNotFound() | InvalidArgument():
            return states.no_such_session()
        case _:
            _log.error("The sessions page can't be shown: %s", error)
            return states.fault()


def _groups(sessions: Sequence[Session], language: Language, now: datetime) -> list[list[Row]]:
    """Return the rows of sessions, those of the same device together if there are many."""
    return [[row_of(each, language, now) for each in group] for group in by_device(sessions)]


def _label_problem(language: Language, label: str) -> str:
    """Return why the authority refused a name."""
    count = len(label.strip())
    if count > LABEL_LIMIT_CHARACTERS:
        return language.gettext(
            "This name has %(count)s characters. Use at most %(limit)s.",
            count=language.number(count),
            limit=language.number(LABEL_LIMIT_CHARACTERS),
        )
    return language.gettext(
        "This name contains an invisible character, such as a line break. Type the name again without it."
    )


def _page_number(fields: Mapping[str, str]) -> int:
    number = fields.get("page", "1")
    return min(max(int(number), 1), PAGE_LIMIT) if number.isdecimal() and len(number) < 9 else 1


def _address(visit: Visit, fields: Mapping[str, str]) -> str:
    """Return the URL of the list, with the page number and the notice from `fields`."""
    number = _page_number(fields)
    query = {"page": str(number)} if number > 1 else {}
    query |= {name: fields[name] for name in NOTICE_FIELDS if name in fields}
    return f"{visit.root}?{urlencode(query)}" if query else visit.root


def _active_count(language: Language, total: int) -> str:
    return language.ngettext(
        "You have %(number)s active session.",
        "You have %(number)s active sessions.",
        total,
        number=_total(language, total),
    )


def _session_count(language: Language, count: int) -> str:
    return language.ngettext(
        "%(number)s session", "%(number)s sessions", count, number=language.number(count)
    )


def _total(language: Language, total: int) -> str:
    if total > LISTED_LIMIT_SESSIONS:
        return language.number(LISTED_LIMIT_SESSIONS) + "+"
    return language.number(total)
