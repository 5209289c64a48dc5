from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from session_authority_server.domain.duration import format_duration, parse_duration


@pytest.mark.parametrize(
    ("text", "length"),
    [
        ("90d", timedelta(days=90)),
        ("15m", timedelta(minutes=15)),
        ("1h30m", timedelta(hours=1, minutes=30)),
        ("1d2h3m4s5ms", timedelta(days=1, hours=2, minutes=3, seconds=4, milliseconds=5)),
        ("500ms", timedelta(milliseconds=500)),
        ("1.5h", timedelta(minutes=90)),
        ("0s", timedelta()),
        ("999999999s", timedelta(seconds=999_999_999)),
        ("99999999d999999999h", timedelta(days=99_999_999, hours=999_999_999)),
        *((text, None) for text in ("", "90", "d", "m30", "30m1h", "1h1h", "-1h", "1 h", "1w")),
        *(
            (text, None)
            for text in ("1H", "1.h", "\u0661h", "1h\n", "1e3s", "1234567890s", "100000000d")
        ),
        *((text, None) for text in ("999999999.5d24h", "999999999.999999999d")),
    ],
)
def test_a_duration_lists_its_units_from_the_longest(text: str, length: timedelta | None) -> None:
    assert parse_duration(text) == length


@given(st.integers(0, 10**14).map(lambda count: timedelta(milliseconds=count)))
def test_a_duration_is_read_as_it_was_written(length: timedelta) -> None:
    assert parse_duration(format_duration(length)) == length
