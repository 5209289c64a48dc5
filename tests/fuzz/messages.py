"""Requests as bytes, made from the descriptors: valid ones, almost valid ones, and hostile ones.

This module encodes them itself, since protobuf refuses to write some bytes that it must read: invalid UTF-8, fields
of the wrong kind, and wrong lengths.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from hypothesis import strategies as st

from tests.support.api import RPCS, Rpc

Metadata: TypeAlias = list[tuple[str, str | bytes]]

_VARINT, _FIXED64, _DELIMITED, _GROUP, _END_GROUP, _FIXED32 = range(6)
_INTEGERS = frozenset(
    (
        FieldDescriptor.TYPE_BOOL,
        FieldDescriptor.TYPE_ENUM,
        FieldDescriptor.TYPE_INT32,
        FieldDescriptor.TYPE_INT64,
        FieldDescriptor.TYPE_UINT32,
        FieldDescriptor.TYPE_UINT64,
    )
)
_EDGES = [0, 1, 2, 16, 17, 50, 59, 60, 200, 201, 999_999_999, 10**9, 2**31 - 1, 2**31, 2**32]
_EDGES += [7_776_000, 7_776_001, 253_402_300_799, 253_402_300_800, 2**53, 2**62, 2**63 - 1]
_INTEGERS_OF_NOTE = [*_EDGES, *(-edge for edge in _EDGES), -62_135_596_800, -62_135_596_801]

_HOSTILE_BYTES = [
    b"",
    b"\0",
    b"a\0b",
    b"\x7f",
    b"line\nbreak\r\n",
    b"\xc2\x85",
    b"\xff\xfe",
    b"\xc0\x80",  # an overlong null
    b"\xed\xa0\x80",  # half of a surrogate pair
    b"\xed\xa0\x80\xed\xb0\x80",
    b"\xf4\x90\x80\x80",  # beyond Unicode
    "\u202e\u2066\u200d\ufeff\U000e0001".encode(),
    "é".encode() * 127,
    "é".encode() * 128,
    "\U0010ffff".encode() * 70,
    b"x" * 255,
    b"x" * 256,
    b"x" * 257,
    b"x" * 5_000,
    b"x" * 66_000,
    b"' OR 1=1 --",
    b"%s%n{0}{self}$(id)",
    b"../../etc/passwd",
    b"ses_" + b"0" * 70,
    b"ses_" + b"z" * 70,
    b"sak_" + b"0" * 70,
    b"Bearer ",
    b"00000000-0000-0000-0000-000000000000",
    b"ffffffff-ffff-ffff-ffff-ffffffffffff",
    b"::ffff:1.2.3.4",
    b"fe80::1%eth0",
    b"1.2.3.4/24",
    b"1" * 4_400,  # more digits than Python converts to an integer
]
_PLAUSIBLE: dict[str, list[bytes]] = {
    "ip_address": [b"203.0.113.7", b"2001:db8::7", b"::ffff:203.0.113.7"],
    "user_agent": [b"Mozilla/5.0 (X11; Linux x86_64; rv:143.0) Gecko/20100101 Firefox/143.0"],
    "authentication_methods": [b"pwd", b"otp", b"hwk"],
    "reason": [b"", b"stolen laptop"],
    "key": [b"tenant", b"role"],
    "value": [b"", b"admin"],
    "actor_id": [b"", b"support"],
    "issuer": [b"https://id.example", b"https://other.example"],
    "subject": [b"u-1", b"u-2"],
    "sid": [b"", b"s-1"],
    "label": [b"", b"Study", "Büro 📱".encode()],
    "retry_secret": [b"", b"r" * 32, b"\xff" * 32],
}


@dataclass
class Known:
    """Values of an authority that requests can name, by field.

    A list keeps its length while strategies made from it are in use. Its items may change.
    """

    values: dict[str, list[bytes]] = field(default_factory=dict)

    def of(self, name: str) -> st.SearchStrategy[bytes] | None:
        """Return known values for a field of this name."""
        values = self.values.get(name)
        if values:
            return st.integers(0, len(values) - 1).map(lambda at: self.values[name][at])
        return st.sampled_from(_PLAUSIBLE[name]) if name in _PLAUSIBLE else None


def any_call(known: Known) -> st.SearchStrategy[tuple[Rpc, bytes]]:
    """Return calls of any RPC."""
    return st.sampled_from(RPCS).flatmap(
        lambda rpc: st.tuples(st.just(rpc), structured(rpc, known) | raw(rpc, known))
    )


def structured(rpc: Rpc, known: Known) -> st.SearchStrategy[bytes]:
    """Return requests of an RPC. Values suit the names of their fields, so about a third of the requests are valid."""
    return st.sampled_from([0, 1, 8]).flatmap(
        lambda hostile_of_8: _message(rpc.request, known, hostile_of_8)
    )


def raw(rpc: Rpc, known: Known) -> st.SearchStrategy[bytes]:
    """Return arbitrary bytes. Few of them are valid requests."""
    valid = _message(rpc.request, known, 0)
    return st.one_of(
        st.binary(max_size=200),
        st.builds(_cut, valid, st.integers(0, 400)),
        st.builds(_flipped, valid, st.lists(st.integers(0, 8 * 400), min_size=1, max_size=8)),
        st.builds(lambda *parts: b"".join(parts), valid, st.binary(max_size=40)),
        st.builds(lambda *parts: b"".join(parts), valid, _unknown_fields()),
        st.builds(_nested, st.sampled_from([1, 99, 100, 101, 10_000]), st.sampled_from([1, 4, 7])),
        st.builds(lambda number: _key(number, _GROUP) * 5_000, st.integers(1, 20)),
        st.builds(lambda size: _key(1, _DELIMITED) + _varint(size) + b"x", st.integers(0, 2**64)),
    )


def metadata() -> st.SearchStrategy[Metadata]:
    """Return valid request metadata, including unusual metadata."""
    printable = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=80).map(
        str.strip
    )
    names = st.sampled_from(
        ["authorization", "x-session-token", "user-agent", "x", "x-forwarded-for", "grpc-tags-bin"]
    ) | st.from_regex(r"x-[a-z0-9_.-]{1,20}", fullmatch=True)
    schemes = st.sampled_from(["Bearer ", "bearer sak_", "Basic ", "Bearer  "])
    texts: st.SearchStrategy[str | bytes] = printable | st.builds(
        str.__add__, schemes, printable
    ).map(str.strip)
    binary: st.SearchStrategy[str | bytes] = st.binary(max_size=100)
    pair = names.flatmap(
        lambda name: st.tuples(st.just(name), binary if name.endswith("-bin") else texts)
    )
    return st.lists(pair, max_size=6)


def _message(descriptor: Descriptor, known: Known, hostile_of_8: int) -> st.SearchStrategy[bytes]:
    parts = [_field(each, known, hostile_of_8) for each in descriptor.fields]
    encoded = st.tuples(*parts).map(b"".join)
    if hostile_of_8 < 8:
        return encoded
    return st.builds(lambda *several: b"".join(several), encoded, _unknown_fields() | encoded)


def _field(
    descriptor: FieldDescriptor, known: Known, hostile_of_8: int
) -> st.SearchStrategy[bytes]:
    """Return an encoded field, or no bytes."""
    good = _good(descriptor, known, hostile_of_8)
    bad = _bad(descriptor, known)
    one = st.integers(1, 8).flatmap(lambda chance: bad if chance <= hostile_of_8 else good)
    if descriptor.is_repeated:
        few = st.lists(one, max_size=3)
        many = st.builds(lambda part, count: [part] * count, one, st.sampled_from([16, 17, 1_001]))
        # Many different values, each invalid in its own way, so that one answer must report them all.
        all_bad = st.lists(bad, min_size=10, max_size=17)
        several = few if hostile_of_8 == 0 else few | many | all_bad
        return several.map(b"".join)
    required = descriptor.name in known.values or hostile_of_8 > 0
    return one if required else st.just(b"") | one


def _good(descriptor: FieldDescriptor, known: Known, hostile_of_8: int) -> st.SearchStrategy[bytes]:
    number = descriptor.number
    if descriptor.message_type is not None:
        inner = _moment(descriptor.message_type)
        if inner is None:
            inner = _message(descriptor.message_type, known, hostile_of_8)
        return inner.map(lambda body: _delimited(number, body))
    if descriptor.type in _INTEGERS:
        small = st.integers(0, 1 if descriptor.type == FieldDescriptor.TYPE_BOOL else 60)
        return small.map(lambda value: _key(number, _VARINT) + _varint(value))
    values = known.of(descriptor.name)
    if values is None:
        values = st.text(max_size=20).map(str.encode)
    return values.map(lambda value: _delimited(number, value))


def _bad(descriptor: FieldDescriptor, known: Known) -> st.SearchStrategy[bytes]:
    number = descriptor.number
    wrong_kind = st.sampled_from(
        [
            _key(number, _VARINT) + _varint(1),
            _key(number, _FIXED64) + b"\xff" * 8,
            _key(number, _FIXED32) + b"\xff" * 4,
            _delimited(number, b"\x08\x01"),
            _key(number, _GROUP) + _key(number, _END_GROUP),
        ]
    )
    if descriptor.message_type is not None:
        inner = _message_of_edges(descriptor.message_type, known)
        return inner.map(lambda body: _delimited(number, body)) | wrong_kind
    if descriptor.type in _INTEGERS:
        odd = st.sampled_from(_INTEGERS_OF_NOTE) | st.integers(-(2**63), 2**64 - 1)
        return odd.map(lambda value: _key(number, _VARINT) + _varint(value)) | wrong_kind
    hostile = st.sampled_from(_HOSTILE_BYTES) | st.binary(max_size=80) | st.text().map(str.encode)
    anybodys = [of for name in known.values if (of := known.of(name)) is not None]
    if anybodys:  # values that are valid elsewhere or almost valid
        hostile |= st.one_of(anybodys)
        hostile |= st.builds(
            _flipped, st.one_of(anybodys), st.lists(st.integers(0, 600), min_size=1, max_size=2)
        )
        hostile |= st.builds(_cut, st.one_of(anybodys), st.integers(0, 80))
    delimited: Callable[[bytes], bytes] = lambda value: _delimited(number, value)  # noqa: E731
    return hostile.map(delimited) | hostile.map(delimited) | wrong_kind


def _message_of_edges(descriptor: Descriptor, known: Known) -> st.SearchStrategy[bytes]:
    return st.tuples(
        *(
            st.just(b"")
            | (_bad(each, known) if each.message_type is None else _field(each, known, 4))
            for each in descriptor.fields
        )
    ).map(b"".join)


def _moment(descriptor: Descriptor) -> st.SearchStrategy[bytes] | None:
    """Return valid timestamps, mostly of the last minutes, and durations of a minute to 90 days."""
    if descriptor.full_name == "google.protobuf.Timestamp":
        ago = st.sampled_from([0, 1, 60, 600, 10**9])
        seconds = ago.map(lambda seconds_ago: int(time.time()) - seconds_ago)
    elif descriptor.full_name == "google.protobuf.Duration":
        seconds = st.sampled_from([60, 3_600, 7_776_000])
    else:
        return None
    return seconds.map(lambda value: _key(1, _VARINT) + _varint(value))


def _unknown_fields() -> st.SearchStrategy[bytes]:
    number = st.sampled_from([99, 1_000, 19_000, 2**29 - 1])
    value = st.binary(max_size=30)
    return st.builds(_delimited, number, value) | number.map(
        lambda each: _key(each, _VARINT) + _varint(2**64 - 1)
    )


def _varint(value: int) -> bytes:
    value &= 2**64 - 1
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def _key(number: int, wire_type: int) -> bytes:
    return _varint(number << 3 | wire_type)


def _delimited(number: int, body: bytes) -> bytes:
    return _key(number, _DELIMITED) + _varint(len(body)) + body


def _nested(depth: int, number: int) -> bytes:
    body = b""
    for _ in range(depth):
        body = _delimited(number, body)
        if len(body) > 60_000:
            break
    return body


def _cut(body: bytes, at: int) -> bytes:
    return body[: at % (len(body) + 1)]


def _flipped(body: bytes, bits: Sequence[int]) -> bytes:
    flipped = bytearray(body)
    for bit in bits:
        if flipped:
            flipped[bit // 8 % len(flipped)] ^= 1 << bit % 8
    return bytes(flipped)
