"""Visits to a site, with an authority that has scripted answers."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from session_authority import (
    Device,
    Rejection,
    RejectionReason,
    Session,
    SessionAuthorityError,
    SessionState,
)
from session_authority._core import Operation
from session_authority.v1 import session_service_pb2 as v1
from session_authority.web.site import Arrival, Site
from session_authority.web.visit import Visit
from tests.support.fake_authority import NOON_MESSAGE, created, session_message

NOON = datetime(2030, 1, 1, 12, tzinfo=UTC)


LIVE = Session(
    session_id="s-1",
    user_id="ana",
    state=SessionState.ACTIVE,
    current=False,
    device=Device(),
    create_time=NOON,
    authenticate_time=NOON,
    last_active_time=NOON,
    expire_time=NOON + timedelta(days=90),
)


T = TypeVar("T")


@dataclass
class Authority:
    """Answers the calls of an operation with the test's answers."""

    failing: Mapping[str, SessionAuthorityError] = field(default_factory=dict)
    requests: list[Any] = field(default_factory=list)

    def run(self, operation: Operation[T]) -> T:
        try:
            call = next(operation)
            while True:
                method = call.method.rpartition("/")[2]
                request = getattr(v1, method + "Request").FromString(call.payload)
                self.requests.append(request)
                if method in self.failing:
                    call = operation.throw(self.failing[method])
                else:
                    call = operation.send(_answer(method))
        except StopIteration as done:
            result: T = done.value
            return result


def _answer(method: str) -> bytes:
    match method:
        case "CreateSession":
            return created(token="ses_new").SerializeToString()
        case "ReauthenticateSession":
            return v1.ReauthenticateSessionResponse(
                session=session_message(), session_token="ses_renewed"
            ).SerializeToString()
        case _:
            return v1.SignOutResponse(effective_time=NOON_MESSAGE).SerializeToString()


def visit(
    *tokens: str,
    site: Site | None = None,
    scheme: str = "https",
    host: str = "app.example",
    peer: str = "8.8.8.8",
    **headers: str,
) -> Visit:
    cookie = "; ".join(f"__Host-auth_session={token}" for token in tokens)
    known = {"cookie": cookie} | {name.replace("_", "-"): value for name, value in headers.items()}
    return Visit(
        site or Site(clock=lambda: NOON),
        Arrival(scheme, host, peer, lambda name: known.get(name, "")),
    )


def look_up(it: Visit, answers: Callable[[str], Session | RejectionReason]) -> list[str]:
    """Answer the visit's calls, and return the tokens that it validated."""
    asked = [str(question.token) for question in it.to_ask()]
    if asked:
        outcomes = map(answers, asked)
        it.answered([each if isinstance(each, Session) else Rejection(each) for each in outcomes])
    return asked


def set_cookies(it: Visit) -> list[tuple[str, str, int | None]]:
    return [(each.name, each.value, each.max_age_seconds) for each in it.set_cookies]


CLEARED = [("__Host-auth_session", "", 0)]
