"""
What breaks between two versions of a protocol: verdicts, held against behaviour.

A verdict is right if what one version builds is refused or misread by the other just
where it says so. So each pair of declarations here is also tried: messages are built
with one and parsed with the other.
"""

import enum
import json

import construct as c
import pytest
from attrs import validators
from construct import this
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st

from protocols import dns, modbus, ntp
from protoserve import (
    Caps,
    Direction,
    FixedSize,
    LengthPrefixed,
    Message,
    Protocol,
    ProtoserveError,
    Request,
    Role,
    Session,
    checksum_of,
    checksums,
    count_of,
    length_of,
    wire,
)
from protoserve.compat import compare
from protoserve.snapshots import SnapshotError, read_snapshot, snapshot_of
from protoserve.testing import from_message
from tests.codec.declarations import Structure, normal, plain, structures

TRIES = settings(
    derandomize=True,
    database=None,
    deadline=None,
    max_examples=40,
    suppress_health_check=list(HealthCheck),
)

NEITHER = set()
OLD, NEW, BOTH = {"old"}, {"new"}, {"old", "new"}


def message(_options=None, /, **fields):
    """Make a message class of wire fields and plain constructs, all by name."""
    namespace = {"__annotations__": {}, "__module__": __name__}
    for name, field in fields.items():
        is_format = isinstance(field, c.Construct | type)
        namespace[name] = wire(field) if is_format else field
        namespace["__annotations__"][name] = object
    metadata = [
        getattr(f, "metadata", {}).get("protoserve.wire") for f in fields.values()
    ]
    bits = any(isinstance(m.construct, c.BitsInteger) for m in metadata if m)
    options = {"kw_only": True, "bits": bits, **(_options or {})}
    return type(Message)("M", (Message,), namespace, **options)


def alone(cls):
    return Protocol("p", framing=LengthPrefixed(c.Int16ub), requests=cls)


def readers_of(verdict):
    """Say whose reading breaks, of requests."""
    both = verdict.old_clients + verdict.new_clients
    return {each.reader.partition(" ")[0] for each in both if "client" in each.sender}


def built(cls):
    """Draw messages, with their bytes."""
    found = []

    @TRIES
    @given(from_message(cls))
    def collect(drawn):
        found.append((drawn, bytes(drawn)))

    collect()
    return found


def values(value):
    """Bring values to what both versions can have in common."""
    if isinstance(value, dict):
        return {k: values(v) for k, v in value.items()}
    if isinstance(value, list):
        return [values(v) for v in value]
    return value.value if isinstance(value, enum.Enum) else value


def understood(sent, data, reader, names, *, named=False):
    """Say whether a reader makes of bytes what the sender meant, under other names."""
    try:
        read = reader.parse(data)
    except ProtoserveError:
        return False
    if named:
        return True
    meant, got = values(normal(sent)), values(normal(read))
    return alike({names.get(name, name): value for name, value in meant.items()}, got)


def alike(meant, got):
    """Compare what both know."""
    if isinstance(meant, dict) and isinstance(got, dict):
        return all(alike(meant[name], got[name]) for name in meant.keys() & got.keys())
    if isinstance(meant, list) and isinstance(got, list):
        pairs = zip(meant, got, strict=False)
        return len(meant) == len(got) and all(alike(*pair) for pair in pairs)
    return meant == got


def broken(old, new, names):
    """Find by trying whose reading breaks."""
    back = {new_name: old_name for old_name, new_name in names.items()}
    found = set()
    if not all(understood(*each, new, names) for each in built(old)):
        found.add("new")
    if not all(understood(*each, old, back) for each in built(new)):
        found.add("old")
    return found


class Few(enum.IntEnum):
    ONE = 1
    TWO = 2


class More(enum.IntEnum):
    ONE = 1
    TWO = 2
    THREE = 3


class Turned(enum.IntEnum):
    ONE = 2
    TWO = 1


class Renamed(enum.IntEnum):
    FIRST = 1
    TWO = 2


INNER = message(x=c.Int8ub, y=c.Int16ub)
LONGER = message(x=c.Int8ub, y=c.Int16ub, z=c.Int8ub)
OPTIONAL = message(x=c.Int8ub, y=c.Int16ub, z=wire(c.Optional(c.Int8ub), default=None))
A = {"a": c.Int8ub}

