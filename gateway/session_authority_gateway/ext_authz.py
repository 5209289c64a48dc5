"""Envoy's `envoy.service.auth.v3.Authorization/Check`, with the same decision as forward-auth.

Every answer is a CheckResponse that allows or refuses. A gRPC error would let the request pass if the operator has set
`failure_mode_allow`.
"""

import asyncio
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

import structlog
from google.protobuf.message import DecodeError

from session_authority.web.site import Arrival
from session_authority_gateway import identity
from session_authority_gateway.decision import (
    UNAVAILABLE,
    Allowed,
    Inbound,
    Refused,
    bad_option,
)
from session_authority_gateway.envoy import external_auth_pb2 as pb
from session_authority_gateway.gate import Gate
from session_authority_gateway.identity import Headers
from session_authority_gateway.metrics import DECISIONS, EXT_AUTHZ, outcome_of
from session_authority_gateway.options import OptionError, Options, read_options
from session_authority_server.domain.api_key import Permission
from session_authority_server.domain.errors import AuthorityError
from session_authority_server.rpc import error_table
from session_authority_server.rpc.authentication import ANONYMOUS, Caller, Metadata
from session_authority_server.rpc.call_queue import Call
from session_authority_server.rpc.error_table import Answer
from session_authority_server.rpc.methods import Method, Rule
from session_authority_server.rpc.refused_calls import Origin

if TYPE_CHECKING:
    from session_authority_server.rpc.tracing import Tracing

PACKAGE = "envoy.service.auth.v3"
CHECK_LIMIT_BYTES = 256 * 1024
"""The largest CheckRequest. Envoy accepts 60 KiB of headers by default, and repeats some of them as attributes."""
CHECKS_LIMIT = 10_000
"""How many checks may wait for the authority. Further ones are answered as during an outage."""
RESPONSES_KEPT = 4096
"""How many serialized responses are kept, for further requests of the same sessions."""

_CHECK = Method(
    path=f"/{PACKAGE}.Authorization/Check",
    name="Check",
    parse=pb.CheckRequest.FromString,
    streams=False,
    batched=False,
    rule=Rule(Permission.VALIDATE, CHECK_LIMIT_BYTES),
)
_DEFAULT = Options()
_PERMISSION_DENIED = 7
_OVERWRITE = pb.HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD
_APPEND = pb.HeaderValueOption.APPEND_IF_EXISTS_OR_ADD
_TOO_LARGE = Refused(431, "request_too_large", "The headers of the request are too large.")
_MALFORMED = Refused(400, "malformed_request", "The proxy did not send an HTTP request.")
_FAILED = Refused(500, "internal", "The gateway failed; its log says why.")

_log = structlog.get_logger("session_authority.gateway")


class Checks:
    """Answers the checks that a gRPC host receives."""

    def __init__(self, gate: Gate) -> None:
        """Answer with the decisions of a gate."""
        self.unary: Sequence[Method] = (_CHECK,)
        self.tracing: Tracing | None = None
        self._gate = gate
        self._waiting = 0

    def admit(self, path: str, metadata: Metadata) -> Caller:
        """Admit every caller. A loopback address or TLS with client certificates restricts who can connect."""
        return ANONYMOUS

    def turn_away(
        self, path: str, metadata: Metadata, error: AuthorityError, origin: Origin
    ) -> Answer:
        """Return the status of an error. No check is turned away, because `admit` admits all."""
        return error_table.answer(error)

    def take(self, call: Call, payload: bytes) -> None:
        """Answer a check: at once if the near cache knows the session, or else after a call to the authority."""
        names: Sequence[str] = ()
        answer: Allowed | Refused | None
        try:
            if len(payload) > CHECK_LIMIT_BYTES:
                answer = _TOO_LARGE
            else:
                attributes = pb.CheckRequest.FromString(payload).attributes
                options = _options_of(attributes.context_extensions)
                headers = _joined(attributes.request.http)
                names = identity.claimed(headers)
                inbound = _inbound(attributes, headers)
                answer = self._gate.check_cached(inbound, options) if inbound.method else _MALFORMED
                if answer is None and self._waiting < CHECKS_LIMIT:
                    self._ask_authority(call, inbound, options, names)
                    return
        except DecodeError:
            answer = _MALFORMED
        except OptionError as error:
            _log.error("Envoy asked with an invalid option", why=str(error))
            answer = bad_option(str(error))
        except Exception as error:  # noqa: BLE001 - any failure refuses the request
            answer = _failure(error)
        _answer(call, answer or UNAVAILABLE, names)

    def _ask_authority(
        self, call: Call, inbound: Inbound, options: Options, names: Sequence[str]
    ) -> None:
        async def ask() -> None:
            try:
                answer = await self._gate.ask(inbound, options)
            except Exception as error:  # noqa: BLE001 - any failure refuses the request
                answer = _failure(error)
            _answer(call, answer, names)

        self._waiting += 1
        call.task = asyncio.get_running_loop().create_task(ask())
        call.task.add_done_callback(self._done)

    def _done(self, _task: "asyncio.Task[None]") -> None:
        self._waiting -= 1


