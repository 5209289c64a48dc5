"""The tests of the OpenID Foundation's conformance suite for transmitters, by their names there.

The suite: https://gitlab.com/openid/conformance-suite, test plan `openid-ssf-transmitter-test-plan`.
"""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from session_authority_gateway import ssf_documents as documents
from tests.gateway.signals import REVOKED, VERIFICATION, Receiver, Signals, signals_running
from tests.support.transmitter import ISSUER

STREAM, STATUS = documents.STREAM_PATH, documents.STATUS_PATH
METHODS = ("GET", "PATCH", "PUT", "DELETE")
BROKEN = b";{ broken"
POLL: dict[str, Any] = {"delivery": {"method": documents.POLL}, "events_requested": [REVOKED]}


@pytest.fixture
async def signals(tmp_path: Path) -> AsyncIterator[Signals]:
    async with signals_running(tmp_path) as running:
        yield running


@pytest.fixture
def crm(signals: Signals) -> Receiver:
    return signals.crm


async def test_openid_ssf_transmitter_metadata(crm: Receiver) -> None:
    metadata = await crm.metadata()
    assert metadata["issuer"] == ISSUER
    assert metadata["spec_version"] == "1_0"
    assert metadata["default_subjects"] == "ALL"
    assert metadata["delivery_methods_supported"] == [documents.PUSH, documents.POLL]
    assert metadata["authorization_schemes"] == [{"spec_urn": "urn:ietf:rfc:6750"}]
    addresses = [value for name, value in metadata.items() if name.endswith(("_uri", "_endpoint"))]
    assert len(addresses) == 4
    assert all(each.startswith("https://") for each in addresses)
    assert all(value for value in metadata.values())
    [key] = (await crm.ask("GET", metadata["jwks_uri"])).json()["keys"]
    assert key.keys() == {"kty", "use", "alg", "n", "e", "kid"}


async def test_openid_ssf_stream_control_happy_path(crm: Receiver) -> None:
    stream = await crm.create(**POLL, description="Sign-outs")
    assert {"stream_id", "iss", "aud", "events_delivered", "delivery"} <= stream.keys()
    assert (stream["iss"], stream["aud"]) == (ISSUER, "crm")
    assert stream["events_delivered"] == [REVOKED]

    address = f"{STREAM}?stream_id={stream['stream_id']}"
    assert (await crm.ask("GET", address)).json() == stream
    assert (await crm.ask("GET", STREAM)).json() == [stream]

    updated = await crm.ask("PATCH", STREAM, {**stream, "description": "Updated"})
    assert (updated.status_code, updated.json()) == (200, {**stream, "description": "Updated"})
    replaced = await crm.ask("PUT", STREAM, {**POLL, "stream_id": stream["stream_id"]})
    del stream["description"]
    assert (replaced.status_code, replaced.json()) == (200, stream)

    enabled = {"stream_id": stream["stream_id"], "status": "enabled"}
    assert (await crm.ask("GET", f"{STATUS}?stream_id={stream['stream_id']}")).json() == enabled
    for status in ("paused", "disabled", "enabled"):
        changed = await crm.set_status(stream, status, reason="a test")
        assert changed.status_code == 200
        assert changed.json() == {**enabled, "status": status, "reason": "a test"}

    assert (await crm.ask("DELETE", address)).status_code == 204
    assert (await crm.ask("GET", STREAM)).json() == []


async def test_openid_ssf_stream_control_error_create_stream_with_broken_input(
    crm: Receiver,
) -> None:
    assert (await crm.ask("POST", STREAM, BROKEN)).status_code == 400


async def test_openid_ssf_stream_control_error_create_stream_with_invalid_access_token(
    signals: Signals,
) -> None:
    for key in ("", "invalid", "sak_" + "0" * 70):
        answer = await Receiver(signals.application, key).ask("POST", STREAM, POLL)
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"] == "Bearer"


async def test_openid_ssf_stream_control_error_create_stream_with_duplicate_config(
    crm: Receiver,
) -> None:
    await crm.create(**POLL)
    assert (await crm.ask("POST", STREAM, POLL)).status_code == 409


async def test_openid_ssf_stream_control_error_stream_with_invalid_access_token(
    signals: Signals,
) -> None:
    """Stand for `read`, `update`, `replace` and `delete`."""
    stream = await signals.crm.create(**POLL)
    thief = Receiver(signals.application, "invalid")
    for method in METHODS:
        answer = await thief.ask(method, f"{STREAM}?stream_id={stream['stream_id']}", stream)
        assert answer.status_code == 401


async def test_openid_ssf_stream_control_error_unknown_stream(crm: Receiver) -> None:
    """Stand for `read`, `update`, `replace` and `delete`."""
    stream = await crm.create(**POLL)
    address = f"{STREAM}?stream_id={stream['stream_id']}"
    assert (await crm.ask("DELETE", address)).status_code == 204
    for method in METHODS:
        assert (await crm.ask(method, address, stream)).status_code == 404


async def test_openid_ssf_stream_control_error_stream_with_invalid_body(crm: Receiver) -> None:
    """Stand for `update` and `replace`."""
    await crm.create(**POLL)
    for method in ("PATCH", "PUT"):
        assert (await crm.ask(method, STREAM, BROKEN)).status_code == 400


async def check_verification(crm: Receiver, stream: Any, token: str, state: str | None) -> None:
    claims = await crm.claims(token)
    assert claims["sub_id"] == {"format": "opaque", "id": stream["stream_id"]}
    assert claims["events"] == {VERIFICATION: {} if state is None else {"state": state}}
    assert not claims.keys() & {"sub", "exp"}
    assert (claims["iss"], claims["aud"]) == (ISSUER, "crm")


async def test_openid_ssf_transmitter_stream_verification_poll_only(crm: Receiver) -> None:
    stream = await crm.create(**POLL)
    assert (await crm.verify(stream, "first")).status_code == 204
    [token] = (await crm.poll(stream, maxEvents=10))["sets"].values()
    await check_verification(crm, stream, token, "first")


async def test_openid_ssf_transmitter_stream_verification_poll_and_ack(
    signals: Signals, crm: Receiver
) -> None:
    stream = await crm.create(**POLL)
    await crm.verify(stream, "first")
    first = (await crm.poll(stream, maxEvents=10))["sets"]
    signals.authority.pass_time(seconds=stream["min_verification_interval"])
    await crm.verify(stream, "second")
    [token] = (await crm.poll(stream, maxEvents=10, ack=list(first)))["sets"].values()
    await check_verification(crm, stream, token, "second")


async def test_openid_ssf_transmitter_stream_verification_ack_only(crm: Receiver) -> None:
    stream = await crm.create(**POLL)
    await crm.verify(stream)
    sets = (await crm.poll(stream))["sets"]
    assert await crm.poll(stream, maxEvents=0) == {"sets": {}}
    assert (await crm.poll(stream))["sets"] == sets
    assert await crm.poll(stream, maxEvents=0, ack=list(sets)) == {"sets": {}}
    assert await crm.poll(stream) == {"sets": {}}
