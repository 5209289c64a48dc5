"""The sender of webhooks, with the worst receivers: real servers on this machine."""

import asyncio
import contextlib
import os
import socket
import ssl
from collections.abc import AsyncIterator, Sequence
from ipaddress import ip_address
from pathlib import Path

import pytest

from session_authority_server.domain.webhook import Address
from session_authority_workers import guarded_network, webhook_sender
from session_authority_workers.guarded_network import Resolve
from session_authority_workers.webhook_sender import DeliveryFailed, ReceiverGone, WebhookSender
from tests.support import receiver as behaviours
from tests.support.certificates import TestAuthority
from tests.support.program import resident_mib
from tests.support.receiver import Behaviour, Receiver

HEADERS = {"webhook-id": "evt_1"}
BODY = b'{"type":"test"}'


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with Receiver().listening() as listening:
        yield listening


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhook_sender, "REQUEST_SECONDS", 0.3)


def leading_to(*addresses: str) -> Resolve:
    """Return a resolver that answers with these addresses for every name."""

    async def resolve(_host: str, _port: int) -> Sequence[Address]:
        return [ip_address(each) for each in addresses]

    return resolve


async def send(
    url: str,
    *,
    may_be_private: bool = False,
    resolve: Resolve | None = None,
    trust: ssl.SSLContext | None = None,
) -> None:
    sender = WebhookSender(url, may_be_private=may_be_private, resolve=resolve, trust=trust)
    try:
        await sender.send(HEADERS, BODY)
    finally:
        await sender.close()


async def test_an_event_is_posted_with_its_headers(receiver: Receiver) -> None:
    await send(receiver.url + "?tenant=1")

    [received] = receiver.received
    assert received.target == "/events?tenant=1"
    assert received.body == BODY
    assert received.headers == {
        "webhook-id": "evt_1",
        "host": f"127.0.0.1:{receiver.port}",
        "content-type": "application/json",
        "content-length": str(len(BODY)),
        "user-agent": "session-authority",
        "accept-encoding": "identity",
    }


async def test_events_share_a_connection(receiver: Receiver) -> None:
    sender = WebhookSender(receiver.url, may_be_private=False)
    for _ in range(3):
        await sender.send(HEADERS, BODY)
    await sender.close()
    assert receiver.connections == 1


@pytest.mark.usefixtures("hurried")
@pytest.mark.parametrize("behaviour", [behaviours.hang, behaviours.drip])
async def test_an_answer_that_does_not_end_is_a_failure(
    receiver: Receiver, behaviour: Behaviour
) -> None:
    receiver.behave = behaviour
    with pytest.raises(DeliveryFailed) as caught:
        await send(receiver.url)
    assert str(caught.value) == "no complete answer within 0.3 seconds"


@pytest.mark.parametrize(
    ("behaviour", "problem"),
    [
        (behaviours.answer("500 Internal Server Error"), "the receiver answered 500"),
        (behaviours.answer("404 secret in the reason"), "the receiver answered 404"),
        (behaviours.garbage, "the answer is not HTTP"),
        (behaviours.disconnect, "the answer is not HTTP"),
    ],
)
async def test_a_bad_answer_is_a_failure_with_a_reason_that_quotes_nothing(
    receiver: Receiver, behaviour: Behaviour, problem: str
) -> None:
    receiver.behave = behaviour
    with pytest.raises(DeliveryFailed) as caught:
        await send(receiver.url)
    assert str(caught.value) == problem


async def test_a_receiver_can_say_that_it_wants_no_more_events(receiver: Receiver) -> None:
    receiver.behave = behaviours.answer("410 Gone")
    with pytest.raises(ReceiverGone):
        await send(receiver.url)


async def test_a_redirect_is_not_followed(receiver: Receiver) -> None:
    async with Receiver().listening() as internal:
        receiver.behave = behaviours.answer(f"302 Found\r\nlocation: {internal.url}")
        with pytest.raises(DeliveryFailed, match="redirects are not followed"):
            await send(receiver.url)
        assert not internal.connections


