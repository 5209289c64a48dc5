"""Reads the JSON of a request into its message.

The form is the JSON of Protocol Buffers: https://protobuf.dev/programming-guides/json/
"""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, NoReturn, TypeVar

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.json_format import ParseDict, ParseError
from google.protobuf.message import Message

from session_authority_server.domain.errors import InvalidRequest, Violation
from session_authority_server.rpc.error_table import MalformedRequest

ITEMS_LIMIT = 10_000
"""How many objects a list may have. The authority's limit is lower, but a body with more would take long to read."""

# The library ignores characters that are not base64.
_BASE64 = re.compile(r"[A-Za-z0-9+/_-]*={0,2}")
# No session token and no API key has this form, so an error never repeats one.
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,39}")
_EXPECTED = {
    FieldDescriptor.TYPE_STRING: "must be a string of Unicode text",
    FieldDescriptor.TYPE_BYTES: "must be a string of base64",
    FieldDescriptor.TYPE_BOOL: "must be true or false",
    FieldDescriptor.TYPE_INT32: "must be a whole number of 32 bits",
    FieldDescriptor.TYPE_UINT64: "must be a whole number of 64 bits that is not negative",
}
_EXPECTED_MESSAGES = {
    "google.protobuf.Timestamp": 'must be a time such as "2026-01-31T12:00:00Z"',
    "google.protobuf.Duration": 'must be a number of seconds such as "3600s"',
}
_WELL_KNOWN = "google.protobuf."

_Message = TypeVar("_Message", bound=Message)


def read_json(kind: type[_Message], body: bytes) -> _Message:
    """Return the message of a JSON body.

    Raises:
        MalformedRequest: If the body is not one JSON object in UTF-8. The error says where.
        InvalidRequest: If a field is unknown or has a value of the wrong type. The error names the field.
    """
    message = kind()
    given = parse_object(body, message.DESCRIPTOR.name)
    violations = list(_fill(message, given, ""))
    if violations:
        raise InvalidRequest(violations)
    return message


def parse_object(body: bytes, expected: str) -> dict[str, Any]:
    """Return the JSON object in a body.

    Args:
        body: The body.
        expected: The name of the expected content, for the error.

    Raises:
        MalformedRequest: If the body is not one JSON object in UTF-8. The error says where.
    """
    problem = "it is no JSON object; send at least {}"
    try:
        given = json.loads(
            body.decode(), object_pairs_hook=_distinct, parse_constant=_refuse_constant
        )
    except UnicodeDecodeError as error:
        problem = f"byte {error.start + 1} is not UTF-8"
    except json.JSONDecodeError as error:
        if body:
            problem = f"it is not JSON at line {error.lineno}, column {error.colno}"
    except RecursionError:
        problem = "it is nested too deeply"
    except _NotAccepted as error:
        problem = str(error)
    except ValueError:  # Python reads at most 4,300 digits
        problem = "a number has too many digits"
    else:
        if isinstance(given, dict):
            return given
    # Outside of `except`, because the parser's error holds the body.
    raise MalformedRequest(expected, problem)


class _NotAccepted(ValueError):
    """JSON that some parsers accept and others refuse."""


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    given: dict[str, Any] = {}
    for name, value in pairs:
        if name in given:
            raise _NotAccepted(f"the name {_shown(name)} appears twice in an object")
        given[name] = value
    return given


def _refuse_constant(name: str) -> NoReturn:
    raise _NotAccepted(f"JSON has no {name}")


def _fill(message: Message, given: Mapping[str, Any], path: str) -> Iterator[Violation]:
    """Set the fields of a message. Yield a violation for each field that can't be set."""
    kind: Any = message.DESCRIPTOR
    fields = _fields(kind)
    known = ", ".join(each.name for each in kind.fields) or "none"
    present: set[str] = set()
    for name, value in given.items():
        field = fields.get(name)
        if field is None:
            problem = f"is not a field of {kind.name}, whose fields are: {known}"
            yield Violation(path + _shown(name), problem)
        elif field.name in present:
            yield Violation(path + field.name, "is given twice, in two spellings")
        elif value is None:  # the same as no field
            continue
        elif other := _alternative(field) & present:
            yield Violation(path + field.name, f"excludes {other.pop()}; give one of them")
        else:
            present.add(field.name)
            yield from _set(message, field, name, value, path + field.name)


def _set(
    message: Message, field: FieldDescriptor, name: str, value: Any, path: str
) -> Iterator[Violation]:
    kind = field.message_type
    if kind is None or kind.GetOptions().map_entry or kind.full_name.startswith(_WELL_KNOWN):
        if not _is_set(message, field, name, value):
            yield Violation(path, _expected(field))
    elif not field.is_repeated:
        if isinstance(value, dict):
            part = getattr(message, field.name)
            part.SetInParent()
            yield from _fill(part, value, f"{path}.")
        else:
            yield Violation(path, "must be an object")
    elif not isinstance(value, list):
        yield Violation(path, "must be a list of objects")
    elif len(value) > ITEMS_LIMIT:
        yield Violation(path, f"must have at most {ITEMS_LIMIT} objects")
    else:
        for index, each in enumerate(value):
            if isinstance(each, dict):
                yield from _fill(getattr(message, field.name).add(), each, f"{path}[{index}].")
            else:
                yield Violation(f"{path}[{index}]", "must be an object")


def _is_set(message: Message, field: FieldDescriptor, name: str, value: Any) -> bool:
    """Set a field that has no fields of its own. Return False if the value is not of its type."""
    if field.type == FieldDescriptor.TYPE_BYTES and not (
        isinstance(value, str) and _BASE64.fullmatch(value)
    ):
        return False
    try:
        ParseDict({name: value}, message)
    except (ParseError, ValueError, TypeError, AttributeError, OverflowError, RecursionError):
        return False
    return True


def _expected(field: FieldDescriptor) -> str:
    kind = field.message_type
    if kind is not None and kind.GetOptions().map_entry:
        return "must be an object whose values are strings"
    if kind is not None:
        expected = _EXPECTED_MESSAGES[kind.full_name]
    elif field.enum_type is not None:
        expected = f"must be a name of {field.enum_type.name}"
    else:
        expected = _EXPECTED[field.type]
    return f"must be a list, and each value {expected}" if field.is_repeated else expected


def _fields(kind: Descriptor) -> Mapping[str, FieldDescriptor]:
    """Return the fields by both of their names, such as `userId` and `user_id`."""
    return {each.json_name: each for each in kind.fields} | dict(kind.fields_by_name)


def _alternative(field: FieldDescriptor) -> set[str]:
    """Return the fields that exclude this one."""
    oneof = field.containing_oneof
    return set() if oneof is None else {each.name for each in oneof.fields} - {field.name}


def _shown(name: str) -> str:
    """Return a name from a request, in a form that is safe in an error."""
    return name if _NAME.fullmatch(name) else f"(a name of {len(name)} characters)"
