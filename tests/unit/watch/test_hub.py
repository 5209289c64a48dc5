from uuid import UUID

import pytest

from session_authority_server.domain.errors import ApiKeyRevoked
from session_authority_server.domain.session import Changes
from session_authority_server.watch import hub as hub_module
from session_authority_server.watch.hub import (
    GROUP_LIMIT,
    NAMES_LIMIT,
    SILENCE_SECONDS,
    STREAMS_LIMIT,
    Hub,
)
from session_authority_server.watch.stream import (
    QUEUE_LIMIT,
    Cause,
    Stream,
    TooManyStreams,
    WatchInterrupted,
)

ONE, OTHER = Changes({UUID(int=1)}), Changes(user_ids={"ann"})


class SlowChannel:
    """A channel whose probes return when the test decides."""

    def __init__(self) -> None:
        self.probes: list[int] = []

    def probe(self, number: int) -> None:
        self.probes.append(number)

    async def run(self, receiver: object) -> None:
        raise NotImplementedError


class Setting:
    def __init__(self) -> None:
        self.now = 100.0
        self.encoded = 0
        self.channel = SlowChannel()
        self.hub = Hub(
            self.channel, self._changes, lambda ping_id: b"pong %d" % ping_id, lambda: self.now
        )
        self.hub.up()

    def _changes(self, changes: Changes) -> bytes:
        self.encoded += 1
        names = sorted([*map(str, (each.int for each in changes.session_ids)), *changes.user_ids])
        return " ".join(["evict", *names, *(["all"] if changes.everybody else [])]).encode()

    def comes_back(self) -> None:
        self.hub.returned(self.channel.probes[-1])


@pytest.fixture
async def setting() -> Setting:
    return Setting()


async def said(stream: Stream) -> list[bytes]:
    """Return the messages to a stream since the last call."""
    stream.put(b"end")
    found = []
    while (message := await stream.take()) != b"end":
        assert message is not None
        found.append(message)
    return found


def cause(stream: Stream) -> Cause | None:
    if not stream.ended.done():
        return None
    error = stream.ended.result()
    assert isinstance(error, WatchInterrupted)
    return error.cause


async def test_the_changes_of_a_tick_are_one_message_encoded_once_for_all_streams(
    setting: Setting,
) -> None:
    streams = [setting.hub.join() for _ in range(3)]
    setting.hub.changed(ONE)
    setting.hub.changed(OTHER)
    setting.hub.tick()
    for stream in streams:
        assert await said(stream) == [b"evict 1 ann"]
    assert setting.encoded == 1


async def test_a_tick_without_changes_sends_nothing(setting: Setting) -> None:
    stream = setting.hub.join()
    setting.hub.tick()
    assert await said(stream) == []


async def test_a_new_stream_gets_no_earlier_changes(setting: Setting) -> None:
    setting.hub.changed(ONE)
    stream = setting.hub.join()
    setting.hub.tick()
    assert await said(stream) == []


async def test_a_pong_is_sent_only_after_a_probe_sent_after_its_ping_has_returned(
    setting: Setting,
) -> None:
    early, late = setting.hub.join(), setting.hub.join()
    setting.hub.pinged(early, 1)
    setting.hub.tick()
    setting.hub.pinged(late, 2)  # after the probe was sent
    setting.hub.tick()
    assert len(setting.channel.probes) == 1
    assert await said(early) == []

    setting.comes_back()
    setting.hub.tick()
    assert await said(early) == [b"pong 1"]
    assert await said(late) == []

    setting.comes_back()
    setting.hub.tick()
    assert await said(late) == [b"pong 2"]


async def test_changes_that_came_before_a_probe_precede_the_pong(setting: Setting) -> None:
    stream = setting.hub.join()
    setting.hub.pinged(stream, 1)
    setting.hub.tick()
    setting.hub.changed(ONE)
    setting.comes_back()
    setting.hub.changed(OTHER)
    setting.hub.tick()
    assert await said(stream) == [b"evict 1 ann", b"pong 1"]


async def test_only_the_last_of_several_pings_is_answered(setting: Setting) -> None:
    stream = setting.hub.join()
    for ping_id in (1, 2, 3):
        setting.hub.pinged(stream, ping_id)
    setting.hub.tick()
    setting.comes_back()
    setting.hub.tick()
    assert await said(stream) == [b"pong 3"]


async def test_losing_the_channel_ends_every_stream_and_drops_its_pings(setting: Setting) -> None:
    stream = setting.hub.join()
    setting.hub.pinged(stream, 1)
    setting.hub.tick()
    [lost] = setting.channel.probes
    setting.hub.lost()
    assert cause(stream) is Cause.CHANNEL_LOST
    assert setting.hub.streams == ()
    setting.hub.leave(stream)

    another = setting.hub.join()
    setting.hub.pinged(another, 2)
    setting.hub.tick()
    assert setting.channel.probes == [lost]  # no probe is sent while the channel is down
    setting.hub.up()
    setting.hub.tick()
    setting.hub.returned(lost)  # a probe of the lost channel
    setting.hub.tick()
    assert await said(another) == []
    setting.comes_back()
    setting.hub.tick()
    assert await said(another) == [b"pong 2"]