@pytest.mark.parametrize(
    ("head", "piece", "problem"),
    [
        (
            b"HTTP/1.1 200 OK\r\ncontent-length: 10000000000\r\n\r\n",
            bytes(1 << 20),
            "the answer is over 64 KiB",
        ),
        (
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n",
            b"100000\r\n" + bytes(1 << 20) + b"\r\n",
            "the answer is over 64 KiB",
        ),
        (b"HTTP/1.1 200 OK\r\nx: ", b"x" * (1 << 20), "the answer is over 64 KiB"),
    ],
)
async def test_an_answer_of_10_gb_is_cut_off_and_costs_no_memory(
    receiver: Receiver, head: bytes, piece: bytes, problem: str
) -> None:
    receiver.behave = behaviours.flood(head, piece)
    await send_refused(receiver, problem)
    before = resident_mib(os.getpid())
    for _ in range(3):
        await send_refused(receiver, problem)
    assert resident_mib(os.getpid()) - before < 30


async def send_refused(receiver: Receiver, problem: str) -> None:
    with pytest.raises(DeliveryFailed) as caught:
        await send(receiver.url)
    assert str(caught.value) == problem


async def test_a_connection_that_is_not_accepted_is_a_failure(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(guarded_network, "CONNECT_SECONDS", 0.1)
    with contextlib.ExitStack() as stack:
        full = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(8):  # more than the kernel queues
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(full.getsockname())
        with pytest.raises(DeliveryFailed) as caught:
            await send(f"http://127.0.0.1:{full.getsockname()[1]}/")
    assert str(caught.value) == "the connection was not accepted in time"


async def test_an_endless_series_of_interim_answers_is_cut_off(receiver: Receiver) -> None:
    receiver.behave = behaviours.flood(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 10_000)
    await send_refused(receiver, "the answer is over 64 KiB")


async def test_the_limit_of_an_answer_is_for_each_request_of_a_connection(
    receiver: Receiver,
) -> None:
    content = bytes(40 * 1024)
    head = f"HTTP/1.1 200 OK\r\ncontent-length: {len(content)}\r\n\r\n".encode()

    async def answer(_received: object, writer: asyncio.StreamWriter) -> None:
        writer.write(head + content)

    receiver.behave = answer
    sender = WebhookSender(receiver.url, may_be_private=False)
    for _ in range(3):
        await sender.send(HEADERS, BODY)
    await sender.close()
    assert receiver.connections == 1


async def test_a_name_that_leads_into_the_own_network_is_not_connected(receiver: Receiver) -> None:
    url = f"https://app.example.com:{receiver.port}/"
    for addresses in (
        ["127.0.0.1"],
        ["10.0.0.1", "::1"],
        ["169.254.169.254"],
        ["::ffff:127.0.0.1"],
    ):
        with pytest.raises(DeliveryFailed, match="RECEIVERS_MAY_BE_PRIVATE"):
            await send(url, resolve=leading_to(*addresses))
    assert not receiver.connections


async def test_a_private_address_is_connected_if_the_operator_allows_it(
    receiver: Receiver, tmp_path: Path
) -> None:
    """The certificate is checked against the name, not against the address."""
    authority = TestAuthority(tmp_path)
    async with Receiver().listening(_server_side(authority, "app.example.com")) as encrypted:
        trust = ssl.create_default_context(cafile=str(authority.certificate))
        url, resolve = f"https://app.example.com:{encrypted.port}/", leading_to("127.0.0.1")
        await send(url, may_be_private=True, resolve=resolve, trust=trust)
        assert encrypted.received[0].headers["host"] == f"app.example.com:{encrypted.port}"

        with pytest.raises(DeliveryFailed, match="certificate is not accepted: unable to get"):
            await send(url, may_be_private=True, resolve=resolve)
        url = url.replace("app.", "shop.")
        with pytest.raises(DeliveryFailed, match="certificate is not accepted: Hostname mismatch"):
            await send(url, may_be_private=True, resolve=resolve, trust=trust)
    assert len(encrypted.received) == 1


def _server_side(authority: TestAuthority, name: str) -> ssl.SSLContext:
    pair = authority.pair(names=f"DNS:{name}")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.certificate, pair.key)
    return context


async def test_a_receiver_that_is_down_is_a_failure() -> None:
    async with Receiver().listening() as stopped:
        url = stopped.url
    with pytest.raises(DeliveryFailed, match="no connection to the receiver"):
        await send(url)


async def test_a_name_that_does_not_exist_is_a_failure() -> None:
    with pytest.raises(DeliveryFailed, match="no connection to the receiver"):
        await send("https://no-such-host.invalid/")


@pytest.mark.usefixtures("hurried")
async def test_a_name_server_that_hangs_is_cut_off() -> None:
    async def never(_host: str, _port: int) -> Sequence[Address]:
        await asyncio.Event().wait()
        return []

    with pytest.raises(DeliveryFailed, match="no complete answer"):
        await send("https://app.example.com/", resolve=never)
