import subprocess
import sys

from session_authority_server.domain.errors import (
    ApiKeyMissing,
    AuthorityError,
    ClockWrong,
    SessionNotLive,
)


def test_the_message_of_an_error_is_its_docstring() -> None:
    assert (
        str(SessionNotLive())
        == "the session token does not belong to a live session; the user must sign in"
    )
    assert str(ApiKeyMissing()) == (
        "the call carries no API key; send it as the metadata authorization: Bearer sak_... "
        "(`session-authority keys create` makes one)"
    )


def test_an_error_can_have_a_more_precise_message() -> None:
    error: AuthorityError = ClockWrong("the machine's clock is 5 s ahead")
    assert str(error) == "the machine's clock is 5 s ahead"


def test_an_error_has_a_message_even_without_docstrings() -> None:
    errors = "SessionNotLive(), ApiKeyMissing(), StoreUnavailable('reading')"
    program = (
        f"from session_authority_server.domain.errors import *; print(*({errors}), sep=chr(10))"
    )
    said = subprocess.run(
        [sys.executable, "-OO", "-c", program], capture_output=True, text=True, check=True
    )
    assert said.stdout.splitlines() == [
        "session not live",
        "api key missing",
        "the store is not available for reading; try again",
    ]
