from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from session_authority_server.domain.session import Changes
from session_authority_server.store.engine import postgresql

USER_IDS = st.text(
    "a\N{LATIN SMALL LETTER E WITH ACUTE}\N{LINE SEPARATOR} ,", min_size=1, max_size=9
)
CHANGES = st.builds(Changes, st.sets(st.uuids()), st.sets(USER_IDS), st.booleans())


@given(CHANGES)
def test_a_payload_survives_encoding_and_decoding(changes: Changes) -> None:
    read = Changes()
    for payload in postgresql.payloads(changes):
        read.add(postgresql.read_payload(payload))
    assert read == (Changes(everybody=True) if changes.everybody else changes)


def test_no_payload_is_larger_than_postgresql_accepts() -> None:
    changes = Changes(
        {UUID(int=number) for number in range(1_000)},
        {f"{number:03}" + "\N{EURO SIGN}" * 84 for number in range(500)},
    )
    sent = list(postgresql.payloads(changes))
    assert max(len(payload.encode()) for payload in sent) < 8_000
    assert len(sent) < 25


def test_no_changes_make_no_payload() -> None:
    assert list(postgresql.payloads(Changes())) == []


@pytest.mark.parametrize("payload", ["", "z", "s\nnone", "x\n1", "a"])
def test_an_unreadable_payload_counts_as_a_change_of_every_session(payload: str) -> None:
    assert postgresql.read_payload(payload) == Changes(everybody=True)
