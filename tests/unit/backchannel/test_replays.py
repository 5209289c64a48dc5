import pytest

from session_authority.backchannel import replays
from session_authority.backchannel.replays import Replays


def test_a_token_is_remembered_by_issuer_and_id() -> None:
    done = Replays()
    done.remember("https://a.example", "1", until=100, now=0)
    assert done.contains("https://a.example", "1")
    assert not done.contains("https://a.example", "2")
    assert not done.contains("https://b.example", "1")
    assert not done.contains("https://a.example\0", "1")


def test_tokens_that_are_no_longer_accepted_are_forgotten() -> None:
    done = Replays()
    for number in range(10):
        done.remember("a", str(number), until=100, now=0)
    for number in range(10, 30):
        done.remember("a", str(number), until=300, now=200)
    assert len(done) == 20
    assert not done.contains("a", "0")
    assert done.contains("a", "29")


def test_the_oldest_is_forgotten_beyond_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replays, "REMEMBERED_LIMIT", 3)
    done = Replays()
    for number in range(5):
        done.remember("a", str(number), until=100, now=0)
    assert [done.contains("a", str(number)) for number in range(5)] == [
        False,
        False,
        True,
        True,
        True,
    ]
