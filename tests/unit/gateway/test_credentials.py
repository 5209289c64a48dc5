from collections.abc import Mapping

import pytest

from session_authority_gateway.credentials import token_of_headers


@pytest.mark.parametrize(
    ("headers", "token"),
    [
        ({}, None),
        ({"cookie": "__Host-auth_session=ses_1"}, None),
        ({"x-session-token": "ses_1"}, "ses_1"),
        ({"x-session-token": "rubbish"}, "rubbish"),
        ({"authorization": "Bearer ses_1"}, "ses_1"),
        ({"authorization": "bearer  ses_1 "}, "ses_1"),
        ({"authorization": "Bearer eyJhbGciOi"}, None),
        ({"authorization": "Bearer "}, None),
        ({"authorization": "Basic ses_1"}, None),
        ({"authorization": "ses_1"}, None),
        ({"x-session-token": "ses_1", "authorization": "Bearer ses_2"}, "ses_1"),
        ({"x-session-token": "", "authorization": "Bearer ses_2"}, "ses_2"),
    ],
)
def test_the_token_of_a_programs_headers(headers: Mapping[str, str], token: str | None) -> None:
    assert token_of_headers(lambda name: headers.get(name, "")) == token
