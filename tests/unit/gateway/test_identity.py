import string
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from session_authority_gateway.identity import NAMES, claimed, headers_of, misspelt
from tests.unit.gateway.test_decision import SESSION

CGI = str.maketrans(dict.fromkeys(string.punctuation, "_"))


@pytest.mark.parametrize(
    ("value", "header"),
    [
        ("mary", "mary"),
        ("mary@example.com", "mary@example.com"),
        ("urn:user/7", "urn:user/7"),
        ("José", "Jos%C3%A9"),
        ("a b", "a%20b"),
        ("a,b", "a%2Cb"),
        ("100%", "100%25"),
        ("a\r\nx-session-id: 1", "a%0D%0Ax-session-id:%201"),
        ("\x00", "%00"),
    ],
)
def test_values_with_unsafe_characters_are_percent_encoded(value: str, header: str) -> None:
    session = replace(SESSION, user_id=value, actor_id=value, authentication_methods=(value,))
    headers = dict(headers_of(session))
    assert headers["x-session-user-id"] == header
    assert headers["x-session-actor-id"] == header
    assert headers["x-session-authentication-methods"] == header


def test_without_methods_and_actor_their_headers_are_absent() -> None:
    names = [name for name, _ in headers_of(replace(SESSION, authentication_methods=()))]
    assert names == ["x-session-user-id", "x-session-id", "x-session-authenticate-time"]


@pytest.mark.parametrize(
    ("name", "is_claimed", "is_misspelt"),
    [
        ("x-session-user-id", True, False),
        ("X-Session-User-Id", True, False),
        ("x_session_user_id", True, True),
        ("X_SESSION_USER-ID", True, True),
        ("x.session.user.id", True, True),
        ("x-session-user!id", True, True),
        ("x-session-actor_id", True, True),
        ("x-session-token", False, False),
        ("x-session-user-ids", False, False),
        ("ax-session-id", False, False),
        ("x-session-id-", False, False),
        ("cookie", False, False),
    ],
)
def test_every_spelling_that_an_upstream_may_confuse_is_found(
    name: str, is_claimed: bool, is_misspelt: bool
) -> None:
    names = ["host", name, "accept"]
    assert claimed(names) == ([name] if is_claimed else [])
    received = [each.encode() for each in names]
    assert misspelt(received) == ([name] if is_misspelt else [])


@given(
    st.sampled_from(NAMES).flatmap(
        lambda name: st.tuples(
            *(st.sampled_from("-_.!~" if each == "-" else (each, each.upper())) for each in name)
        )
    )
)
def test_no_spelling_that_cgi_folds_to_an_identity_header_is_missed(
    letters: tuple[str, ...],
) -> None:
    name = "".join(letters)
    assert name.lower().translate(CGI) in {each.translate(CGI) for each in NAMES}
    assert claimed([name]) == [name]
