"""Programs in other languages use the authority: Connect's own client, curl, and the examples of the documentation."""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.rpc import error_details_pb2

from session_authority_gateway.settings import GatewaySettings
from session_authority_server.rpc.methods import SERVICES
from tests.support.code_blocks import blocks_of
from tests.support.gateway import PREFIX, gateway_running, http_address
from tests.support.json_gateway import JsonGateway, json_gateway
from tests.support.node import run_node

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
SECONDS = 120
DOCUMENTS = ["docs/start/other-languages.md", "docs/use/json.md"]
DOCUMENTED_URL = "http://127.0.0.1:50554"


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[JsonGateway]:
    with json_gateway(tmp_path_factory.mktemp("gateway")) as running:
        yield running


def program(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"NO {name} ON THIS MACHINE: nothing is known about programs that use it")
    return found


def run(*command: str | Path, gateway: JsonGateway) -> str:
    done = subprocess.run(
        command,
        env=os.environ | gateway.environment,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


def descriptors() -> bytes:
    """Return the files of the services and of the error details, as protoc describes them."""
    files = FileDescriptorSet()
    names: set[str] = set()

    def add(file: FileDescriptor) -> None:
        if file.name not in names:
            names.add(file.name)
            for each in file.dependencies:
                add(each)
            file.CopyToProto(files.file.add())

    for file in (*(service.file for service in SERVICES), error_details_pb2.DESCRIPTOR):
        add(file)
    # Python's descriptors leave these names out.
    for described in files.file:
        for message in described.message_type:
            for field in (*message.field, *(each for n in message.nested_type for each in n.field)):
                first, *more = field.name.split("_")
                field.json_name = first + "".join(each.capitalize() for each in more)
    return files.SerializeToString()


def test_the_client_of_connect_makes_calls_and_reads_errors(
    gateway: JsonGateway, tmp_path: Path
) -> None:
    files = tmp_path / "descriptors"
    files.write_bytes(descriptors())
    script = ROOT / "tests" / "node" / "connect.mjs"
    printed = run_node(script, gateway.url, files, environment=gateway.environment)
    lines = iter([json.loads(line) for line in printed.splitlines()])

    assert next(lines) == ["session", "connie", {"team": "blue"}]
    assert next(lines) == ["session", "rejection"]
    assert next(lines) == [1, 1, ""]
    wrong_id = next(lines)
    assert (wrong_id["code"], wrong_id["id"]) == ("InvalidArgument", "from-node")
    assert wrong_id["details"][0]["reason"] == "INVALID_FIELD"
    assert wrong_id["details"][1]["fieldViolations"][0]["field"] == "session_id"
    wrong_key = next(lines)
    assert wrong_key["code"] == "Unauthenticated"
    assert wrong_key["details"] == [{"reason": "API_KEY_INVALID", "domain": "session-authority"}]
    assert next(lines) == "in time"
    assert next(lines) == "bigint"
    ended = next(lines)
    assert (ended["code"], ended["details"][0]["reason"]) == ("Unauthenticated", "SESSION_NOT_LIVE")
    # A stream has another content type, so Connect's client sees the status 415.
    assert next(lines)["code"] in ("Unimplemented", "Unknown", "InvalidArgument")


@pytest.mark.parametrize("document", DOCUMENTS)
def test_the_calls_with_curl_of_the_documents_succeed(gateway: JsonGateway, document: str) -> None:
    program("curl")
    calls = [each.code for each in blocks_of(ROOT / document) if "curl " in each.code]
    assert calls
    for call in calls:
        assert DOCUMENTED_URL in call
        here = call.replace(DOCUMENTED_URL, gateway.url).replace("curl ", "curl --silent ")
        printed = run("bash", "-eu", "-c", here, gateway=gateway)
        assert "code" not in json.loads(printed)


def test_the_gateway_starts_as_the_documents_say(gateway: JsonGateway, tmp_path: Path) -> None:
    for document in DOCUMENTS:
        blocks = blocks_of(ROOT / document)
        [start] = [each.code for each in blocks if "session-authority gateway" in each.code]
        assert start == (
            f"export {PREFIX}JSON_LISTEN={DOCUMENTED_URL.removeprefix('http://')}\n"
            "session-authority gateway\n"
        )
    settings = {"JSON_LISTEN": "127.0.0.1:0"}
    with gateway_running(tmp_path, gateway.threaded.address, settings=settings) as process:
        address = process.wait_for(r" and (\S+:\d+) \(JSON\)")
        started = JsonGateway(f"http://{address}", gateway.threaded)
        assert started.sign_in("grace")["session"]["userId"] == "grace"
        # Neither port serves what belongs on the other one.
        assert started.post("/verify", {}).status_code == 404
        other = JsonGateway(f"http://{http_address(process)}", gateway.threaded)
        assert other.post("SignOut", {}).status_code == 404
        assert process.stop() == 0
    assert gateway.key not in process.stdout + process.stderr


def test_the_json_api_is_off_by_default() -> None:
    assert GatewaySettings.model_fields["json_listen"].default == ""


SHOWN = re.compile(
    r"live: ada\n"
    r"(?:.+\n)*Firefox on Linux \(this device\)\n(?:.+\n)*"
    r"no service accepts it after 20[\dT:.-]+Z\n"
    r"rejected: REJECTION_REASON_SIGNED_OUT\n"
    r"refused: (?:unauthenticated, SESSION_NOT_LIVE|UNAUTHENTICATED the session token .*)\n"
)


def test_the_php_program_of_the_documentation_runs(gateway: JsonGateway) -> None:
    # It includes authority.php of the site.
    printed = run(program("php"), EXAMPLES / "php_program.php", gateway=gateway)
    assert SHOWN.fullmatch(printed), printed


def test_the_node_program_of_the_documentation_runs(gateway: JsonGateway) -> None:
    environment = {**gateway.environment, "PROTOS": str(ROOT / "protos")}
    printed = run_node(EXAMPLES / "node" / "sessions.mjs", environment=environment)
    assert SHOWN.fullmatch(printed), printed
