"""The OpenAPI description of the JSON API, from the protos."""

import json
from collections.abc import Iterator
from typing import Any, TypeAlias

from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor
from tools.reference.api import Api, api
from tools.reference.limits import size

from session_authority_server.rpc.methods import METHODS, SERVICES, Method

Schema: TypeAlias = dict[str, Any]

_ABOUT = """\
Every unary RPC of Session Authority as JSON over HTTP, in the form of the Connect protocol \
(https://connectrpc.com/docs/protocol). The gateway serves it on the address of its setting `json_listen`.

A field that is absent from a request has its default. A response always has the fields that are `required`."""
_WELL_KNOWN: dict[str, Schema] = {
    "google.protobuf.Timestamp": {"type": "string", "format": "date-time"},
    "google.protobuf.Duration": {
        "type": "string",
        "pattern": r"^-?[0-9]+(\.[0-9]{1,9})?s$",
        "examples": ["3600s"],
    },
}
_SCALARS: dict[int, Schema] = {
    FieldDescriptor.TYPE_STRING: {"type": "string"},
    FieldDescriptor.TYPE_BYTES: {"type": "string", "contentEncoding": "base64"},
    FieldDescriptor.TYPE_BOOL: {"type": "boolean"},
    FieldDescriptor.TYPE_INT32: {"type": "integer", "format": "int32"},
}
_ERROR: Schema = {
    "type": "object",
    "description": "An error. The page about errors lists the reasons, and what a caller does about each.",
    "required": ["code", "message"],
    "properties": {
        "code": {"type": "string", "description": "The code, for example `invalid_argument`."},
        "message": {"type": "string", "description": "What is wrong, and how to correct it."},
        "details": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["type", "value"],
                "properties": {
                    "type": {
                        "type": "string",
                        "description": "The name of the message, for example `google.rpc.ErrorInfo`.",
                    },
                    "value": {
                        "type": "string",
                        "description": "The message in the binary form of Protocol Buffers, as base64 without padding.",
                    },
                    "debug": {"type": "object", "description": "The message as JSON."},
                },
            },
        },
    },
}
_PARAMETERS: Schema = {
    "ConnectProtocolVersion": {
        "name": "Connect-Protocol-Version",
        "in": "header",
        "description": "The version of the protocol. May be absent.",
        "schema": {"const": "1"},
    },
    "ConnectTimeoutMs": {
        "name": "Connect-Timeout-Ms",
        "in": "header",
        "description": "How long the call may take, in milliseconds: at most 60000. The default is 5000.",
        "schema": {"type": "string", "pattern": "^[0-9]{1,10}$"},
    },
    "RequestId": {
        "name": "X-Request-Id",
        "in": "header",
        "description": "An id that the logs and the error contain. The default is a new one.",
        "schema": {"type": "string"},
    },
}


def document() -> str:
    """Return the description as JSON."""
    described = api()
    paths = {
        path: _path(described, method) for path, method in METHODS.items() if not method.streams
    }
    whole = {
        "openapi": "3.1.0",
        "info": {
            "title": "Session Authority",
            "version": "v1",
            "description": _ABOUT,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "http://127.0.0.1:50554"}],
        "security": [{"apiKey": []}],
        "tags": [
            {"name": each.name, "description": described.comment(each.name)}
            for each in SERVICES
            if any(not METHODS[f"/{each.full_name}/{rpc.name}"].streams for rpc in each.methods)
        ],
        "paths": paths,
        "components": {
            "securitySchemes": {
                "apiKey": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "The caller's API key, which begins with `sak_`.",
                }
            },
            "parameters": _PARAMETERS,
            "responses": {"Error": _error_response()},
            "schemas": {**dict(_schemas(described)), "Error": _ERROR},
        },
    }
    return json.dumps(whole, indent=2) + "\n"


def _error_response() -> Schema:
    headers = {
        "X-Request-Id": "The id of the request, which the authority's log contains.",
        "Retry-After": "After how many seconds to repeat the request. Absent if it would fail again.",
    }
    return {
        "description": "The call failed. The HTTP status follows from the code.",
        "headers": {
            name: {"description": text, "schema": {"type": "string"}}
            for name, text in headers.items()
        },
        "content": {"application/json": {"schema": _reference("Error")}},
    }