def _failure(error: Exception) -> Refused:
    _log.error("a check failed", exc_info=error)
    return _FAILED


def _answer(call: Call, answer: Allowed | Refused, names: Sequence[str] = ()) -> None:
    DECISIONS.inc(EXT_AUTHZ, outcome_of(answer))
    if isinstance(answer, Refused):
        call.answer(_refusing(answer).SerializeToString())
    else:
        cookies = tuple(each.header() for each in answer.set_cookies)
        # A visitor chooses the names. Responses with such names would fill the memory.
        allowing = _allowing if names else _kept
        call.answer(allowing(answer.identity, tuple(names), cookies))


def _allowing(identity: Headers, names: Sequence[str], cookies: Sequence[str]) -> bytes:
    """Return the response that lets a request pass, with no identity headers but the gateway's.

    Envoy removes headers after it has set the new ones. So a name that is set must not be removed, too.
    """
    given = dict(identity)
    response = pb.CheckResponse(
        status=pb.Status(),
        ok_response=pb.OkHttpResponse(
            headers=[_header(name, value) for name, value in identity],
            headers_to_remove=[name for name in names if name not in given],
            response_headers_to_add=[_header("set-cookie", each, _APPEND) for each in cookies],
        ),
    )
    return response.SerializeToString()


_kept = lru_cache(maxsize=RESPONSES_KEPT)(_allowing)


def _refusing(answer: Refused) -> pb.CheckResponse:
    return pb.CheckResponse(
        status=pb.Status(code=_PERMISSION_DENIED),
        denied_response=pb.DeniedHttpResponse(
            status=pb.HttpStatus(code=answer.status),
            headers=[
                _header(name, value, _APPEND if name == "set-cookie" else _OVERWRITE)
                for name, value in answer.headers()
            ],
            body=answer.body().decode(),
        ),
    )


def _header(
    name: str, value: str, action: pb.HeaderValueOption.HeaderAppendAction.ValueType = _OVERWRITE
) -> pb.HeaderValueOption:
    return pb.HeaderValueOption(
        header=pb.HeaderValue(key=name, value=value.encode()),
        append_action=action,
        keep_empty_value=True,
    )


def _options_of(extensions: Mapping[str, str]) -> Options:
    return _read(tuple(sorted(extensions.items()))) if extensions else _DEFAULT


@lru_cache(maxsize=1024)
def _read(pairs: tuple[tuple[str, str], ...]) -> Options:
    return read_options(pairs)


def _joined(http: pb.AttributeContext.HttpRequest) -> dict[str, bytes]:
    """Return the headers by name. Repeated headers are joined by commas, cookies by semicolons."""
    some = http.header_map.headers
    if not some:
        return dict(http.headers)
    found = {each.key: each.raw_value or each.value for each in some}
    if len(found) < len(some):
        repeated = defaultdict(list)
        for each in some:
            repeated[each.key].append(each.raw_value or each.value)
        for name, values in repeated.items():
            found[name] = (b"; " if name == "cookie" else b", ").join(values)
    return found


def _inbound(attributes: pb.AttributeContext, headers: dict[str, bytes]) -> Inbound:
    http, peer = attributes.request.http, attributes.source.address.socket_address.address
    # Envoy appends its peer to X-Forwarded-For. `source` has the peer, so remove it there.
    earlier, _, last = headers.get("x-forwarded-for", b"").rpartition(b",")
    if last.strip() == peer.encode():
        headers["x-forwarded-for"] = earlier

    def header(name: str) -> str:
        # Web servers read the bytes of a value as Latin-1.
        value = headers.get(name)
        return value.decode("latin-1") if value else ""

    arrival = Arrival(scheme=http.scheme, host=http.host, peer=peer or None, header=header)
    return Inbound(http.method, http.path, arrival)
