import pytest

from session_authority.web.exchange import FIELDS_LIMIT, fields, is_form


def test_the_last_value_of_a_field_counts() -> None:
    assert fields("a=1&b=%C3%A9+x&a=2&c=&d") == {"a": "2", "b": "é x", "c": "", "d": ""}


def test_a_form_with_too_many_fields_is_empty() -> None:
    assert len(fields("&".join(f"f{number}=1" for number in range(FIELDS_LIMIT)))) == FIELDS_LIMIT
    assert fields("&".join(f"f{number}=1" for number in range(FIELDS_LIMIT + 1))) == {}


def test_bytes_that_are_not_utf_8_are_replaced() -> None:
    assert fields("a=%FF") == {"a": "\N{REPLACEMENT CHARACTER}"}


@pytest.mark.parametrize(
    ("content_type", "form"),
    [
        ("application/x-www-form-urlencoded", True),
        ("Application/X-WWW-Form-Urlencoded; charset=utf-8", True),
        ("application/json", False),
        ("text/plain", False),
        ("", False),
    ],
)
def test_only_a_url_encoded_form_is_parsed(content_type: str, form: bool) -> None:
    assert is_form(content_type) is form
