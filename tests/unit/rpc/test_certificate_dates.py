import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from session_authority_server.rpc.certificate_dates import validity_period
from tests.support.certificates import TestAuthority

DAY = timedelta(days=1)
SLACK = timedelta(minutes=5)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> TestAuthority:
    return TestAuthority(tmp_path_factory.mktemp("authority"))


@pytest.mark.parametrize(("expired", "until"), [(False, DAY), (True, -DAY)])
def test_a_certificate_has_the_dates_of_its_creation(
    authority: TestAuthority, expired: bool, until: timedelta
) -> None:
    pair = authority.pair(expired=expired)
    dates = validity_period(pair.certificate, pair.key)
    assert dates is not None
    assert abs(dates[0] - datetime.now(UTC)) < SLACK
    assert dates[1] - dates[0] == until


def test_a_chain_has_the_dates_of_the_servers_certificate(
    authority: TestAuthority, tmp_path: Path
) -> None:
    pair, chain = authority.pair(), tmp_path / "chain.pem"
    chain.write_bytes(pair.certificate.read_bytes() + authority.certificate.read_bytes())
    assert (
        validity_period(chain, pair.key) == validity_period(pair.certificate, pair.key) is not None
    )


def test_a_file_that_cannot_be_read_has_no_dates(
    authority: TestAuthority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = authority.pair(), authority.pair()
    assert validity_period(one.certificate, other.key) is None
    assert validity_period(tmp_path / "none", one.key) is None
    monkeypatch.setattr(ssl.SSLObject, "getpeercert", lambda _: None)
    assert validity_period(one.certificate, one.key) is None
