"""The table of RPCs, and the client's retries according to the table."""

import json
from typing import Any

import pytest

from session_authority import SessionToken, _core
from session_authority._channel import channel_options
from session_authority._settings import Settings
from session_authority.v1 import session_service_pb2 as pb
from session_authority_server.rpc.methods import METHODS, SERVICES, Method, Retry

CREATE = _core.create(
    "ada",
    ip_address=None,
    user_agent=None,
    authenticate_time=None,
    authentication_methods=(),
    lifetime=None,
    idle_timeout=None,
    attributes=None,
    actor_id=None,
    identity=None,
    retry_secret=None,
)
REAUTHENTICATE = _core.reauthenticate(
    SessionToken("ses_" + "0" * 40),
    authentication_methods=(),
    authenticate_time=None,
    retry_secret=None,
)
# Client calls that add a retry secret if the app gives none.
WITH_SECRET = {call.method: call.payload for call in (next(CREATE), next(REAUTHENTICATE))}


def config_of(method: Method) -> dict[str, Any]:
    """Return the configuration of the client's channels for an RPC. A named service overrides the default."""
    options = dict(channel_options(Settings("localhost:1")))
    configs = json.loads(str(options["grpc.service_config"]))["methodConfig"]
    service = method.path.split("/")[1]
    for name in ({"service": service}, {}):
        for config in configs:
            if name in config["name"]:
                return dict(config)
    raise AssertionError("no configuration")


@pytest.mark.parametrize("method", METHODS.values(), ids=lambda method: method.name)
def test_the_client_retries_an_rpc_exactly_if_the_table_allows_it(method: Method) -> None:
    assert ("retryPolicy" in config_of(method)) is (method.rule.retry is not Retry.NEVER)
    # The clients' own loop retries every unary call, and no stream.
    assert method.streams is (method.rule.retry is Retry.NEVER)


def test_an_rpc_is_retried_with_a_secret_exactly_if_its_request_has_one() -> None:
    with_field = {
        f"/{service.full_name}/{method.name}"
        for service in SERVICES
        for method in service.methods
        if "retry_secret" in method.input_type.fields_by_name
    }
    with_secret = {
        path for path, method in METHODS.items() if method.rule.retry is Retry.WITH_RETRY_SECRET
    }
    assert with_secret == with_field == WITH_SECRET.keys()


@pytest.mark.parametrize("path", WITH_SECRET)
def test_the_client_sends_a_retry_secret_even_if_the_app_gives_none(path: str) -> None:
    request = METHODS[path].parse(WITH_SECRET[path])
    assert isinstance(request, pb.CreateSessionRequest | pb.ReauthenticateSessionRequest)
    assert len(request.retry_secret) == 32
