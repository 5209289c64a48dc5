"""Each place that a recipe of CONTRIBUTING.md names has a test that fails if the place is forgotten."""

import dataclasses
import importlib.util
import inspect
import json
import re
import tomllib
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, get_args
from unittest.mock import AsyncMock, Mock

import pytest
from babel import Locale

import session_authority
from session_authority import AsyncSessionClient, Rejection, _conversion, _core
from session_authority.testing import Authority
from session_authority.v1 import session_pb2
from session_authority.v1 import session_service_pb2 as pb
from session_authority.web.fastapi import Sessions
from session_authority.web.sessions_page import export
from session_authority.web.sessions_page.language import Languages
from session_authority.web.sessions_page.options import PageOptions
from session_authority.web.sessions_page.state import States
from session_authority.web.visit import Visit
from session_authority_server.config import Settings
from session_authority_server.domain import event
from session_authority_server.domain.device import Device, DeviceType
from session_authority_server.domain.errors import SessionNotFound
from session_authority_server.domain.location import Location
from session_authority_server.domain.policy import Policy
from session_authority_server.domain.session import Ending, EndReason, InitiatingEntity, Session
from session_authority_server.domain.verdict import RejectionReason
from session_authority_server.rpc import session_service
from session_authority_server.rpc.conversion import to_session
from session_authority_server.rpc.methods import METHODS
from session_authority_server.rpc.session_admin_service import SessionAdminService
from session_authority_server.rpc.session_event_service import SessionEventService
from session_authority_server.rpc.session_service import SessionService
from session_authority_server.rpc.session_watch_service import SessionWatchService
from session_authority_server.usecases.create_session import SignIn, _parameters
from tests.support.authority import a_session

ROOT = Path(__file__).parents[2]
CLIENT = ROOT / "client" / "session_authority"
SERVER = ROOT / "server" / "session_authority_server"
NOON = datetime(2026, 1, 15, 12, tzinfo=UTC)
LOCATION = Location("Hamburg", "Hamburg", "Germany", "DE")
SESSION_FIELDS = {field.name for field in session_pb2.Session.DESCRIPTOR.fields}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
FRAMEWORKS = sorted(
    PROJECT["project"]["optional-dependencies"].keys()
    - {"server", "native", "otel", "postgres", "gateway", "demo", "backchannel"}
)
# The optional fields of a sign-in.
SIGN_IN: dict[str, Any] = {
    "ip_address": "203.0.113.7",
    "user_agent": "Firefox/143",
    "authenticate_time": NOON,
    "authentication_methods": ("otp",),
    "lifetime": timedelta(days=1),
    "idle_timeout": timedelta(hours=1),
    "attributes": {"tenant": "t-1"},
    "actor_id": "support-7",
    "identity": session_authority.Identity("https://id.example", "u-1", "s-1"),
}


def fields_of(kind: Any) -> set[str]:
    return {field.name for field in dataclasses.fields(kind)}


def code_in(folder: Path, *, without: str = "") -> str:
    files = (path for path in sorted(folder.rglob("*.py")) if path.name != without)
    return "\n".join(path.read_text() for path in files)


def a_full_session() -> Session:
    """Return an ended session that has a value in every field."""
    session, _ = a_session(
        "ada",
        NOON,
        device=Device("Firefox", "143", "Linux", "6", DeviceType.DESKTOP),
        idle_timeout=timedelta(hours=1),
        attributes={"tenant": "t-1"},
        actor_id="support-7",
        new_device=True,
        label="Study",
        ending=Ending(NOON, EndReason.REVOKED, InitiatingEntity.ADMIN),
    )
    return session


# Add an RPC.


def test_every_rpc_has_a_handler() -> None:
    services = {
        each.__name__: each
        for each in (SessionService, SessionAdminService, SessionWatchService, SessionEventService)
    }
    for method in METHODS.values():
        service = services[method.path.split("/")[1].rpartition(".")[2]]
        name = "validate_each" if method.batched else method.name
        assert inspect.iscoroutinefunction(getattr(service, name, None)), method.path


def test_the_client_has_an_operation_for_every_rpc_of_apps() -> None:
    called = set(re.findall(r'_ask\(\s*"(\w+)"', inspect.getsource(_core)))
    served = {each.name for each in METHODS.values() if each.path.startswith(_core.SESSION_SERVICE)}
    # The app that signs users in through a provider also receives the provider's logout.
    assert called == served | {"RevokeIdentitySessions"}


# Add a field.


def test_every_field_of_a_session_is_sent() -> None:
    session = a_full_session()
    message = to_session(session, NOON + timedelta(hours=2), session.session_id, LOCATION)
    assert {field.name for field, _ in message.ListFields()} == SESSION_FIELDS


def test_the_client_reads_every_field_of_a_session() -> None:
    server_session = a_full_session()
    message = to_session(server_session, NOON, server_session.session_id, LOCATION)
    session = _conversion.session_of(message)
    assert fields_of(session_authority.Session) == SESSION_FIELDS
    assert [name for name in sorted(SESSION_FIELDS) if not getattr(session, name)] == []


def test_the_export_has_every_field_except_the_apps_own() -> None:
    session = _conversion.session_of(to_session(a_full_session(), NOON))
    document = json.loads(export.to_json([session], is_complete=True, now=NOON))
    assert set(document["sessions"][0]) == SESSION_FIELDS - {"user_id", "attributes"}


