"""Every change to a row of `sessions` during a race, recorded by triggers."""

from datetime import datetime

import psycopg

from tests.integration.race_history import Change, History, Row

# Leave out the crowd: it has too many rows, and only workers change them.
_BEGIN = (
    "CREATE TABLE changes (begun timestamptz, was sessions, became sessions, epoch bigint, "
    "epoch_since timestamptz); "
    "CREATE FUNCTION note_change() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
    "INSERT INTO changes SELECT now(), OLD, NEW, epoch, pg_xact_commit_timestamp(xmin) "
    "FROM users WHERE user_id = OLD.user_id; RETURN NULL; END $$; "
    "CREATE TRIGGER note_change AFTER UPDATE ON sessions FOR EACH ROW "
    "WHEN (OLD.user_id != 'crowd' AND to_jsonb(OLD) - 'check_time' != to_jsonb(NEW) - 'check_time') "
    "EXECUTE FUNCTION note_change()"
)
_ROW = (
    "encode({0}.secret_hash, 'hex'), {0}.user_epoch, extract(epoch FROM {0}.last_active_time)::float8, "
    "extract(epoch FROM {0}.expire_time)::float8, extract(epoch FROM {0}.end_time)::float8, "
    "{0}.end_reason"
)
_CHANGES = (
    "SELECT (was).session_id::text, extract(epoch FROM begun)::float8, epoch, "
    "extract(epoch FROM epoch_since)::float8, "
    f"{_ROW.format('(was)')}, {_ROW.format('(became)')} FROM changes ORDER BY begun"
)
_ROWS = f"SELECT session_id::text, {_ROW.format('s')} FROM sessions AS s WHERE user_id != 'crowd'"
# Expired sessions that a worker has found, which it does not write to.
_PASSED = (
    "s.end_time IS NULL AND "
    "(s.check_time, s.session_id) <= (SELECT expired_until, expired_id FROM upkeep)"
)
_DONE_BY_WORKERS = (
    "SELECT count(*) FROM sessions s LEFT JOIN sweeps w ON w.user_id = s.user_id "
    "AND w.epoch = s.user_epoch + 1 WHERE s.end_reason IN (3, 4) OR s.end_time = w.sweep_time "
    f"OR {_PASSED}"
)
_OVERDUE = (
    "SELECT session_id::text FROM sessions s JOIN users USING (user_id) LEFT JOIN sweeps w "
    "ON w.user_id = s.user_id AND w.epoch = s.user_epoch + 1 WHERE end_time IS NULL "
    "AND (user_epoch < users.epoch AND w.sweep_time <= expire_time "
    f"OR expire_time <= %s AND NOT ({_PASSED}))"
)
_LEFT_TO_WORKERS = f"SELECT count(*) FROM sessions s WHERE user_id = 'crowd' AND end_time IS NULL AND NOT ({_PASSED})"


def begin(url: str) -> None:
    """Record every change from now on, except changes of the next check time."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(_BEGIN.encode())


def end(url: str, history: History, due: datetime) -> None:
    """Add the contents of the database and their changes to a history.

    Args:
        url: The address of the database.
        history: The history to add to.
        due: The workers should have handled sessions that expired by this time.
    """
    with psycopg.connect(url) as connection:
        for session_id, *row in connection.execute(_ROWS.encode()):
            history.rows[session_id] = Row(*row)
        history.kept = set(history.rows)
        for session_id, begun, epoch, since, *both in connection.execute(_CHANGES.encode()):
            before, after = Row(*both[:6]), Row(*both[6:])
            history.changes.append(Change(session_id, begun, before, after, epoch, since))
        overdue = connection.execute(_OVERDUE, (due,)).fetchall()
        history.overdue = {session_id for (session_id,) in overdue}
    _, history.worker_did = workers_left_and_did(url)


def workers_left_and_did(url: str) -> tuple[int, int]:
    """Return how many of the crowd's endings are not recorded yet, and how many endings of all users are recorded."""
    with psycopg.connect(url) as connection:
        counts = connection.execute(f"SELECT ({_LEFT_TO_WORKERS}), ({_DONE_BY_WORKERS})".encode())
        row = counts.fetchone()
    assert row is not None
    return int(row[0]), int(row[1])