PAIRS = {
    "nothing": (A, A, NEITHER),
    "doc and unit": (A, {"a": wire(c.Int8ub, doc="new", unit="s")}, NEITHER),
    "renamed": (A, {"b": c.Int8ub}, NEITHER, {"a": "b"}),
    "resized": (A, {"a": c.Int16ub}, BOTH),
    "order of bytes": ({"a": c.Int16ub}, {"a": c.Int16ul}, BOTH),
    "order of one byte": (A, {"a": c.Int8ul}, NEITHER),
    "sign": (A, {"a": c.Int8sb}, BOTH),
    "float": ({"a": c.Int32ub}, {"a": c.Float32b}, BOTH),
    "the same number otherwise": (
        {"a": c.Int16ub},
        {"a": c.BytesInteger(2)},
        NEITHER,
    ),
    "swapped": (
        {"a": c.Int8ub, "b": c.Int8ub},
        {"b": c.Int8ub, "a": c.Int8ub},
        BOTH,
    ),
    "inserted": ({"a": c.Int8ub, "b": c.Int8ub}, {"a": c.Int8ub, "n": c.Int8ub, "b": c.Int8ub}, BOTH),
    "removed": ({"a": c.Int8ub, "b": c.Int8ub}, {"b": c.Int8ub}, BOTH),
    "new and required": (A, {**A, "b": c.Int8ub}, BOTH),
    "new and optional": (A, {**A, "b": wire(c.Optional(c.Int8ub), default=None)}, OLD),
    "new and optional, wide": (
        A,
        {**A, "b": wire(c.Optional(INNER.construct), default=None)},
        OLD,
    ),
    "new and greedy": (A, {**A, "b": wire(c.GreedyBytes, default=b"")}, OLD),
    "new range": (A, {**A, "b": c.GreedyRange(c.Int16ub)}, OLD),
    "optional gone": ({**A, "b": wire(c.Optional(c.Int8ub), default=None)}, A, NEW),
    "required gone": ({**A, "b": c.Int8ub}, A, BOTH),
    "optional now": (
        {**A, "b": c.Int8ub},
        {**A, "b": wire(c.Optional(c.Int8ub), default=None)},
        OLD,
    ),
    "padding is used": (
        {**A, "_r": c.Padding(3)},
        {**A, "b": c.Int8ub, "d": c.Int16ub},
        NEITHER,
    ),
    "padding is used in part": (
        {**A, "_r": c.Padding(3)},
        {**A, "b": c.Int16ub, "_r": c.Padding(1)},
        NEITHER,
    ),
    "padding is used by what takes no zero": (
        {**A, "_r": c.Padding(1)},
        {**A, "b": wire(c.Int8ub, enum=Few, strict=True)},
        NEW,
    ),
    "padding shrinks": ({**A, "_r": c.Padding(3)}, {**A, "_r": c.Padding(2)}, BOTH),
    "padding pattern": (
        {**A, "_r": c.Padding(1)},
        {**A, "_r": c.Padding(1, b"\xff")},
        NEITHER,
    ),
    "constant": ({"a": c.Const(1, c.Int8ub)}, {"a": c.Const(2, c.Int8ub)}, BOTH),
    "constant is free": ({"a": c.Const(1, c.Int8ub)}, {"a": c.Int8ub}, OLD),
    "fixed": ({"a": c.Int8ub}, {"a": c.Const(1, c.Int8ub)}, NEW),
    "strict member added": (
        {"a": wire(c.Int8ub, enum=Few, strict=True)},
        {"a": wire(c.Int8ub, enum=More, strict=True)},
        OLD,
    ),
    "strict member gone": (
        {"a": wire(c.Int8ub, enum=More, strict=True)},
        {"a": wire(c.Int8ub, enum=Few, strict=True)},
        NEW,
    ),
    "tolerant member added": (
        {"a": wire(c.Int8ub, enum=Few)},
        {"a": wire(c.Int8ub, enum=More)},
        NEITHER,
    ),
    "member renamed": (
        {"a": wire(c.Int8ub, enum=Few)},
        {"a": wire(c.Int8ub, enum=Renamed)},
        NEITHER,
    ),
    "strict now": (
        {"a": wire(c.Int8ub, enum=Few)},
        {"a": wire(c.Int8ub, enum=Few, strict=True)},
        NEW,
    ),
    "names for numbers": (A, {"a": wire(c.Int8ub, enum=Few)}, NEITHER),
    "strict names for numbers": (
        A,
        {"a": wire(c.Int8ub, enum=Few, strict=True)},
        NEW,
    ),
    "bytes": ({"a": c.Bytes(3)}, {"a": c.Bytes(4)}, BOTH),
    "bytes to the end": ({"a": c.Bytes(3)}, {"a": c.GreedyBytes}, OLD),
    "count": ({"a": c.Array(2, c.Int8ub)}, {"a": c.Array(3, c.Int8ub)}, BOTH),
    "lists in lists": (
        {"a": c.Array(2, c.Array(3, c.Int8ub))},
        {"a": c.Array(3, c.Array(2, c.Int8ub))},
        BOTH,
    ),
    "count to the end": (
        {"a": c.Array(2, c.Int8ub)},
        {"a": c.GreedyRange(c.Int8ub)},
        OLD,
    ),
    "prefix": (
        {"a": c.Prefixed(c.Int8ub, c.GreedyBytes)},
        {"a": c.Prefixed(c.Int16ub, c.GreedyBytes)},
        BOTH,
    ),
    "prefix that counts itself": (
        {"a": c.Prefixed(c.Int8ub, c.GreedyBytes)},
        {"a": c.Prefixed(c.Int8ub, c.GreedyBytes, includelength=True)},
        BOTH,
    ),
    "encoding": (
        {"a": c.PascalString(c.Int8ub, "ascii")},
        {"a": c.PascalString(c.Int8ub, "utf8")},
        OLD,
    ),
    "encoding narrowed": (
        {"a": c.PascalString(c.Int8ub, "latin-1")},
        {"a": c.PascalString(c.Int8ub, "ascii")},
        NEW,
    ),
    "encodings apart": (
        {"a": c.PascalString(c.Int8ub, "utf-8")},
        {"a": c.PascalString(c.Int8ub, "utf-16-le")},
        BOTH,
    ),
    "terminator": (
        {"a": c.NullTerminated(c.GreedyBytes), "b": c.Int8ub},
        {"a": c.NullTerminated(c.GreedyBytes, term=b"\x01"), "b": c.Int8ub},
        BOTH,
    ),
    "nested, longer": ({"a": INNER.construct}, {"a": LONGER.construct}, BOTH),
    "nested at the end, optional": (
        {"a": INNER.construct},
        {"a": OPTIONAL.construct},
        OLD,
    ),
    "nested in a list, optional": (
        {"a": c.GreedyRange(INNER.construct)},
        {"a": c.GreedyRange(OPTIONAL.construct)},
        BOTH,
    ),
    "nested behind a length, optional": (
        {"a": c.Prefixed(c.Int8ub, INNER.construct), "b": c.Int8ub},
        {"a": c.Prefixed(c.Int8ub, OPTIONAL.construct), "b": c.Int8ub},
        OLD,
    ),
    "nested in place of its fields": (
        {"a": c.Int8ub, "b": c.Int16ub},
        {"a": INNER.construct},
        BOTH,
    ),
    "structure": (
        {"a": c.Struct("x" / c.Int8ub)},
        {"a": c.Struct("x" / c.Int16ub)},
        BOTH,
    ),
    "sizing field renamed": (
        {"n": wire(c.Int8ub, value=count_of("a")), "a": c.Array(this.n, c.Int8ub)},
        {"k": wire(c.Int8ub, value=count_of("a")), "a": c.Array(this.k, c.Int8ub)},
        NEITHER,
        {"n": "k"},
    ),
    "sizing field renamed, and not where it is used": (
        {"n": c.Int8ub, "a": c.Array(this.n, c.Int8ub)},
        {"k": c.Int8ub, "n": c.Computed(0), "a": c.Array(this.n, c.Int8ub)},
        BOTH,
        {"n": "k"},
    ),
    "sized otherwise": (
        {"n": c.Int8ub, "a": c.Bytes(this.n)},
        {"n": c.Int8ub, "a": c.Bytes(this.n * 2)},
        BOTH,
    ),
    "sized by what is worked out": (
        {"n": c.Int8ub, "w": c.Computed(this.n * 2), "a": c.Bytes(this.w)},
        {"n": c.Int8ub, "w": c.Computed(this.n * 3), "a": c.Bytes(this.w)},
        BOTH,
    ),
    "length covers more": (
        {"n": wire(c.Int8ub, value=length_of("a")), "a": c.GreedyBytes},
        {"n": wire(c.Int8ub, value=length_of("n", "a")), "a": c.GreedyBytes},
        BOTH,
    ),
    "length is checked": (
        {"n": c.Int8ub, "a": c.GreedyBytes},
        {"n": wire(c.Int8ub, value=length_of("a")), "a": c.GreedyBytes},
        NEW,
    ),
    "checksum covers less": (
        {
            "a": c.Int8ub,
            "b": c.Int8ub,
            "s": wire(c.Int16ub, value=checksum_of("a", "b", using=checksums.crc16_x25)),
        },
        {
            "a": c.Int8ub,
            "b": c.Int8ub,
            "s": wire(c.Int16ub, value=checksum_of("b", using=checksums.crc16_x25)),
        },
        BOTH,
    ),
    "another checksum": (
        {"a": c.Int8ub, "s": wire(c.Int16ub, value=checksum_of("a", using=checksums.crc16_x25))},
        {"a": c.Int8ub, "s": wire(c.Int16ub, value=checksum_of("a", using=checksums.crc16_xmodem))},
        BOTH,
    ),
    "range narrowed": (
        A,
        {"a": wire(c.Int8ub, validator=validators.le(100))},
        NEW,
    ),
    "range widened": (
        {"a": wire(c.Int8ub, validator=validators.in_([1, 2]))},
        {"a": wire(c.Int8ub, validator=validators.ge(1))},
        OLD,
    ),
    "length narrowed": (
        {"a": wire(c.GreedyBytes)},
        {"a": wire(c.GreedyBytes, validator=validators.max_len(2))},
        NEW,
    ),
    "bits moved": (
        {"a": wire(c.BitsInteger(3)), "b": wire(c.BitsInteger(5))},
        {"a": wire(c.BitsInteger(4)), "b": wire(c.BitsInteger(4))},
        BOTH,
    ),
    "bits swapped": (
        {"a": wire(c.BitsInteger(4)), "b": wire(c.BitsInteger(4))},
        {"b": wire(c.BitsInteger(4)), "a": wire(c.BitsInteger(4))},
        BOTH,
    ),
    "reserved bits used": (
        {"a": wire(c.BitsInteger(3)), "_r": wire(c.Padding(5))},
        {"a": wire(c.BitsInteger(3)), "b": wire(c.BitsInteger(2)), "_r": wire(c.Padding(3))},
        NEITHER,
    ),
    "bits with names": (
        {"a": wire(c.BitsInteger(4)), "b": wire(c.BitsInteger(4))},
        {"a": wire(c.BitsInteger(4), enum=Few, strict=True), "b": wire(c.BitsInteger(4))},
        NEW,
    ),
    "case added": (
        {"k": c.Int8ub, "v": c.Switch(this.k, {1: c.Int8ub}, default=c.Error)},
        {"k": c.Int8ub, "v": c.Switch(this.k, {1: c.Int8ub, 2: c.Int16ub}, default=c.Error)},
        OLD,
    ),
    "case is another": (
        {"k": c.Int8ub, "v": c.Switch(this.k, {1: c.Int8ub, 2: c.Int8ub})},
        {"k": c.Int8ub, "v": c.Switch(this.k, {1: c.Int8ub, 2: c.Int16ub})},
        BOTH,
    ),
    "condition": (
        {"k": c.Int8ub, "v": c.If(this.k > 1, c.Int8ub)},
        {"k": c.Int8ub, "v": c.If(this.k > 2, c.Int8ub)},
        BOTH,
    ),
    "a format of one's own": (
        {"a": c.ExprAdapter(c.Int8ub, lambda v, _: v * 2, lambda v, _: v // 2)},
        {"a": c.ExprAdapter(c.Int8ub, lambda v, _: v * 3, lambda v, _: v // 3)},
        BOTH,
    ),
    "one of other numbers": (
        {"a": c.OneOf(c.Int8ub, [1, 2])},
        {"a": c.OneOf(c.Int8ub, [2, 3])},
        BOTH,
    ),
    "mapping": (
        {"a": c.Mapping(c.Int8ub, {"off": 0, "on": 1})},
        {"a": c.Mapping(c.Int8ub, {"off": 1, "on": 0})},
        BOTH,
    ),
    "another default": (
        {"a": c.Default(c.Int8ub, 3), "b": c.Int8ub},
        {"a": c.Default(c.Int8ub, 4), "b": c.Hex(c.Int8ub)},
        NEITHER,
    ),
    "what is defined later": (
        {"a": c.LazyBound(lambda: c.Bytes(2))},
        {"a": c.LazyBound(lambda: c.Bytes(3))},
        BOTH,
    ),
    "variable number": ({"a": c.VarInt}, {"a": c.ZigZag}, BOTH),
}  # fmt: skip


@pytest.mark.parametrize("name", PAIRS)
def test_verdict_is_what_happens(name):
    """A verdict names exactly those whose reading breaks when it is tried."""
    old, new, expected, *rest = PAIRS[name]
    names = rest[0] if rest else {}
    one, other = message(**old), message(**new)
    verdict = compare(alone(one), alone(other))
    assert expected == readers_of(verdict), verdict
    assert expected == broken(one, other, names)


@pytest.mark.parametrize("name", PAIRS)
def test_verdict_from_files_is_the_same(name):
    """A snapshot that was written and read again gives the same verdict."""
    old, new, *_ = PAIRS[name]
    pair = alone(message(**old)), alone(message(**new))
    files = [read_snapshot(json.dumps(snapshot_of(p))) for p in pair]
    assert compare(*pair) == compare(*files)


@pytest.mark.parametrize("protocol", [dns.dns, modbus.modbus, ntp.ntp], ids=repr)
def test_a_protocol_is_compatible_with_itself(protocol):
    """Nothing differs between a protocol and its own snapshot."""
    verdict = compare(read_snapshot(json.dumps(snapshot_of(protocol))), protocol)
    assert verdict.compatible
    assert () == verdict.notes


def test_a_new_optional_field_is_told_so():
    """The text says for whom it breaks: for old peers, which refuse the bytes."""
    verdict = compare(*(alone(message(**PAIRS["new and optional"][i])) for i in (0, 1)))
    assert () == verdict.old_clients
    (found,) = verdict.new_clients
    assert "request M.b" == found.where
    assert "it is new and optional; old peers refuse the bytes" in found.what
    assert ("new client", "old server") == (found.sender, found.reader)


# Random edits ----------------------------------------------------------------


EDITS = ["same", "rename", "replace", "drop", "insert", "append", "swap"]


@st.composite
def edited(draw):
    """A structure, and the same with a field changed, moved, added, removed, renamed."""
    old = draw(structures(1, tail=True))
    fields = list(old.fields)
    names = {}
    at = draw(st.integers(0, len(fields) - 1))
    kind = draw(st.sampled_from(EDITS))
    other = draw(structures(1)).fields[0][1]
    if kind == "rename":
        names = {fields[at][0]: "renamed"}
        fields[at] = ("renamed", fields[at][1])
    elif kind == "replace":
        fields[at] = (fields[at][0], other)
    elif kind == "drop" and len(fields) > 1:
        del fields[at]
    elif kind == "insert":
        fields.insert(at, ("fresh", other))
    elif kind == "append" and not any(shape.greedy for _, shape in fields):
        fields.append(("fresh", plain(c.Optional(c.Int8ub))))
    elif kind == "swap":
        fields[0], fields[at] = fields[at], fields[0]
    return old, Structure(tuple(fields)), names


def declared(structure):
    try:
        return structure.message("M")
    except Exception:  # the edit made no declaration of it
        return None


@settings(TRIES, max_examples=60)
@given(edited(), st.data())
def test_what_is_called_compatible_is_understood(edit, data):
    """After a random edit, what the verdict does not call a break breaks nothing."""
    old, new, names = edit
    one, other = declared(old), declared(new)
    if one is None or other is None:
        return
    try:
        verdict = compare(alone(one), alone(other))
    except ProtoserveError:
        return
    breaks = readers_of(verdict)
    note(str(verdict))
    named = any("names" in text or "is called" in text for text in verdict.notes)
    back = {b: a for a, b in names.items()}
    for sender, reader, who, mapping in (
        (one, other, "new", names),
        (other, one, "old", back),
    ):
        if who in breaks:
            continue
        try:
            encoded = bytes(data.draw(from_message(sender)))
            sent = sender.parse(encoded)
        except ProtoserveError:
            continue  # no message can be made of it, or the sender cannot read it back
        assert understood(sent, encoded, reader, mapping, named=named)


# Around the messages ---------------------------------------------------------


class Ack(Message):
    value: int = wire(c.Int8ub)


class Ask(Request[Ack]):
    value: int = wire(c.Int8ub)


class Tell(Message):
    value: int = wire(c.Int8ub)


class Head(Message):
    kind: int = wire(c.Int8ub, default=0)
    number: int = wire(c.Int8ub, default=0)


class OtherHead(Message):
    number: int = wire(c.Int8ub, default=0)
    kind: int = wire(c.Int8ub, default=0)


class Sum(Message):
    check: int = wire(c.Int8ub, value=checksum_of("body", using=checksums.xor8))


def protocol(**options):
    given_ = {
        "framing": LengthPrefixed(c.Int16ub, max_size=100),
        "header": Head,
        "tag": "kind",
        "correlate": "number",
        "requests": {1: Ask},
        "responses": {1: Ack},
        **options,
    }
    return Protocol("p", **given_)


def pairs_of(verdict):
    return {(b.sender, b.reader) for b in verdict.old_clients + verdict.new_clients}


REQUESTS = {"new": ("old client", "new server"), "old": ("new client", "old server")}
RESPONSES = {"new": ("old server", "new client"), "old": ("new server", "old client")}
ALL = {*REQUESTS.values(), *RESPONSES.values()}

AROUND = {
    "nothing": ({}, {}, set()),
    "retagged": ({}, {"requests": {2: Ask}}, set(REQUESTS.values())),
    "a new request": ({}, {"requests": {1: Ask, 2: Tell}}, {REQUESTS["old"]}),
    "a request gone": ({"requests": {1: Ask, 2: Tell}}, {}, {REQUESTS["new"]}),
    "a new response": ({}, {"responses": {1: Ack, 2: Tell}}, {RESPONSES["old"]}),
    "for both": ({}, {"messages": {2: Tell}}, {REQUESTS["old"], RESPONSES["old"]}),
    "header": ({}, {"header": OtherHead}, ALL),
    "no header": ({}, {"header": None, "tag": None, "correlate": None, "requests": Ask, "responses": Ack}, ALL),
    "tag": ({}, {"tag": "number", "correlate": "kind"}, ALL),
    "tags swapped": (
        {"requests": {1: Ask, 2: Tell}},
        {"requests": {2: Ask, 1: Tell}},
        set(REQUESTS.values()),
    ),
    "trailer": ({}, {"trailer": Sum}, ALL),
    "framing": ({}, {"framing": FixedSize(3)}, ALL),
    "length of frames": ({}, {"framing": LengthPrefixed(c.Int32ub, max_size=100)}, ALL),
    "shorter frames": (
        {},
        {"framing": LengthPrefixed(c.Int16ub, max_size=50)},
        {REQUESTS["new"], RESPONSES["new"]},
    ),
    "longer frames": (
        {},
        {"framing": LengthPrefixed(c.Int16ub, max_size=500)},
        {REQUESTS["old"], RESPONSES["old"]},
    ),
    "ports": ({}, {"ports": {"tcp": 7}}, set()),
    "states": (
        {"messages": {9: Tell}},
        {"messages": {9: Tell}, "states": {"s": {Tell: "t"}, "t": {Ask: "t", Ack: "t"}}},
        {*REQUESTS.values(), *RESPONSES.values()} - {REQUESTS["old"], RESPONSES["old"]},
    ),
    "a state renamed": (
        {"states": {"s": {Ask: "t"}, "t": {Ask: "t"}}},
        {"states": {"a": {Ask: "b"}, "b": {Ask: "b"}}},
        set(),
    ),
    "a move gone": (
        {"messages": {9: Tell}, "states": {"s": {Ask: "t", Tell: "s"}, "t": {Tell: "t"}}},
        {"messages": {9: Tell}, "states": {"s": {Ask: "t", Tell: "s"}, "t": {}}},
        {REQUESTS["new"], RESPONSES["new"]},
    ),
    "a move new": (
        {"states": {"s": {Ask: "t"}, "t": {}}},
        {"states": {"s": {Ask: "t"}, "t": {Ask: "t"}}},
        {REQUESTS["old"]},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", AROUND)
def test_what_stands_around_messages(name):
    """Tags, framing, headers, trailers and states are judged for each direction."""
    old, new, expected = AROUND[name]
    assert expected == pairs_of(compare(protocol(**old), protocol(**new)))


TRIED = [n for n in AROUND if n not in ("ports", "a state renamed", "nothing")]


def passed(sender, receiver, message):
    """Send a message; say whether it came, or `None` if it may not be sent."""
    try:
        sender.send(message)
    except ProtoserveError:
        return None
    for data in sender.data_to_send():
        receiver.receive_data(data)
    return getattr(receiver.next_event(), "message", None) == message


def conversation(sender, receiver, way):
    """Try each message behind each other one; say whether all that was sent came."""
    role, other = (Role.CLIENT, Role.SERVER)
    if way is Direction.RESPONSE:
        role, other = other, role
    ahead = [(d, cls) for d in Direction for cls in sender.table(d).values()]
    for direction, first in ahead:
        for second in sender.table(way).values():
            one, two = Session(sender, role), Session(receiver, other)
            pair = (one, two) if direction is way else (two, one)
            came = passed(*pair, first(1))
            if came is False and direction is way:
                return False
            if came and passed(one, two, second(2)) is False:
                return False
    return True


@pytest.mark.parametrize("name", [n for n in TRIED if "frames" not in n])
def test_what_stands_around_messages_is_so(name):
    """Sessions of both versions break where the verdict says, and nowhere else."""
    old, new, expected = AROUND[name]
    versions = {"old": protocol(**old), "new": protocol(**new)}
    found = set()
    for way, side in (
        (Direction.REQUEST, REQUESTS),
        (Direction.RESPONSE, RESPONSES),
    ):
        for reader, pair in side.items():
            sender = "old" if reader == "new" else "new"
            if not conversation(versions[sender], versions[reader], way):
                found.add(pair)
    assert expected == found


def test_fewer_elements_break_new_readers():
    """A lower cap is a break for who keeps to it."""
    wide = {"a": c.GreedyRange(c.Int8ub)}
    one, other = message(**wide), message({"caps": Caps(elements=3)}, **wide)
    assert NEW == readers_of(compare(alone(one), alone(other)))
    assert OLD == readers_of(compare(alone(other), alone(one)))


def test_messages_inside_themselves_end():
    """A recursive message is compared once."""

    class Tree(Message):
        value: int = wire(c.Int8ub)
        children: list = wire(
            c.PrefixedArray(c.Int8ub, c.LazyBound(lambda: Tree.construct))
        )

    class Wider(Message):
        value: int = wire(c.Int16ub)
        children: list = wire(
            c.PrefixedArray(c.Int8ub, c.LazyBound(lambda: Wider.construct))
        )

    assert compare(alone(Tree), alone(Tree)).compatible
    assert BOTH == readers_of(compare(alone(Tree), alone(Wider)))


def test_namesakes_are_told_apart():
    """Two classes of one name inside a protocol do not hide each other's changes."""
    first, second = message(x=c.Int8ub), message(x=c.Int16ub)
    third = message(x=c.Int32ub)

    def outer(inner):
        return message(a=first.construct, b=inner.construct)

    assert compare(alone(outer(second)), alone(outer(second))).compatible
    assert BOTH == readers_of(compare(alone(outer(second)), alone(outer(third))))


def below(limit):
    return lambda value, _: value < limit


def test_a_function_that_uses_another_constant_is_another():
    """Functions of one name are told apart by what they use."""
    one, same, other = (
        alone(message(a=c.ExprValidator(c.Int8ub, below(n)))) for n in (1, 1, 2)
    )
    assert compare(one, same).compatible
    assert BOTH == readers_of(compare(one, other))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "expected a snapshot, which is JSON"),
        ("[1]", 'an object with a key "snapshot"'),
        ('{"snapshot": 99}', "version 1, found 99; take it again"),
        ('{"snapshot": 1}', "the snapshot has no 'correlate'"),
    ],
)
def test_what_is_no_snapshot_is_told(text, expected):
    """A text that is no snapshot is refused with what is missing."""
    with pytest.raises(SnapshotError, match=expected):
        read_snapshot(text)


def test_snapshots_are_the_same_each_time():
    """The order in a snapshot is that of the declaration."""
    assert json.dumps(snapshot_of(dns.dns)) == json.dumps(snapshot_of(dns.dns))
    names = [m["message"] for m in snapshot_of(modbus.modbus)["messages"]]
    assert ["Mbap", "ReadCoils"] == names[:2]
