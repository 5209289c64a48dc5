"""Validates before a fork, in each of two children, and in the parent after each; in one thread."""

import os
import sys

from session_authority import SessionClient

address, token = sys.argv[1:]
client = SessionClient(address)
assert client.validate(token)
for _ in range(2):
    child = os.fork()
    if child == 0:
        with client:
            os._exit(0 if client.validate(token) else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert client.validate(token)
client.close()
