import subprocess
import sys
from pathlib import Path

from mypy import api

import session_authority

ROOT = Path(__file__).parents[2]


def test_a_type_checker_sees_what_is_promised() -> None:
    output, errors, status = api.run(
        [
            "--config-file",
            str(ROOT / "pyproject.toml"),
            "--cache-dir",
            str(ROOT / ".mypy_cache" / "public_api"),
            "--follow-imports",
            "silent",
            str(Path(__file__).with_name("public_api.py")),
        ]
    )
    assert status == 0, output + errors


def test_the_public_names_are_these() -> None:
    assert session_authority.__all__ == [
        "SESSION_TOKEN_METADATA_KEY",
        "ApiKeyRejected",
        "AsyncSessionClient",
        "AuthenticationTooOld",
        "CallerRejected",
        "ClientClosed",
        "ConfigurationError",
        "DeadlineExceeded",
        "Device",
        "DeviceType",
        "EndReason",
        "FieldViolation",
        "ImpersonationForbidden",
        "InitiatingEntity",
        "InternalError",
        "InvalidArgument",
        "NearCache",
        "NearCacheStatistics",
        "NewSession",
        "PermissionMissing",
        "ReauthenticationRequired",
        "Rejection",
        "RejectionReason",
        "RequestTooLarge",
        "RetryMismatch",
        "RetryStale",
        "RevokedSession",
        "Session",
        "SessionAuthorityError",
        "SessionClient",
        "SessionLimitReached",
        "SessionNotFound",
        "SessionNotLive",
        "SessionState",
        "SessionToken",
        "Unavailable",
        "ValidationRequest",
    ]
    for name in session_authority.__all__:
        assert hasattr(session_authority, name)
    assert session_authority.SESSION_TOKEN_METADATA_KEY == "x-session-token"


def test_the_import_brings_nothing_of_the_server() -> None:
    script = "import sys, session_authority; print(*sys.modules)"
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True, text=True)
    loaded = {name.partition(".")[0] for name in ran.stdout.split()}
    assert "session_authority" in loaded
    assert not loaded & {
        "alembic",
        "pydantic",
        "session_authority_server",
        "session_authority_workers",
        "sqlalchemy",
        "structlog",
    }
