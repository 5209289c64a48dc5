"""An authority for an app's tests: the real server, in this process, with a clock that the tests control.

    with testing.authority(idle_timeout=timedelta(hours=1)) as authority:
        new = authority.sign_in("ada")
        authority.advance(timedelta(hours=2))
        ...  # check what the app does after the session's end

`testing.pytest` is a plugin with the fixture `authority`. `testing.fastapi` and `testing.django` connect an app.
All of them need the extra `server`, which installs the server's dependencies.
"""

from session_authority.testing._authority import Authority, authority

__all__ = ["Authority", "authority"]
