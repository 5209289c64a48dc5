from base64 import b64decode
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from uuid import UUID

import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from session_authority_server.domain import webhook

EVENT_KEY = bytes(range(32))
RECEIVER = UUID("01890000-0000-7000-8000-000000000001")
BODY = '{"type":"test","data":{"name":"Zoë"}}'.encode()
NOON = datetime(2026, 1, 15, 12, tzinfo=UTC)
SECOND = timedelta(seconds=1)


def test_the_example_of_the_specification_has_the_signature_of_the_specification() -> None:
    key = b64decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    time = datetime.fromtimestamp(1614265330, UTC)
    body = b'{"test": 2432232314}'

    signature = webhook.sign(key, "msg_p5jXN8AQM9LWM0D4loKWxJek", time, body)

    assert signature == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_the_official_library_accepts_both_keys_during_a_rotation_and_no_other() -> None:
    first, second, third = (webhook.signing_key(EVENT_KEY, RECEIVER, each) for each in (1, 2, 3))
    now = datetime.now(UTC)

    headers = dict(webhook.signed_headers([second, first], "evt", now, BODY))

    for key in (first, second):
        assert Webhook(webhook.shown_key(key)).verify(BODY, headers)["type"] == "test"
    with pytest.raises(WebhookVerificationError):
        Webhook(webhook.shown_key(third)).verify(BODY, headers)
    with pytest.raises(WebhookVerificationError):
        Webhook(webhook.shown_key(first)).verify(BODY + b" ", headers)


def test_each_receiver_and_each_generation_has_its_own_key() -> None:
    other = UUID(int=RECEIVER.int + 1)
    keys = {
        webhook.signing_key(event_key, receiver, generation)
        for event_key in (EVENT_KEY, bytes(32))
        for receiver in (RECEIVER, other)
        for generation in (1, 2, 256)
    }
    assert len(keys) == 12
    assert {len(each) for each in keys} == {32}


def test_the_previous_key_signs_for_a_day_after_a_rotation() -> None:
    overlap = webhook.ROTATION_OVERLAP
    assert webhook.live_generations(1, None, NOON) == (1,)
    assert webhook.live_generations(3, NOON, NOON) == (3, 2)
    assert webhook.live_generations(3, NOON, NOON + overlap - SECOND) == (3, 2)
    assert webhook.live_generations(3, NOON, NOON + overlap) == (3,)


@pytest.mark.parametrize(
    "url",
    [
        "https://app.example.com/events?tenant=1",
        "https://198.51.100.7:8443/",
        "http://127.0.0.1:9000/events",
        "http://[::1]:9000",
        "http://localhost/events",
    ],
)
def test_a_receiver_has_an_https_address_or_is_on_this_machine(url: str) -> None:
    webhook.check_url(url)


@pytest.mark.parametrize(
    ("url", "advice"),
    [
        ("http://app.example.com/", "https"),
        ("http://10.0.0.1/", "https"),
        ("ftp://app.example.com/", "a URL"),
        ("shop.example.com/in", "a URL"),
        ("https:///events", "a URL"),
        ("https://app.example.com:0/", "a URL"),
        ("https://app.example.com:99999/", "a URL"),
        ("https://[::1/", "a URL"),
        ("https://user@app.example.com/", "password"),
        ("https://user:pass@app.example.com/", "password"),
        ("https://app.example.com/#top", "fragment"),
        ("https://app.example.com/a b", "spaces"),
        ("https://app.example.com/\r\nhost:x", "spaces"),
        ("https://bücher.example/", "ASCII"),
        ("", "characters"),
        ("https://app.example.com/" + "x" * 2_000, "2000"),
    ],
)
def test_an_address_that_cannot_be_used_is_refused_with_advice_and_without_a_quote(
    url: str, advice: str
) -> None:
    with pytest.raises(ValueError, match=advice) as caught:
        webhook.check_url(url)
    assert not url or url not in str(caught.value)


PUBLIC = ["198.41.0.4", "2001:500:2::c", "2002:c629:4::1", "64:ff9b::c629:4"]
PRIVATE = [
    "10.0.0.1",
    "172.16.0.1",
    "192.168.1.1",
    "100.64.0.1",
    "127.0.0.1",
    "::1",
    "fd00:ec2::254",
    "::ffff:10.0.0.1",
    "64:ff9b::a00:1",
    "2002:a00:1::",
    "fec0::1",
]
NEVER = [
    "169.254.169.254",
    "::ffff:169.254.169.254",
    "64:ff9b::a9fe:a9fe",
    "fe80::1",
    "224.0.0.1",
    "ff02::1",
    "0.0.0.0",
    "::",
    "255.255.255.255",
    "240.0.0.1",
    "192.0.0.192",
    "::127.0.0.1",
    "64:ff9b:1::a00:1",
]


@pytest.mark.parametrize("address", [*PUBLIC, *PRIVATE, *NEVER])
def test_a_name_leads_to_public_addresses_only_unless_private_ones_are_allowed(
    address: str,
) -> None:
    def allowed(*, may_be_private: bool) -> bool:
        return webhook.may_connect(
            "app.example.com", ip_address(address), may_be_private=may_be_private
        )

    assert allowed(may_be_private=False) == (address in PUBLIC)
    assert allowed(may_be_private=True) == (address not in NEVER)


def test_localhost_never_leads_to_another_machine() -> None:
    for may_be_private in (False, True):
        for address in [*PUBLIC, *PRIVATE, *NEVER]:
            is_allowed = webhook.may_connect(
                "localhost", ip_address(address), may_be_private=may_be_private
            )
            assert is_allowed == (address in ("127.0.0.1", "::1"))
