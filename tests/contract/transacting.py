"""Small transactions that several contract tests share."""

from session_authority_server.domain.session import (
    Ending,
    EndReason,
    InitiatingEntity,
    Session,
)
from session_authority_server.ports.store import Transaction
from tests.support.engines import (
    SECOND,
    START,
    Engine,
)

REVOKED = Ending(START + SECOND, EndReason.REVOKED, InitiatingEntity.USER)


async def end(engine: Engine, session: Session, ending: Ending = REVOKED) -> bool:
    async def work(transaction: Transaction) -> bool:
        return await transaction.end_session(session.session_id, ending)

    return await engine.sessions.transact(work)
