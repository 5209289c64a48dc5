import re
import subprocess
import sys
from pathlib import Path

import pytest

import session_authority
from session_authority import testing

ROOT = Path(__file__).parents[2]


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
        "EndSubscription",
        "EventRejected",
        "FieldViolation",
        "Identity",
        "ImpersonationForbidden",
        "InitiatingEntity",
        "InternalError",
        "InvalidArgument",
        "Location",
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


def test_the_public_names_for_tests_are_these() -> None:
    assert testing.__all__ == ["Authority", "authority"]


def test_importing_the_client_imports_no_server_module() -> None:
    script = "import sys, session_authority; print(*sys.modules)"
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True, text=True)
    loaded = {name.partition(".")[0] for name in ran.stdout.split()}
    assert "session_authority" in loaded
    assert not loaded & {
        "alembic",
        "babel",
        "django",
        "fastapi",
        "jinja2",
        "pydantic",
        "session_authority_gateway",
        "session_authority_server",
        "session_authority_workers",
        "sqlalchemy",
        "starlette",
        "structlog",
    }


@pytest.mark.parametrize(
    ("module", "missing", "extra"),
    [
        ("session_authority.web.fastapi", "fastapi", "fastapi"),
        ("session_authority.web.fastapi", "starlette", "fastapi"),
        ("session_authority.web.django", "django", "django"),
        ("session_authority.web.django.middleware", "django", "django"),
    ],
)
def test_an_error_about_a_missing_framework_names_its_extra(
    module: str, missing: str, extra: str
) -> None:
    script = f"import sys; sys.modules[{missing!r}] = None; import {module}"
    ran = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, check=False, text=True
    )
    assert f"ImportError: {'.'.join(module.split('.')[:3])} needs " in ran.stderr
    assert f"install session-authority with its extra `{extra}`" in ran.stderr


@pytest.mark.parametrize("missing", ["jwt", "httpx"])
def test_an_error_about_a_package_for_sign_outs_of_providers_names_its_extra(missing: str) -> None:
    script = (
        f"import sys; sys.modules[{missing!r}] = None; import session_authority.backchannel.driver"
    )
    ran = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, check=False, text=True
    )
    assert "ImportError: session_authority.backchannel needs " in ran.stderr
    assert "install session-authority with its extra `backchannel`" in ran.stderr


def test_the_grpc_interceptors_need_no_extra() -> None:
    blocked = "".join(
        f"sys.modules[{name!r}] = None; " for name in ("fastapi", "starlette", "django", "jinja2")
    )
    script = f"import sys; {blocked}import session_authority.grpc, session_authority.web.visit"
    subprocess.run([sys.executable, "-c", script], check=True)


def test_the_server_imports_no_private_module_of_the_client() -> None:
    private = re.compile(r"\b(from|import) session_authority(\.\w+)*(\._| import _)")
    for package in ("server", "workers"):
        for path in (ROOT / package).rglob("*.py"):
            assert not private.search(path.read_text()), path
