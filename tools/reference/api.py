"""The page about the API, from the protos."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
    MethodDescriptorProto,
)
from tools.reference.limits import size
from tools.reference.markdown import one_line

from session_authority_server.rpc.methods import METHODS, SERVICES, Method

ROOT = Path(__file__).parents[2]


class Comments:
    """The comments of a proto file."""

    def __init__(self, file: FileDescriptorProto) -> None:
        """Read the comments of a file that has source information."""
        self._by_path = {
            tuple(each.path): each.leading_comments for each in file.source_code_info.location
        }

    def paragraphs(self, *path: int) -> list[str]:
        """Return the comment on a declaration, which a path of field numbers and indexes names."""
        items = (each.split("\n - ") for each in self._by_path[path].split("\n\n"))
        return ["\n- ".join(map(one_line, each)) for each in items]


class Api:
    """The protos, described for readers."""

    def __init__(self, files: FileDescriptorSet) -> None:
        """Read the files and their comments."""
        self._files = files.file
        self._comments = {file.name: Comments(file) for file in self._files}
        self._messages = {
            message.name: (file, index, message)
            for file in self._files
            for index, message in enumerate(file.message_type)
        }
        self._shown: set[str] = set()
        self._paragraphs = {
            names: self._comments[file.name].paragraphs(*path)
            for file in self._files
            for names, path in _declarations(file)
        }
        self._services = {
            service.name: (file, index, service)
            for file in self._files
            for index, service in enumerate(file.service)
        }
        names = [*self._services]
        names += [each.name for each in METHODS.values()]
        names += [each.name for file in self._files for each in file.enum_type]
        self._linked = re.compile(rf"\b({'|'.join([*names, *self._messages])})\b(?!\])")

    def comment(self, name: str, member: str = "") -> str:
        """Return the comment on a service, an RPC, a message or an enum, or on one of its fields or values."""
        return "\n\n".join(self._paragraphs[name, member])

    def reasons(self) -> Iterator[tuple[str, list[str]]]:
        """Return each error reason without its prefix, and the paragraphs of its comment."""
        for file in self._files:
            for number, enum in enumerate(file.enum_type):
                if enum.name == "ErrorReason":
                    for index, value in enumerate(enum.value[1:], start=1):
                        yield (
                            value.name.removeprefix("ERROR_REASON_"),
                            self._comments[file.name].paragraphs(5, number, 2, index),
                        )

    def lines(self) -> Iterator[str]:
        """Return the lines of the page about the API."""
        for service in SERVICES:
            yield from self._service(service.name)
        yield from ("## Messages", "")
        for name in self._messages:
            if name not in self._shown:
                yield from self._message(name, "###")
        yield from ("## Enums", "")
        for file in self._files:
            for index, enum in enumerate(file.enum_type):
                if enum.name != "ErrorReason":
                    yield from self._enum(file, index, enum)

    def _service(self, name: str) -> Iterator[str]:
        file, index, service = self._services[name]
        yield from (f"## {name}", "")
        yield from self._commented(name, file, 6, index)
        for number, rpc in enumerate(service.method):
            yield from (f"### {rpc.name}", "")
            yield from self._commented(rpc.name, file, 6, index, 2, number)
            yield from self._method(rpc, METHODS[f"/{file.package}.{name}/{rpc.name}"])

    def _method(self, rpc: MethodDescriptorProto, method: Method) -> Iterator[str]:
        yield f"- Permission: `{method.rule.permission.value}`"
        yield f"- Largest request: {size(method.rule.request_limit_bytes)}"
        yield f"- Retries: {method.rule.retry.name.lower().replace('_', ' ')}; {method.rule.retry.value}."
        if method.streams:
            yield "- Requests and responses are streams."
        yield ""
        for kind in (rpc.input_type, rpc.output_type):
            yield from self._message(kind.rpartition(".")[2], "####")

    def _message(self, name: str, heading: str) -> Iterator[str]:
        file, index, message = self._messages[name]
        self._shown.add(name)
        yield from (f"{heading} {name}", "")
        yield from self._commented(name, file, 4, index)
        comments = self._comments[file.name]
        for number, field in enumerate(message.field):
            said = self._link(" ".join(comments.paragraphs(4, index, 2, number)))
            yield f"- `{field.name}` ({self._type(message, field)}): {said}"
        if message.field:
            yield ""

    def _enum(
        self, file: FileDescriptorProto, index: int, enum: EnumDescriptorProto
    ) -> Iterator[str]:
        yield from (f"### {enum.name}", "")
        yield from self._commented(enum.name, file, 5, index)
        comments = self._comments[file.name]
        for number, value in enumerate(enum.value):
            yield f"- `{value.name}`: {self._link(' '.join(comments.paragraphs(5, index, 2, number)))}"
        yield ""

    def _commented(self, name: str, file: FileDescriptorProto, *path: int) -> Iterator[str]:
        for paragraph in self._comments[file.name].paragraphs(*path):
            yield from (self._link(paragraph, here=name), "")

    def _type(self, message: DescriptorProto, field: FieldDescriptorProto) -> str:
        name = field.type_name.rpartition(".")[2]
        if entry := next((each for each in message.nested_type if each.name == name), None):
            key, value = (self._type(message, each) for each in entry.field)
            return f"map of {key} to {value}"
        kind = self._link(name) or FieldDescriptorProto.Type.Name(field.type)[5:].lower()
        if field.label == FieldDescriptorProto.LABEL_REPEATED:
            return f"repeated {kind}"
        if field.proto3_optional:
            return f"optional {kind}"
        if field.HasField("oneof_index"):
            return f"{kind}, one of `{message.oneof_decl[field.oneof_index].name}`"
        return kind

    def _link(self, text: str, here: str = "") -> str:
        """Return a text in which each name of the API, except the one described here, is a link."""

        def linked(found: re.Match[str]) -> str:
            match found[1]:
                case "ErrorReason":
                    return "[ErrorReason](errors.md)"
                case name if name == here:
                    return name
                case name:
                    return f"[{name}](#{name.lower()})"

        return self._linked.sub(linked, text)


def _declarations(file: FileDescriptorProto) -> Iterator[tuple[tuple[str, str], tuple[int, ...]]]:
    """Return each declaration of a file, and its path of field numbers and indexes."""
    for index, service in enumerate(file.service):
        yield (service.name, ""), (6, index)
        for number, rpc in enumerate(service.method):
            yield (rpc.name, ""), (6, index, 2, number)
    for index, message in enumerate(file.message_type):
        yield (message.name, ""), (4, index)
        for number, field in enumerate(message.field):
            yield (message.name, field.name), (4, index, 2, number)
    for index, enum in enumerate(file.enum_type):
        yield (enum.name, ""), (5, index)
        for number, value in enumerate(enum.value):
            yield (enum.name, value.name), (5, index, 2, number)


def api() -> Api:
    """Return the API with its comments, as buf reads it."""
    built = subprocess.run(  # noqa: S603 - our own words
        [Path(sys.executable).with_name("buf"), "build", "--as-file-descriptor-set", "-o", "-"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        check=True,
    )
    files = FileDescriptorSet.FromString(built.stdout)
    ours = [each for each in files.file if each.package.startswith("session_authority")]
    return Api(FileDescriptorSet(file=ours))


def page() -> Iterator[str]:
    """Return the page about the API."""
    yield from (
        "The package is `session_authority.v1`. Every call carries an API key, as the metadata",
        "`authorization: Bearer sak_...`. [Errors](errors.md) lists what a call can fail with.",
        "",
    )
    yield from api().lines()