def _path(described: Api, method: Method) -> Schema:
    service = method.path[1:].partition("/")[0].rpartition(".")[2]
    rule = method.rule
    more = (
        f"Permission: `{rule.permission.value}`. Largest request: {size(rule.request_limit_bytes)}."
    )
    kinds = [_json(f"{method.name}{each}") for each in ("Request", "Response")]
    return {
        "post": {
            "operationId": method.name,
            "tags": [service],
            "description": f"{described.comment(method.name)}\n\n{more}",
            "parameters": [{"$ref": f"#/components/parameters/{each}"} for each in _PARAMETERS],
            "requestBody": {"required": True, "content": kinds[0]},
            "responses": {
                "200": {"description": "The call succeeded.", "content": kinds[1]},
                "default": {"$ref": "#/components/responses/Error"},
            },
        }
    }


def _json(message: str) -> Schema:
    return {"application/json": {"schema": _reference(message)}}


def _reference(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _schemas(described: Api) -> Iterator[tuple[str, Schema]]:
    """Return the schema of each message and enum that a unary RPC uses, by name."""
    requests: dict[str, Descriptor] = {}
    responses: dict[str, Descriptor] = {}
    for service in SERVICES:
        for rpc in service.methods:
            if not METHODS[f"/{service.full_name}/{rpc.name}"].streams:
                _collect(rpc.input_type, requests)
                _collect(rpc.output_type, responses)
    both = requests | responses
    enums = {
        field.enum_type.name: field.enum_type
        for kind in both.values()
        for field in kind.fields
        if field.enum_type is not None
    }
    for name, kind in sorted(both.items()):
        yield name, _message(described, kind, is_request=name in requests)
    for name, enum in sorted(enums.items()):
        yield name, _enum(described, enum)


def _collect(kind: Descriptor, found: dict[str, Descriptor]) -> None:
    """Add a message and the messages of its fields."""
    found[kind.name] = kind
    for field in kind.fields:
        other = field.message_type
        if other is not None and not _is_map(field) and other.full_name not in _WELL_KNOWN:
            _collect(other, found)


def _message(described: Api, kind: Descriptor, *, is_request: bool) -> Schema:
    comments = {each.name: described.comment(kind.name, each.name) for each in kind.fields}
    schema: Schema = {
        "type": "object",
        "description": described.comment(kind.name),
        "properties": {
            each.json_name: {**_field(each), "description": comments[each.name]}
            for each in kind.fields
        },
    }
    if is_request:
        schema["additionalProperties"] = False
        required = [each for each in kind.fields if comments[each.name].endswith("Required.")]
    else:
        required = [each for each in kind.fields if not each.has_presence]
    if required:
        schema["required"] = [each.json_name for each in required]
    alternatives = [
        {"required": [each.json_name]}
        for oneof in kind.oneofs
        if len(oneof.fields) > 1
        for each in oneof.fields
    ]
    if alternatives:
        schema["oneOf"] = alternatives
    return schema


def _field(field: FieldDescriptor) -> Schema:
    kind = field.message_type
    if kind is not None and _is_map(field):
        value = kind.fields_by_name["value"]
        return {"type": "object", "additionalProperties": _field(value)}
    if kind is not None:
        one = _WELL_KNOWN.get(kind.full_name) or _reference(kind.name)
    elif field.enum_type is not None:
        one = _reference(field.enum_type.name)
    else:
        one = _SCALARS[field.type]
    return {"type": "array", "items": one} if field.is_repeated else dict(one)


def _enum(described: Api, enum: EnumDescriptor) -> Schema:
    names = [each.name for each in enum.values]
    listed = [f"- `{name}`: {described.comment(enum.name, name)}" for name in names]
    return {
        "type": "string",
        "description": "\n".join([described.comment(enum.name), "", *listed]),
        "enum": names,
    }


def _is_map(field: FieldDescriptor) -> bool:
    return field.message_type is not None and field.message_type.GetOptions().map_entry
