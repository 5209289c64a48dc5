import base64
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from session_authority_server.domain.errors import InvalidRequest
from session_authority_server.ports.store import PageKey
from session_authority_server.usecases.page_token import PageToken, Section
from tests.support.engines import START, numbered

KEY = PageKey(START, numbered(7))
TOKEN = PageToken("ann", True, START, Section.LIVE, KEY)


@pytest.mark.parametrize("section", Section)
@pytest.mark.parametrize("after", [None, KEY])
@pytest.mark.parametrize("show_ended", [True, False])
def test_a_page_token_survives_encoding_and_decoding(
    section: Section, after: PageKey | None, show_ended: bool
) -> None:
    token = PageToken("ann", show_ended, START, section, after)
    assert PageToken.decode(token.encode(), "ann", show_ended) == token


def refused(text: str, user_id: str = "ann", show_ended: bool = True) -> bool:
    try:
        PageToken.decode(text, user_id, show_ended)
    except InvalidRequest as refusal:
        return [each.field for each in refusal.violations] == ["page_token"]
    return False


def test_a_page_token_is_valid_only_for_its_user_and_kind_of_list() -> None:
    assert refused(TOKEN.encode(), user_id="bob")
    assert refused(TOKEN.encode(), show_ended=False)


def changed(at: int, value: int) -> str:
    packed = bytearray(base64.urlsafe_b64decode(TOKEN.encode() + "=="))
    packed[at] = value
    return base64.urlsafe_b64encode(packed).decode()


@pytest.mark.parametrize(
    "text",
    [
        "x",
        "garbage",
        "é",
        "\0",
        "=" * 8,
        TOKEN.encode()[:-4],
        TOKEN.encode() + "AAAA",
        " " + TOKEN.encode(),
        changed(0, 2),  # a future version
        changed(1, 0),  # an unknown section
        changed(1, 4),
        changed(12, 0x7F),  # a time beyond the last year
        changed(12, 0x80),
        changed(12, 0xFF),
        replace(
            TOKEN, as_of=datetime.min.replace(tzinfo=UTC)
        ).encode(),  # a time before all sessions
        changed(20, 0x7F),
    ],
)
def test_garbage_is_refused(text: str) -> None:
    assert refused(text)


@given(
    st.text()
    | st.binary(min_size=44, max_size=44).map(lambda b: base64.urlsafe_b64encode(b).decode())
)
def test_any_other_text_is_refused_with_a_clear_error(text: str) -> None:
    assert refused(text)


def test_each_section_of_a_list_follows_the_previous_one() -> None:
    live = TOKEN
    used, ended = live.next_section(first_page=False), live.next_section(first_page=True)
    assert used == replace(live, section=Section.USED_SINCE, after=None)
    assert ended == replace(live, section=Section.ENDED, after=None)
    assert used.next_section(first_page=False) == ended
    assert ended.next_section(first_page=False) is None
    hidden = replace(live, show_ended=False)
    assert hidden.next_section(first_page=True) is None
    used = hidden.next_section(first_page=False)
    assert used is not None
    assert used.next_section(first_page=False) is None