async def test_a_stream_that_is_not_read_is_ended_and_skips_no_change(
    setting: Setting,
) -> None:
    slow, quick = setting.hub.join(), setting.hub.join()
    for number in range(QUEUE_LIMIT + 1):
        assert cause(slow) is None
        setting.hub.changed(Changes({UUID(int=number)}))
        setting.hub.tick()
        assert await said(quick) == [b"evict %d" % number]
    assert cause(slow) is Cause.SLOW
    assert setting.hub.streams == (quick,)


async def test_the_number_of_streams_is_limited(setting: Setting) -> None:
    streams = [setting.hub.join() for _ in range(STREAMS_LIMIT)]
    with pytest.raises(TooManyStreams):
        setting.hub.join()
    # An ended stream counts until its caller has disconnected.
    setting.hub.end(streams[0], ApiKeyRevoked())
    with pytest.raises(TooManyStreams):
        setting.hub.join()
    setting.hub.leave(streams[0])
    setting.hub.join()


async def test_many_streams_get_every_change_in_groups(setting: Setting) -> None:
    streams = [setting.hub.join() for _ in range(2 * GROUP_LIMIT + 1)]
    heard: dict[Stream, list[bytes]] = {stream: [] for stream in streams}
    setting.hub.pinged(streams[-1], 7)
    setting.hub.tick()
    setting.hub.changed(ONE)
    setting.comes_back()
    served = []
    for _ in range(3):
        setting.hub.tick()
        for stream in streams:
            heard[stream] += await said(stream)
        served.append(sum(map(bool, heard.values())))
    assert served[0] <= GROUP_LIMIT
    assert served[1] <= 2 * GROUP_LIMIT
    assert all(heard[stream] == [b"evict 1"] for stream in streams[:-1])
    assert heard[streams[-1]] == [b"evict 1", b"pong 7"]


async def test_a_change_between_two_groups_is_sent_to_every_stream_once(
    setting: Setting,
) -> None:
    streams = [setting.hub.join() for _ in range(2 * GROUP_LIMIT)]
    setting.hub.changed(ONE)
    setting.hub.tick()
    setting.hub.changed(OTHER)
    for _ in range(3):
        setting.hub.tick()
    for stream in streams:
        words = b" ".join(await said(stream)).split()
        assert sorted(set(words) - {b"evict"}) == [b"1", b"ann"]
        assert words.count(b"1") == words.count(b"ann") == 1


async def test_small_groups_are_served_in_one_tick(setting: Setting) -> None:
    streams = [setting.hub.join() for _ in range(2 * GROUP_LIMIT)]
    for stream in streams[1:-1]:
        setting.hub.leave(stream)
    setting.hub.changed(ONE)
    setting.hub.tick()
    assert await said(streams[0]) == await said(streams[-1]) == [b"evict 1"]


async def test_too_many_changes_are_sent_as_a_change_of_every_session(setting: Setting) -> None:
    stream = setting.hub.join()
    setting.hub.changed(Changes({UUID(int=number) for number in range(NAMES_LIMIT + 1)}))
    setting.hub.tick()
    assert await said(stream) == [b"evict all"]


async def test_a_stream_that_sends_no_pings_for_long_is_ended(setting: Setting) -> None:
    silent, speaking = setting.hub.join(), setting.hub.join()
    setting.now += SILENCE_SECONDS / 2
    setting.hub.pinged(speaking, 1)
    setting.now += SILENCE_SECONDS / 2
    setting.hub.end_silent()
    assert cause(silent) is Cause.SILENT
    assert cause(speaking) is None


async def test_a_draining_server_ends_streams_and_accepts_no_more(setting: Setting) -> None:
    stream = setting.hub.join()
    setting.hub.drain()
    assert cause(stream) is Cause.DRAINING
    with pytest.raises(WatchInterrupted):
        setting.hub.join()


async def test_a_ping_of_an_ended_stream_is_not_answered(setting: Setting) -> None:
    stream = setting.hub.join()
    setting.hub.pinged(stream, 1)
    setting.hub.tick()
    setting.hub.end(stream, ApiKeyRevoked())
    setting.hub.pinged(stream, 2)
    setting.comes_back()
    setting.hub.tick()
    assert isinstance(stream.ended.result(), ApiKeyRevoked)
    assert len(setting.channel.probes) == 1


async def test_a_change_that_cannot_be_encoded_ends_the_streams(
    setting: Setting, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import asyncio

    monkeypatch.setattr(hub_module, "TICK_SECONDS", 0.001)
    stream = setting.hub.join()
    setting.hub._encode_changes = lambda _: bytes(-1)
    running = asyncio.create_task(setting.hub.run())
    setting.hub.changed(ONE)
    async with asyncio.timeout(60):
        await stream.ended
    assert cause(stream) is Cause.CHANNEL_LOST
    # Other streams continue.
    setting.hub._encode_changes = lambda _: b"evict"
    another = setting.hub.join()
    setting.hub.changed(ONE)
    async with asyncio.timeout(60):
        assert await another.take() == b"evict"
    running.cancel()
    assert "could not be sent" in caplog.text
