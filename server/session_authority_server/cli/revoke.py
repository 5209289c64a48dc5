import os
import sys
from datetime import UTC, datetime

import click
from google.protobuf.timestamp_pb2 import Timestamp

from session_authority.admin import AdminCall, admin_calls
from session_authority.errors import SessionAuthorityError
from session_authority.v1 import session_admin_service_pb2 as pb
from session_authority_server.app import development_key
from session_authority_server.cli.shared import settings_of


@click.command()
@click.option("--user", "user_id", help="Revoke all sessions of this user.")
@click.option("--all", "everybody", is_flag=True, help="Revoke all sessions of all users.")
@click.option("--session", "session_id", help="Revoke the session with this id.")
@click.option(
    "--token",
    "token",
    help="Revoke the session of a token. Give -, and the token on standard input.",
)
@click.option(
    "--identity",
    "issuer",
    help="Revoke the sessions of a user or session of this identity provider. Needs --subject or --sid.",
)
@click.option("--subject", help="With --identity: the user at the provider.")
@click.option("--sid", help="With --identity: the session at the provider.")
@click.option("--created-by-key", "key_id", help="Revoke all sessions that this API key created.")
@click.option(
    "--since",
    help="With --created-by-key: only sessions created since this time, such as 2026-01-15T12:00:00Z.",
)
@click.option("--reason", default="", help="The reason, for the history; at most 256 bytes.")
@click.option("--yes", is_flag=True, help="With --all: don't ask for confirmation.")
@click.pass_context
def revoke(
    context: click.Context,
    user_id: str | None,
    everybody: bool,
    session_id: str | None,
    token: str | None,
    key_id: str | None,
    issuer: str | None,
    subject: str | None,
    sid: str | None,
    since: str | None,
    reason: str,
    yes: bool,
) -> None:
    """Revoke sessions as an operator. The output doesn't reveal whether a session existed.

    Calls the server at SESSION_AUTHORITY_ADDRESS with the key in SESSION_AUTHORITY_API_KEY, as apps do. If that
    variable is not set, uses the development key of the database.
    """
    targets = (user_id, session_id, token, key_id, issuer)
    if sum(each is not None for each in targets) + everybody != 1:
        raise click.UsageError(
            "give exactly one of --user, --all, --session, --token, --identity and --created-by-key"
        )
    _check_identity(issuer, subject, sid)
    if since is not None and key_id is None:
        raise click.UsageError("--since needs --created-by-key")
    if token not in (None, "-"):
        # A token on a command line appears in the shell's history and in the list of processes.
        raise click.UsageError("give --token -, and the token on standard input")
    begin = None if since is None else _moment(since)
    if everybody and not yes:
        click.confirm("This signs all users out on all devices. Continue?", abort=True)
    try:
        with admin_calls(_environment(context)) as ask:
            if user_id is not None:
                by_user = pb.RevokeUserSessionsRequest(user_id=user_id, reason=reason)
                effective_time = ask("RevokeUserSessions", by_user).effective_time
            elif everybody:
                by_all = pb.RevokeAllSessionsRequest(reason=reason)
                effective_time = ask("RevokeAllSessions", by_all).effective_time
            elif issuer is not None:
                effective_time = _of_identity(ask, issuer, subject, sid, reason)
            elif key_id is not None:
                effective_time = _created_by_key(ask, key_id, begin, reason)
            else:
                effective_time = _one(ask, session_id, reason)
    except SessionAuthorityError as error:
        raise click.ClickException(str(error)) from None
    click.echo(f"Revoked. No service accepts these sessions after {_shown(effective_time)}.")


def _environment(context: click.Context) -> dict[str, str]:
    key = development_key.presented_by(settings_of(context), os.environ)
    return {**os.environ, development_key.VARIABLE: key or ""}


def _one(ask: AdminCall, session_id: str | None, reason: str) -> Timestamp:
    request = pb.RevokeOneSessionRequest(reason=reason)
    if session_id is not None:
        request.session_id = session_id
    else:
        request.session_token = sys.stdin.readline().strip()
    effective_time: Timestamp = ask("RevokeOneSession", request).effective_time
    return effective_time


def _check_identity(issuer: str | None, subject: str | None, sid: str | None) -> None:
    if (issuer is None) != (subject is None and sid is None):
        raise click.UsageError("--identity needs --subject or --sid, and these need --identity")


def _of_identity(
    ask: AdminCall, issuer: str, subject: str | None, sid: str | None, reason: str
) -> Timestamp:
    request = pb.RevokeIdentitySessionsRequest(
        issuer=issuer, subject=subject or "", sid=sid or "", reason=reason
    )
    effective_time: Timestamp = ask("RevokeIdentitySessions", request).effective_time
    return effective_time


def _created_by_key(ask: AdminCall, key_id: str, since: datetime | None, reason: str) -> Timestamp:
    request = pb.RevokeKeySessionsRequest(created_by_key=key_id, reason=reason)
    if since is not None:
        request.since.FromDatetime(since)
    while True:
        done: pb.RevokeKeySessionsResponse = ask("RevokeKeySessions", request)
        if done.complete:
            return done.effective_time
        click.echo(f"done for sessions created before {_shown(done.resume_time)}", err=True)
        request.since.CopyFrom(done.resume_time)


def _moment(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise click.BadParameter(
            "give a time with its time zone, such as 2026-01-15T12:00:00Z",
            param_hint="--since",
        )
    return moment


def _shown(message: Timestamp) -> str:
    return message.ToDatetime(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
