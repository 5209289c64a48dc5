"""The number of statements of each writing call, and its single lock of the user."""

from collections.abc import Iterator
from contextlib import contextmanager

import sqlalchemy.engine
from sqlalchemy import event

from session_authority_server.domain.clock import ManualClock
from session_authority_server.domain.policy import Policy
from session_authority_server.usecases.create_session import SignIn
from session_authority_server.usecases.reauthenticate_session import Reauthentication
from tests.support.engines import START, Engine
from tests.support.usecases import UseCases

RETRY_SECRET = b"r" * 32
_OF_EVERY_TRANSACTION = ("BEGIN", "set_config", "pg_notify")


def usecases(engine: Engine) -> UseCases:
    return UseCases(engine.sessions, ManualClock(START), Policy())


@contextmanager
def statements() -> Iterator[list[str]]:
    """Collect the statements that run, except those that begin and end a transaction."""
    found: list[str] = []

    def note(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        if not any(each in statement for each in _OF_EVERY_TRANSACTION):
            found.append(statement)

    event.listen(sqlalchemy.engine.Engine, "before_cursor_execute", note)
    try:
        yield found
    finally:
        event.remove(sqlalchemy.engine.Engine, "before_cursor_execute", note)


def locks(found: list[str]) -> int:
    return sum("users.swept_time" in each and each.startswith("SELECT") for each in found)


async def test_a_sign_in_locks_its_user_once(engine: Engine) -> None:
    ask = usecases(engine)
    await ask.create(SignIn(user_id="ann"))
    with statements() as found:
        await ask.create(SignIn(user_id="ann", retry_secret=RETRY_SECRET))
    assert locks(found) == 1
    assert len(found) == 6


async def test_a_re_authentication_locks_its_user_once_and_reads_its_session_twice(
    engine: Engine,
) -> None:
    ask = usecases(engine)
    _, token = await ask.create(SignIn(user_id="ann"))
    with statements() as found:
        await ask.reauthenticate(
            Reauthentication(session_token=token.encode(), retry_secret=RETRY_SECRET)
        )
    assert locks(found) == 1
    assert len(found) == 7


async def test_a_revocation_locks_its_user_once(engine: Engine) -> None:
    ask = usecases(engine)
    session, _ = await ask.create(SignIn(user_id="ann"))
    _, token = await ask.create(SignIn(user_id="ann"))
    with statements() as found:
        await ask.revoke(token.encode(), str(session.session_id))
    assert locks(found) == 1
    assert len(found) == 5
