"""Fork while a client's near cache is in use. The child signs out, and both processes must notice."""

import multiprocessing
import os
import sys
import time

from session_authority import SessionClient

way, address, token = sys.argv[1:]
client = SessionClient(address, near_cache=True)


def hits() -> int:
    statistics = client.near_cache_statistics
    assert statistics is not None
    return statistics.hits


def wait_for_hit() -> None:
    """Validate until an answer comes from memory."""
    ends_at = time.monotonic() + 60
    before = hits()
    while hits() == before:
        assert client.validate(token)
        assert time.monotonic() < ends_at
        time.sleep(0.01)


def child() -> None:
    statistics = client.near_cache_statistics
    assert statistics is not None
    assert (statistics.size, statistics.hits, statistics.connected) == (0, 0, False)
    wait_for_hit()
    client.sign_out(token)
    assert not client.validate(token)
    client.close()


wait_for_hit()
if way == "fork":
    forked = os.fork()
    if forked == 0:
        child()
        os._exit(0)
    assert os.waitpid(forked, 0)[1] == 0
else:
    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    process.join()
    assert process.exitcode == 0
ends_at = time.monotonic() + 60
while client.validate(token):
    assert time.monotonic() < ends_at
client.close()
