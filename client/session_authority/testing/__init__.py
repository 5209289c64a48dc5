"""An authority for the tests of an app: the real server, in this process, with a clock that a test moves.

    with testing.authority(idle_timeout=timedelta(hours=1)) as authority:
        new = authority.sign_in("ada")
        authority.advance(timedelta(hours=2))
        ...  # whatever the app does now that the session is over

`testing.pytest` is a plugin with the fixture `authority`. `testing.fastapi` and `testing.django` connect an app.
All need what the server needs: `pip install 'session-authority[server]'`.
"""

from session_authority.testing._authority import Authority, authority

__all__ = ["Authority", "authority"]
