"""The security documents match the code."""

import re
from pathlib import Path

import pytest

from session_authority_server.domain.token import SECRET_BYTES, SESSION_PREFIX, TOKEN_LENGTH
from session_authority_server.rpc.authentication import PERMISSIONS

ROOT = Path(__file__).parents[2]
SECURITY = (ROOT / "docs" / "understand" / "security.md").read_text()
NAMED_TESTS = re.findall(r"\[`(\w+)`\]\((?:\.\./)+(tests/[\w/]+\.py)\)", SECURITY)


def permissions_in(document: str) -> dict[str, set[str]]:
    """Return the methods of each permission in a document's table."""
    return {
        permission: set(methods.split(", "))
        for permission, methods in re.findall(
            r"^\| `(\w+)` \| ([A-Z]\w+(?:, \w+)*) \|", document, re.MULTILINE
        )
    }


def test_every_test_that_the_threat_model_names_exists() -> None:
    assert len(NAMED_TESTS) > 30
    for name, path in NAMED_TESTS:
        assert re.search(rf"^(async )?def {name}\(", (ROOT / path).read_text(), re.MULTILINE), name


def test_every_test_in_the_threat_model_is_a_link() -> None:
    assert len(re.findall(r"\btest_\w+(?!\w|\.py)", SECURITY)) == len(NAMED_TESTS)
    threats = SECURITY.partition("\n## Threats\n")[2].partition("\n## ")[0]
    rows = [line for line in threats.splitlines() if re.match(r"\| (?!attack \|)", line)]
    assert len(rows) > 15
    for row in rows:
        assert "](../../tests/" in row.split(" | ")[-1], row


@pytest.mark.parametrize("document", ["docs/understand/security.md", "docs/operate/keys.md"])
def test_the_table_of_permissions_matches_the_enforced_permissions(document: str) -> None:
    enforced: dict[str, set[str]] = {}
    for method, permission in PERMISSIONS.items():
        enforced.setdefault(permission.value, set()).add(method.rpartition("/")[2])
    assert permissions_in((ROOT / document).read_text()) == enforced


def test_the_documented_length_of_a_token_is_right() -> None:
    said = re.search(r"`(ses_)` and (\d+) characters.*a secret \((\d+) bytes", SECURITY, re.DOTALL)
    assert said
    assert said[1] == SESSION_PREFIX
    assert int(said[2]) == TOKEN_LENGTH - len(SESSION_PREFIX)
    assert int(said[3]) == SECRET_BYTES
