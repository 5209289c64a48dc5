"""History of concurrent calls to several servers, and the check that one order of events explains it."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

OK = "OK"
NOT_LIVE = "NOT_LIVE"
UNKNOWN = "UNKNOWN"  # UNAVAILABLE: the call may have taken effect or not
SUPERSEDED_KEPT = 16  # number of superseded tokens of a session
EXPIRED_CODE = 3  # as the database writes the reason
# Longest time from a commit to its visibility, and from the time of an ending to its commit.
COMMIT_SECONDS = 0.25
ENDING_SECONDS = 1.0
# Maximum drift between two clocks of one machine.
CLOCKS_SECONDS = 0.05
# Allowed answers besides OK. Any other answer is a fault, such as an internal error. UNKNOWN is allowed because calls
# may time out on a busy machine. The history omits validations without an answer, since they prove nothing.
ANSWERS = {
    "create": {"AUTHENTICATION_TOO_OLD", UNKNOWN},
    "validate": {"REVOKED", "SIGNED_OUT", "LIMIT", "EXPIRED", "SUPERSEDED"},
    "revoke": {NOT_LIVE, UNKNOWN},
    "revoke_others": {NOT_LIVE, UNKNOWN},
    "revoke_user": {UNKNOWN},
    "sign_out": {UNKNOWN},
    "reauthenticate": {NOT_LIVE, "AUTHENTICATION_TOO_OLD", UNKNOWN},
}


@dataclass(frozen=True, slots=True)
class Call:
    """One call.

    Attributes:
        kind: Name of the operation, a key of `ANSWERS`.
        begin: Time of sending, on a clock that all calls share.
        end: Time of the answer, on the same clock.
        user_id: User of the session.
        session_id: Session of the token that the call carried, or the session that it created.
        version: Index of the token among the session's tokens; the first is 0.
        answer: OK, the reason of a rejection, or the name of an error.
        target: Session to end, if the call names one.
    """

    kind: str
    begin: float
    end: float
    user_id: str
    session_id: str
    version: int = 0
    answer: str = OK
    target: str = ""


@dataclass(frozen=True, slots=True)
class Count:
    """Number of live sessions of a user while no call was in flight."""

    user_id: str
    live: int


@dataclass(frozen=True, slots=True)
class Row:
    """A session's row in the database; times are seconds of the wall clock.

    Attributes:
        secret: The hash of its secret, in any form.
        user_epoch: The epoch of its user that it belongs to.
        last_active: When it was last used.
        expire: When its lifetime ends.
        ended: The time of its recorded ending, or None.
        reason: The code of that ending's reason, or None.
    """

    secret: str
    user_epoch: int
    last_active: float
    expire: float
    ended: float | None = None
    reason: int | None = None


@dataclass(frozen=True, slots=True)
class Change:
    """One change of one row, recorded by a trigger.

    Attributes:
        session_id: Session of the row.
        begun: Start of the transaction, by the clock of the servers.
        before: The row before it.
        after: The row after it.
        epoch: The user's epoch at that moment.
        epoch_since: When that epoch was committed; None if this transaction set it.
    """

    session_id: str
    begun: float
    before: Row
    after: Row
    epoch: int = 0
    epoch_since: float | None = None


@dataclass
class History:
    """A whole run.

    Attributes:
        limit: Maximum number of live sessions of a user.
        lifetimes: Lifetimes, in seconds, of the sessions that expire during the run.
        calls: All calls with their answers.
        counts: Live sessions per user, counted while no call was in flight.
        kept: The sessions in the database at the end.
        rows: Their rows, if the run read them.
        overdue: The sessions whose implied endings the workers had not recorded at the end.
        changes: The changes of the rows, except changes of the next check time.
        monotonic_zero: Wall-clock time at time 0 of the clock of the calls.
        resolution: Maximum delay of the recorded last activity of a live session, in seconds.
        worker_said: Number of endings that the workers reported.
        worker_did: Number of endings in the database that only workers record.
    """

    limit: int
    lifetimes: dict[str, float] = field(default_factory=dict)
    calls: list[Call] = field(default_factory=list)
    counts: list[Count] = field(default_factory=list)
    kept: set[str] = field(default_factory=set)
    rows: dict[str, Row] = field(default_factory=dict)
    overdue: set[str] = field(default_factory=set)
    changes: list[Change] = field(default_factory=list)
    monotonic_zero: float = 0.0
    resolution: float = 1.0
    worker_said: int = 0
    worker_did: int = 0


def violations(history: History) -> Iterator[str]:
    """Yield answers that no sequential order of the calls explains."""
    yield from _wrong_answers(history)
    yield from _accepted_after_ending(history)
    yield from _ended_each_other(history)
    yield from _resurrected(history)
    yield from _ended_without_cause(history)
    yield from _above_limit(history)
    yield from _done_twice_or_lost(history)
    yield from _changed_wrongly(history)
    yield from _kept_wrongly(history)
    yield from _use_not_recorded(history)


def _wrong_answers(history: History) -> Iterator[str]:
    for call in history.calls:
        if call.answer != OK and call.answer not in ANSWERS[call.kind]:
            yield f"answered wrongly: {call}"


def _accepted_after_ending(history: History) -> Iterator[str]:
    ended: dict[str, Call] = {}  # judged by the earliest answer
    for session_id, ending in _answered_endings(history):
        if session_id not in ended or ending.end < ended[session_id].end:
            ended[session_id] = ending
    replaced = {
        (call.session_id, call.version): call
        for call in history.calls
        if call.kind == "reauthenticate" and call.answer == OK
    }
    for call in filter(_proved_live, history.calls):
        for before in (
            ended.get(call.session_id),
            replaced.get((call.session_id, call.version)),
        ):
            if before is not None and call.begin > before.end:
                yield f"accepted after its ending was answered: {call} after {before}"


def _answered_endings(history: History) -> Iterator[tuple[str, Call]]:
    """Yield each session that had certainly ended when a call was answered, with that call."""
    renewals = Counter(call.session_id for call in history.calls if call.kind == "reauthenticate")
    for call in history.calls:
        if call.answer != OK:
            continue
        if call.kind == "revoke":
            yield call.target, call
        elif call.kind == "sign_out" and renewals[call.session_id] < SUPERSEDED_KEPT:
            # Any of its tokens ends the session, unless the server may have forgotten that token.
            yield call.session_id, call
        elif call.kind in {"revoke_others", "revoke_user"}:
            for creation in filter(_made, history.calls):
                meant = call.kind == "revoke_user" or creation.session_id != call.session_id
                if meant and creation.user_id == call.user_id and creation.end < call.begin:
                    yield creation.session_id, call


def _ended_each_other(history: History) -> Iterator[str]:
    """Yield pairs of sessions that ended each other. The later call should have failed, since its session had ended."""
    ends = {
        (call.session_id, ended): call
        for ended, call in _answered_endings(history)
        if call.kind in {"revoke", "revoke_others"}
    }
    for (by, ended), call in ends.items():
        if by < ended and (ended, by) in ends:
            yield f"each ended the other: {call} and {ends[ended, by]}"


def _resurrected(history: History) -> Iterator[str]:
    dead: dict[tuple[str, int], Call] = {}
    for call in sorted(history.calls, key=lambda call: call.end):
        key = call.session_id, call.version
        rejected = call.kind == "validate" and call.answer != OK
        if (rejected or call.answer == NOT_LIVE) and key not in dead:
            dead[key] = call
    for call in history.calls:
        before = dead.get((call.session_id, call.version))
        if before is not None and _proved_live(call) and call.begin > before.end:
            yield f"accepted after it was rejected: {call} after {before}"


def _ended_without_cause(history: History) -> Iterator[str]:
    first: dict[
        tuple[str, str], Call
    ] = {}  # the cause of the first rejection also explains the others
    for call in sorted(history.calls, key=lambda call: call.end):
        if call.kind == "validate" and call.answer in ANSWERS["validate"]:
            first.setdefault((call.session_id, call.answer), call)
    causes = [call for call in history.calls if call.kind != "validate"]
    for call in first.values():
        before = [
            cause for cause in causes if cause.begin < call.end and cause.user_id == call.user_id
        ]
        if not _has_cause(call, before, history):
            yield f"rejected without a cause: {call}"


def _has_cause(rejected: Call, before: list[Call], history: History) -> bool:
    own = [call for call in before if call.session_id == rejected.session_id]
    born = min((call.begin for call in own if call.kind == "create"), default=0.0)
    match rejected.answer:
        case "REVOKED":
            return any(
                (call.kind == "revoke_user" and call.end > born)
                or (call.kind == "revoke" and call.target == rejected.session_id)
                or (
                    call.kind == "revoke_others"
                    and call.session_id != rejected.session_id
                    and call.end > born
                )
                for call in before
            )
        case "SIGNED_OUT":
            return any(
                call.kind == "sign_out"
                or (call.kind == "revoke" and call.target == call.session_id)
                for call in own
            )
        case "LIMIT":
            return sum(call.kind == "create" for call in before) > history.limit
        case "SUPERSEDED":
            return any(call.kind == "reauthenticate" for call in own)
        case _:
            lifetime = history.lifetimes.get(rejected.session_id)
            # Count from its creation, since every renewal is later.
            return lifetime is not None and rejected.end >= born + lifetime


def _above_limit(history: History) -> Iterator[str]:
    for count in history.counts:
        if count.live > history.limit:
            yield f"above the limit of {history.limit}: {count}"


def _done_twice_or_lost(history: History) -> Iterator[str]:
    made = Counter(call.session_id for call in history.calls if _made(call))
    for session_id, times in made.items():
        if times > 1:
            yield f"one session made by {times} calls: {session_id}"
    for session_id in made.keys() - history.kept:
        yield f"answered and lost: {session_id}"
    # A creation without an answer may have made a session.
    unanswered = sum(call.kind == "create" and call.answer == UNKNOWN for call in history.calls)
    surplus = history.kept - made.keys()
    if len(surplus) > unanswered:
        yield f"made and not answered: {sorted(surplus)}"
    for session_id in history.overdue:
        yield f"left out by the workers: {session_id}"
    # A stopped worker may have recorded endings that it did not report.
    if history.worker_said > history.worker_did:
        yield f"workers recorded {history.worker_said} endings of {history.worker_did}"


def _changed_wrongly(history: History) -> Iterator[str]:
    for change in history.changes:
        before, after = change.before, change.after
        if before.ended is not None:
            # The user epoch of an ended session has no effect, so it may change.
            if replace(after, user_epoch=before.user_epoch) != before:
                yield f"changed after its end: {change}"
        elif after.last_active < before.last_active:
            yield f"last activity moved back: {change}"
        elif after.last_active > before.last_active and after.secret == before.secret:
            # The transaction read the time of its decisions after it had begun.
            since = change.epoch_since
            if before.expire <= change.begun:
                yield f"touched after it had expired: {change}"
            elif (
                before.user_epoch < change.epoch
                and since is not None
                and since + COMMIT_SECONDS < change.begun
            ):
                yield f"touched after it was swept: {change}"


def _kept_wrongly(history: History) -> Iterator[str]:
    for session_id, row in history.rows.items():
        if row.ended is None:
            continue
        if row.last_active > row.ended + ENDING_SECONDS:
            yield f"active after its end: {session_id} {row}"
        if row.ended > row.expire:
            yield f"ended after it had expired: {session_id} {row}"
        if row.reason == EXPIRED_CODE and row.ended != row.expire:
            yield f"expired at another time than its own: {session_id} {row}"


def _use_not_recorded(history: History) -> Iterator[str]:
    last_use: dict[str, Call] = {}
    for call in history.calls:
        if call.kind == "validate" and call.answer == OK:
            last = last_use.setdefault(call.session_id, call)
            if call.begin > last.begin:
                last_use[call.session_id] = call
    ended = {session_id for session_id, row in history.rows.items() if row.ended is not None}
    rejected = {
        call.session_id
        for call in history.calls
        if call.kind == "validate" and call.answer not in {OK, "SUPERSEDED"}
    }
    for session_id, call in last_use.items():
        row = history.rows.get(session_id)
        if row is None or session_id in ended or session_id in rejected:
            continue  # the last use before the ending may be lost
        used = history.monotonic_zero + call.begin
        if row.last_active < used - history.resolution - CLOCKS_SECONDS:
            yield f"used and not recorded: {call} {row}"


def _made(call: Call) -> bool:
    return call.kind == "create" and call.answer == OK


def _proved_live(call: Call) -> bool:
    """Return whether a call's answer proves that its token was valid."""
    return call.answer == OK and call.kind in {
        "validate",
        "revoke",
        "revoke_others",
        "reauthenticate",
    }
