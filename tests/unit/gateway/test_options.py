from datetime import timedelta

import pytest

from session_authority_gateway.options import OptionError, Options, read_options


@pytest.mark.parametrize(
    ("given", "options"),
    [
        ([], Options()),
        ([("session", "required")], Options()),
        ([("session", "optional")], Options(required=False)),
        ([("max_age", "15m")], Options(max_age=timedelta(minutes=15))),
        ([("methods", "mfa")], Options(methods=frozenset(("mfa",)))),
        (
            [("session", "required"), ("max_age", "12h"), ("methods", "mfa,hwk")],
            Options(True, timedelta(hours=12), frozenset(("mfa", "hwk"))),
        ),
    ],
)
def test_options_are_read(given: list[tuple[str, str]], options: Options) -> None:
    assert read_options(given) == options


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ([("sesion", "optional")], "'sesion' is not an option; did you mean session?"),
        ([("colour", "red")], "the options are session, max_age, methods"),
        ([("session", "required"), ("session", "optional")], "session is given twice"),
        ([("session", "maybe")], "must be required or optional, not 'maybe'"),
        ([("session", "")], "must be required or optional, not ''"),
        ([("session", "optional"), ("max_age", "15m")], "need session=required"),
        ([("session", "optional"), ("methods", "mfa")], "need session=required"),
        ([("max_age", "")], "max_age must be a duration"),
        ([("max_age", "15")], "max_age must be a duration"),
        ([("max_age", "0s")], "max_age must be a duration"),
        ([("max_age", "-1m")], "max_age must be a duration"),
        ([("methods", "")], "methods must list names"),
        ([("methods", "mfa, hwk")], "methods must list names"),
        ([("methods", "mfa,")], "methods must list names"),
        ([("methods", "é")], "methods must list names"),
    ],
)
def test_an_invalid_option_is_named(given: list[tuple[str, str]], problem: str) -> None:
    with pytest.raises(OptionError, match=r".") as refused:
        read_options(given)
    assert problem in str(refused.value)


def test_a_long_option_makes_no_long_message() -> None:
    for given in ([("x" * 10_000, "")], [("session", "x" * 10_000)], [("methods", " " * 10_000)]):
        with pytest.raises(OptionError) as refused:
            read_options(given)
        assert len(str(refused.value)) < 300
