"""No request of a provider causes an exception, and only a valid token ends sessions."""

import base64
import json
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.provider_tokens import event_claims, logout_claims, signing_key
from tests.support.soak import soaked
from tests.unit.backchannel.receiving import EVENT, FORM, FakeProvider, Receiving

pytestmark = pytest.mark.soak

KEY = signing_key()
EXAMPLES = soaked(long=5_000, short=60)
JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
CLAIMS = ("iss", "aud", "iat", "exp", "jti", "events", "sub", "sid", "nonce", "azp", "sub_id")
HEADERS = ("alg", "kid", "typ", "crit", "b64", "cty")


def receiving() -> Receiving:
    return Receiving(FakeProvider([KEY]))


def encoded(part: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=")


@settings(max_examples=EXAMPLES, deadline=None)
@given(st.binary(max_size=300), st.sampled_from([FORM, EVENT]))
def test_any_body_is_refused(body: bytes, content_type: str) -> None:
    it = receiving()
    for begin in (it.receiver.logout, it.receiver.event):
        assert it.post(begin, body, content_type).status == 400
    given_token = b"logout_token=" + quote(body).encode()
    assert it.post(it.receiver.logout, given_token, FORM).status == 400
    assert it.ended == []


@settings(max_examples=EXAMPLES, deadline=None)
@given(st.dictionaries(st.sampled_from(CLAIMS), JSON, min_size=1, max_size=3))
def test_signed_claims_of_any_form_get_an_answer(changes: dict[str, Any]) -> None:
    it = receiving()
    logout = it.logout(KEY.sign(logout_claims(**changes)))
    push = it.push(KEY.sign(event_claims(**changes), typ="secevent+jwt"))
    assert logout.status in (200, 400)
    assert push.status in (202, 400)
    assert len(it.ended) == (logout.status == 200) + (
        push.status == 202 and bool(push.outcome == "ended")
    )


@settings(max_examples=EXAMPLES, deadline=None)
@given(st.dictionaries(st.sampled_from(HEADERS), JSON, max_size=3), st.binary(max_size=20))
def test_unsigned_headers_of_any_form_end_nothing(header: dict[str, Any], tail: bytes) -> None:
    it = receiving()
    end = base64.urlsafe_b64encode(tail).decode().rstrip("=")
    whole = {"alg": "RS256", "kid": "first", "typ": "logout+jwt"} | header
    logout = it.logout(f"{encoded(whole)}.{encoded(logout_claims())}.{end}")
    push = it.push(f"{encoded({**whole, 'typ': 'secevent+jwt'})}.{encoded(event_claims())}.{end}")
    assert (logout.status, push.status) == (400, 400)
    assert it.ended == []


@settings(max_examples=EXAMPLES, deadline=None)
@given(st.data())
def test_no_change_of_a_valid_token_is_accepted(data: st.DataObject) -> None:
    it = receiving()
    token = KEY.sign(logout_claims())
    place = data.draw(st.integers(0, len(token) - 1))
    other = data.draw(st.sampled_from("ABCDEFGHxyz019-_.="))
    changed = token[:place] + other + token[place + 1 :]
    assert it.logout(changed).status == (200 if changed == token else 400)