async def test_every_field_of_a_sign_in_reaches_the_use_case_and_the_client(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sent = {field.name for field in pb.CreateSessionRequest.DESCRIPTOR.fields}
    assert fields_of(SignIn) == sent | {"caller"}
    assert set(inspect.signature(AsyncSessionClient.create).parameters) == sent | {"self"}

    call = next(_core.create("ada", **SIGN_IN, retry_secret=b"r" * 32))
    request = pb.CreateSessionRequest.FromString(call.payload)
    assert {field.name for field, _ in request.ListFields()} == sent

    answer = AsyncMock(side_effect=SessionNotFound)
    monkeypatch.setattr(session_service, "create_session", answer)
    with pytest.raises(SessionNotFound):
        await SessionService(Mock()).CreateSession(request)
    _, sign_in = answer.await_args_list[0].args
    for name in sent:
        assert getattr(sign_in, name) != getattr(SignIn(user_id=""), name), name


def test_a_retry_is_compared_in_every_field_of_a_sign_in() -> None:
    # The hash of the retry already covers these three.
    assert set(SIGN_IN) == fields_of(SignIn) - {"user_id", "retry_secret", "caller"}
    plain = _parameters(SignIn(user_id="ada"), Policy())
    for name, value in SIGN_IN.items():
        assert _parameters(SignIn(user_id="ada", **{name: value}), Policy()) != plain, name


@pytest.mark.parametrize(
    ("sign_in", "given"),
    [
        (Visit.create, SIGN_IN.keys() - {"ip_address", "user_agent"}),
        (Sessions.sign_in, SIGN_IN.keys() - {"ip_address", "user_agent"}),
        # The clock of the test sets this time.
        (Authority.sign_in, SIGN_IN.keys() - {"authenticate_time"}),
    ],
    ids=["visit", "fastapi", "testing"],
)
def test_web_apps_and_tests_can_set_every_field_of_a_sign_in(
    sign_in: Callable[..., Any], given: set[str]
) -> None:
    assert given <= inspect.signature(sign_in).parameters.keys()


def test_django_apps_can_set_every_field_of_a_sign_in() -> None:
    code = (CLIENT / "web" / "django" / "auth_session.py").read_text()
    for name in SIGN_IN.keys() - {"ip_address", "user_agent"}:
        assert f"        self.{name}: " in code, name


# Add a setting.


def test_every_setting_is_read() -> None:
    code = code_in(SERVER)
    for name in Settings.model_fields:
        assert re.search(rf"\b(self|settings)\.{name}\b", code), name


# Add an end reason.


def test_every_end_reason_is_known_in_every_layer() -> None:
    names = set(EndReason.__members__)
    unset = {"END_REASON_UNSPECIFIED"}
    assert {f"END_REASON_{name}" for name in names} == set(session_pb2.EndReason.keys()) - unset
    assert names <= set(RejectionReason.__members__)
    assert {f"REJECTION_REASON_{name}" for name in names} <= set(pb.RejectionReason.keys())
    assert names | {"UNKNOWN"} == set(session_authority.EndReason.__members__)
    assert names <= set(session_authority.RejectionReason.__members__)


@pytest.mark.parametrize("name", sorted(EndReason.__members__.keys() - {"SIGNED_OUT"}))
def test_a_visitor_sees_a_sentence_for_every_end_reason(name: str) -> None:
    states = States(Languages().choose("en"), PageOptions(), "/")
    rejection = Rejection(session_authority.RejectionReason[name])
    assert states.signed_out(rejection).text != states.signed_out(None).text


# Add an event.


def test_every_event_is_in_the_union_and_is_recorded() -> None:
    kinds = {
        each
        for each in vars(event).values()
        if isinstance(each, type) and dataclasses.is_dataclass(each)
        if each.__module__ == event.__name__
    }
    assert kinds == set(get_args(event.Event))
    code = code_in(SERVER, without="event.py")
    for kind in kinds:
        assert re.search(rf"\b{kind.__name__}\(", code), kind


# Add a translation.


def test_the_documentation_names_every_language_that_is_shipped() -> None:
    document = (ROOT / "docs" / "use" / "page.md").read_text()
    for path in (CLIENT / "web" / "sessions_page" / "catalogues").glob("*.po"):
        assert str(Locale.parse(path.stem).get_language_name("en")) in document


# Add a web framework.


def test_the_list_of_web_frameworks_is_not_empty() -> None:
    assert {"django", "fastapi"} <= set(FRAMEWORKS)


@pytest.mark.parametrize("name", FRAMEWORKS)
def test_a_web_framework_has_all_its_parts(name: str) -> None:
    assert importlib.util.find_spec(f"session_authority.web.{name}")
    assert importlib.util.find_spec(f"session_authority.testing.{name}")
    assert (ROOT / "examples" / f"{name}_app.py").exists()
    assert list((ROOT / "tests" / "integration" / "web").glob(f"test_{name}*.py"))
    for document in ("README.md", f"docs/use/{name}.md", "docs/use/testing.md"):
        assert name in (ROOT / document).read_text().lower(), document
    typed = (ROOT / "tests" / "typing" / "test_public_api.py").read_text()
    assert f'("session_authority.web.{name}", "{name}", "{name}")' in typed
    (contract,) = (
        each
        for each in PROJECT["tool"]["importlinter"]["contracts"]
        if each["name"] == "Only the integration of a framework imports the framework"
    )
    assert name in contract["forbidden_modules"]
