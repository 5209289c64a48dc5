from collections.abc import Mapping
from pathlib import Path

import pytest

from session_authority_server.check import database_identity


@pytest.mark.parametrize(
    ("parameters", "asked"),
    [
        ({}, False),
        *(({"sslmode": mode}, False) for mode in ("disable", "allow", "prefer", "require")),
        *(({"sslmode": mode}, True) for mode in ("verify-ca", "verify-full")),
        ({"sslmode": "require", "sslrootcert": "root.crt"}, True),
        ({"sslmode": "require", "sslrootcert": "none.crt"}, False),
        (
            {"sslmode": "prefer", "sslrootcert": "root.crt"},
            False,
        ),  # libpq falls back to an unencrypted connection
        ({"channel_binding": "require"}, True),
        ({"channel_binding": "prefer"}, False),
        ({"gssencmode": "require"}, True),
        ({"gssencmode": "prefer"}, False),
    ],
)
def test_verification_is_detected_by_the_rules_of_libpq(
    parameters: Mapping[str, str], asked: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    Path("root.crt").touch()
    assert database_identity.is_server_verified(parameters) is asked


def test_a_root_certificate_in_its_usual_place_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".postgresql").mkdir()
    (tmp_path / ".postgresql" / "root.crt").touch()
    assert database_identity.is_server_verified({"sslmode": "require"})
    assert not database_identity.is_server_verified({"sslmode": "prefer"})


@pytest.mark.parametrize(
    ("address", "leaves"),
    [
        ("postgresql:///authority", False),
        ("postgresql://localhost/authority", False),
        ("postgresql://ann@127.0.0.1:5433/authority", False),
        ("postgresql://[::1]/authority", False),
        ("postgresql:///authority?host=/run/postgresql", False),
        ("postgresql://db.example.com/authority", True),
        ("postgresql://localhost,db.example.com/authority", True),
        ("postgresql://localhost/authority?hostaddr=203.0.113.7", True),
    ],
)
def test_an_address_that_may_leave_this_machine_is_detected(address: str, leaves: bool) -> None:
    assert database_identity.leaves_this_machine(database_identity.parameters_of(address)) is leaves


def test_the_environment_fills_in_what_an_address_omits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGSSLMODE", "verify-full")
    assert database_identity.is_server_verified(
        database_identity.parameters_of("postgresql://db.example.com/authority")
    )
    address = "postgresql://db.example.com/authority?sslmode=require&sslrootcert=/none"
    assert not database_identity.is_server_verified(database_identity.parameters_of(address))
