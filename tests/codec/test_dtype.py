"""
NumPy dtypes of messages, against what parsing gives.
"""

import enum
import math
import subprocess
import sys

import attrs
import construct as C
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protoserve import (
    DeclarationError,
    LengthPrefixed,
    MalformedMessageError,
    Message,
    Protocol,
    checksum_of,
    checksums,
    count_of,
    length_of,
    wire,
)

np = pytest.importorskip("numpy")

from protoserve.codec.dtype import columns_of, repeating_of  # noqa: E402


class Color(enum.IntEnum):
    RED = 1
    GREEN = 2


class Access(enum.IntFlag):
    READ = 1
    WRITE = 2


def declare(fields):
    """Declare a message with these fields, each a construct and options of `wire`."""
    space = {f"f{i}": wire(sc, **options) for i, (sc, options) in enumerate(fields)}
    names = {"__annotations__": dict.fromkeys(space, object), "__module__": __name__}
    return type(Message)("Fixed", (Message,), {**names, **space}, kw_only=True)


def structure(fields):
    return C.Struct(*(f"s{i}" / sc for i, (sc, _) in enumerate(fields)))


PLAIN = st.sampled_from(
    [
        *(C.Int8ub, C.Int8sb, C.Int16ub, C.Int16sl, C.Int32ul, C.Int32sb, C.Int64ub),
        *(C.Int64sl, C.Float16b, C.Float32l, C.Float64b, C.Flag, C.Int24ub, C.Int24sl),
        *(C.BytesInteger(5), C.BytesInteger(7, signed=True, swapped=True)),
        *(C.BytesInteger(9), C.BytesInteger(16, signed=True), C.Bytes(1), C.Bytes(5)),
        *(C.PaddedString(3, "utf8"), C.PaddedString(4, "ascii"), C.Padding(2)),
        *(C.Const(1, C.Int8ub), C.Const(b"\0\1"), C.Computed(7)),
        C.FixedSized(4, C.Int16ub),
        C.FixedSized(3, C.GreedyBytes),
        C.FixedSized(3, C.GreedyString("utf8")),
        C.BitStruct("a" / C.BitsInteger(3, signed=True), "b" / C.BitsInteger(13)),
        C.BitStruct("a" / C.Flag, C.Padding(6), "b" / C.BitsInteger(17)),
        C.Hex(C.Int16ub),
    ]
).map(lambda sc: (sc, {}))
ENUMS = st.tuples(
    st.sampled_from([C.Int8ub, C.Int16ul, C.Int24ub]),
    st.sampled_from([Color, Access]),
    st.booleans(),
).map(lambda drawn: (drawn[0], {"enum": drawn[1], "strict": drawn[2]}))
BITS = st.sampled_from([8, 16, 24, 32, 64, 72]).flatmap(
    lambda total: st.lists(
        st.tuples(st.integers(1, 64), st.booleans()), min_size=1, max_size=5
    ).map(lambda widths: bit_run(total, widths))
)


def bit_run(total, widths):
    """Give neighbouring bit fields that fill `total` bits."""
    fields, left = [], total
    for width, signed in widths:
        taken = min(width, left)
        if taken:
            fields.append((C.BitsInteger(taken, signed=signed), {}))
        left -= taken
    while left:
        fields.append((C.BitsInteger(min(64, left)), {}))
        left -= min(64, left)
    return fields


def alone(strategy):
    return strategy.map(lambda field: [field])


def runs(depth):
    """Draw lists of fields."""
    one = [alone(PLAIN), alone(ENUMS), BITS]
    if depth:
        inner = st.lists(runs(depth - 1), min_size=1, max_size=3).map(flat)
        messages = inner.map(lambda fields: declare(fields).construct)
        structures = inner.filter(without_bits).map(structure)
        whole = st.one_of(messages, structures, PLAIN.map(lambda field: field[0]))
        arrays = st.tuples(st.integers(0, 3), whole).map(lambda d: C.Array(*d))
        one += [alone(st.one_of(messages, structures, arrays).map(lambda sc: (sc, {})))]
    return st.one_of(one)


def without_bits(fields):
    """Say whether fields may stand in a plain structure."""
    return not any(
        options or isinstance(sc, C.BitsInteger | C.Hex) for sc, options in fields
    )


def flat(lists):
    return [field for each in lists for field in each]


FIXED = st.lists(runs(2), min_size=1, max_size=5).map(flat).map(declare)


def plain(value):
    """Bring a parsed value to what an array gives."""
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, list):
        return [plain(each) for each in value]
    return value


def same(one, other):
    if isinstance(one, list):
        pairs = zip(one, other, strict=True)
        return isinstance(other, list) and all(same(*pair) for pair in pairs)
    if isinstance(other, bytes) and not isinstance(one, bytes):
        return True  # only Construct knows what these bytes are
    if isinstance(one, float) and math.isnan(one):
        return isinstance(other, float) and math.isnan(other)
    return one == other


def member(value, path):
    """Follow a column's name into a message; lists are followed element by element."""
    for i, name in enumerate(path):
        if isinstance(value, list):
            return [member(each, path[i:]) for each in value]
        value = value[name] if isinstance(value, dict) else getattr(value, name)
    return value


def check(cls, data):
    """Compare arrays with what parsing gives; give how many records were parsed."""
    columns = columns_of(cls)
    size = cls.dtype.itemsize
    rows = np.frombuffer(data[: len(data) - len(data) % size], cls.dtype)
    good = columns.matches(rows)
    parsed = {}
    for i in range(len(rows)):
        try:
            parsed[i] = cls.parse(data[i * size : (i + 1) * size])
        except MalformedMessageError:
            assert not good[i]
        else:
            assert good[i]
    for name in columns.names:
        if not parsed:
            break
        values = columns.column(rows[list(parsed)], name).tolist()
        for message, value in zip(parsed.values(), values, strict=True):
            found = member(message, name.split("."))
            assert same(plain(found), value), name
    return len(parsed)


@settings(max_examples=600)
@given(FIXED, st.randoms(use_true_random=False))
def test_columns_are_what_parse_gives(cls, random):
    """Records that match have, column by column, the values that parsing gives."""
    if size := cls.dtype.itemsize:
        check(cls, bytes(random.choices([0, 1, 2, 65, 128, 255], k=4 * size)))


@given(FIXED)
def test_size_is_that_of_the_message(cls):
    """A record is as long as the message."""
    assert cls.dtype.itemsize == cls.construct.sizeof()


class Point(Message):
    x: int = wire(C.Int24ub)
    y: int = wire(C.Int8sb)


class Sample(Message):
    kind: Color | int = wire(C.Int8ub, enum=Color)
    urgent: int = wire(C.BitsInteger(1))
    number: int = wire(C.BitsInteger(15))
    celsius: float = wire(C.Float32l)
    _gap: None = wire(C.Padding(3))
    place: Point = wire(Point)
    levels: list[int] = wire(C.Array(2, C.Int16ub))
    name: str = wire(C.PaddedString(4, "utf8"))


SAMPLE = Sample(Color.GREEN, 1, 77, -1.5, Point(70_000, -2), [1, 2], "ab")


def test_dtype():
    """The dtype has the fields' places, with padding left out."""
    point = np.dtype([("x", "u1", (3,)), ("y", "i1")])
    expected = {
        "kind": (np.dtype("u1"), 0),
        "urgent|number": (np.dtype(">u2"), 1),
        "celsius": (np.dtype("<f4"), 3),
        "place": (point, 10),
        "levels": (np.dtype((">u2", (2,))), 14),
        "name": (np.dtype("V4"), 18),
    }
    assert expected == dict(Sample.dtype.fields)
    assert 22 == Sample.dtype.itemsize


def test_columns():
    """Columns have the values of the fields, those of nested messages by their path."""
    rows = np.frombuffer(bytes(SAMPLE) * 2, Sample.dtype)
    columns = columns_of(Sample)
    values = {name: columns.column(rows, name).tolist()[1] for name in columns.names}
    assert {
        "kind": 2,
        "urgent": 1,
        "number": 77,
        "celsius": -1.5,
        "place.x": 70_000,
        "place.y": -2,
        "levels": [1, 2],
        "name": "ab",
    } == values


def test_numbers_are_not_copied():
    """A column of numbers is a view of the bytes."""
    data = bytearray(bytes(SAMPLE))
    rows = np.frombuffer(data, Sample.dtype)
    kinds = columns_of(Sample).column(rows, "kind")
    data[0] = 9
    assert [9] == kinds.tolist()


def test_made_once():
    """A class's dtype is made once."""
    assert Sample.dtype is Sample.dtype


def test_instances_have_none():
    """The dtype is the class's; a message may have a field of that name."""

    class Named(Message):
        dtype: int = wire(C.Int8ub)

    assert 3 == Named(3).dtype
    assert ("dtype",) == Named.dtype.names


VARYING = [
    (C.PascalString(C.Int8ub, "utf8"), "behind its length"),
    (C.Array(C.this.f0, C.Int16ub), r"list of uint16, big-endian: 2 \* \(f0\) bytes"),
    (C.GreedyBytes, "bytes: to the end"),
    (C.VarInt, "varint"),
    (C.Switch(C.this.f0, {1: C.Int8ub, 2: C.Int16ub}), "one of these"),
    (C.If(C.this.f0, C.Int8ub), "one of these"),
    (C.FixedSized(4, C.CString("utf8")), "inside its 4 bytes"),
    (C.Struct("deep" / C.Bytes(C.this._.f0)), "structure"),
]


@pytest.mark.parametrize(("subcon", "reason"), VARYING)
def test_varying_layouts(subcon, reason):
    """A layout that is not fixed is an error that names the field and says why."""
    cls = declare([(C.Int8ub, {}), (subcon, {})])
    with pytest.raises(DeclarationError, match=rf"^Fixed\.f1 varies in size.*{reason}"):
        _ = cls.dtype


def test_choices_of_one_size():
    """A choice between things of one size has a size, but is no one thing."""
    choice = C.Switch(C.this.f0, {1: C.Int16ub}, default=C.Bytes(2))
    cls = declare([(C.Int8ub, {}), (choice, {})])
    with pytest.raises(DeclarationError, match=r"^Fixed\.f1: what it is varies"):
        _ = cls.dtype


def test_nested_field_is_named():
    """The error names the inner field that varies."""
    inner = declare([(C.Int8ub, {}), (C.PascalString(C.Int8ub, "utf8"), {})])
    cls = declare([(C.FixedSized(9, C.Array(2, inner.construct)), {})])
    with pytest.raises(DeclarationError, match=r"^Fixed\.f0 varies in size inside"):
        _ = cls.dtype


class Summed(Message):
    size: int = wire(C.Int8ub, value=length_of("size", "values"))
    count: int = wire(C.Int8ub, value=count_of("values"))
    values: list[int] = wire(C.Array(3, C.Int8ub))
    check: int = wire(C.Int8ub, value=checksum_of("values", using=checksums.sum8))


@pytest.mark.parametrize(
    ("data", "good"),
    [
        ("05 03 010203 06", True),
        ("06 03 010203 06", False),
        ("05 02 010203 06", False),
        ("05 03 010203 07", False),
    ],
)
def test_computed_fields_are_checked(data, good):
    """Lengths, counts and checksums that are wrong are told, as by parsing."""
    assert good == check(Summed, bytes.fromhex(data))


def test_validators_are_asked():
    """A class with validators has only the records that they accept."""

    class Picky(Message):
        level: int = wire(C.Int8ub, validator=attrs.validators.lt(10))

    assert 1 == check(Picky, b"\5\x0b")


def test_frame_parts_are_left_to_the_frame():
    """A header's length of its frame's body is nothing that the header can check."""

    class Header(Message):
        kind: int = wire(C.Int8ub)
        length: int = wire(C.Int8ub, value=length_of("body"))

    Protocol(
        "framed",
        framing=LengthPrefixed(C.Int8ub),
        header=Header,
        tag="kind",
        messages={1: Point},
    )
    assert 2 == check(Header, b"\1\5\2\xff")


class Flow(Message):
    source: int = wire(C.Int32ub)
    packets: int = wire(C.Int16ub)


FLOWS = [Flow(1, 2), Flow(3, 4), Flow(5, 6)]


class Counted(Message):
    version: int = wire(C.Const(5, C.Int16ub))
    count: int = wire(C.Int16ub, value=count_of("flows"))
    flows: list[Flow] = wire(C.Array(C.this.count, Flow.construct))


class Half(Message):
    count: int = wire(C.Int8ub)
    flows: list[Flow] = wire(C.Array(C.this.count // 2, Flow.construct))


class Rest(Message):
    version: int = wire(C.Int16ub)
    flows: list[Flow] = wire(C.GreedyRange(Flow.construct))


class Prefixed(Message):
    flows: list[Flow] = wire(C.PrefixedArray(C.Int8ub, Flow.construct))


class OnlyRows(Message):
    flows: list[Flow] = wire(C.GreedyRange(Flow.construct))


@pytest.mark.parametrize(
    ("message", "head"),
    [
        (Counted(flows=FLOWS), (5, 3)),
        (Half(count=6, flows=FLOWS), (6,)),
        (Rest(9, flows=FLOWS), (9,)),
        (Prefixed(flows=FLOWS), (3,)),
        (OnlyRows(flows=FLOWS), ()),
        (Rest(9, flows=[]), (9,)),
    ],
    ids=lambda value: type(value).__name__,
)
def test_head_and_rows(message, head):
    """A head with records behind it gives both, counted by a field or by the rest."""
    found = repeating_of(type(message))
    heads, rows = found.split(bytes(message))
    assert ("flows", Flow.dtype) == (found.name, found.rows.dtype)
    assert [head] == heads.tolist()
    assert [(f.source, f.packets) for f in message.flows] == rows.tolist()


@pytest.mark.parametrize(
    "data",
    ["", "0005", "0005 0002 000000010002", "0005 0000 00", "0005 0001 00000001000200"],
)
def test_wrong_counts_are_malformed(data):
    """Bytes that are not as many records as the head says are refused."""
    with pytest.raises(MalformedMessageError, match=r"Counted\.flows"):
        repeating_of(Counted).split(bytes.fromhex(data))


def test_head_is_not_parsed_alone():
    """What only parsing the whole message tells is left out for its head."""

    class Picky(Message):
        version: int = wire(C.Const(5, C.Int8ub))
        level: int = wire(C.Int8ub, validator=attrs.validators.lt(10))
        values: list[int] = wire(C.GreedyRange(C.Int8ub))

    found = repeating_of(Picky)
    good = [found.head.matches(found.split(d)[0])[0] for d in (b"\5\1a", b"\6\1a")]
    assert [True, False] == good


def test_rows_of_numbers():
    """A list of plain numbers is records of one value."""

    class Numbers(Message):
        values: list[int] = wire(C.GreedyRange(C.Int16ub))

    _, rows = repeating_of(Numbers).split(b"\0\1\0\2")
    assert [1, 2] == rows["value"].tolist()


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ([(C.Int8ub, {})], "does not end in a list"),
        ([(C.GreedyBytes, {})], "does not end in a list"),
        ([(C.GreedyRange(C.VarInt), {})], r"f0\[\] has no fixed size"),
        (
            [(C.CString("utf8"), {}), (C.GreedyRange(C.Int8ub), {})],
            r"^Fixed\.f0 varies in size",
        ),
    ],
)
def test_other_forms_have_no_rows(fields, reason):
    """What does not end in records of one size is refused, with the part in the way."""
    with pytest.raises(DeclarationError, match=reason):
        repeating_of(declare(fields))


def test_numpy_is_imported_when_used():
    """A message is declared, parsed and built without NumPy."""
    program = (
        "import sys; from construct import Int8ub; from protoserve import *; "
        "M = type(Message)('M', (Message,), {'__annotations__': {'a': int}, "
        "'__module__': 'm', 'a': wire(Int8ub)}); bytes(M.parse(b'1')); "
        "assert 'numpy' not in sys.modules; M.dtype; assert 'numpy' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_checks_are_no_columns():
    """What a nested message checks is not shown as a column of its own."""

    class Inner(Message):
        count: int = wire(C.Int8ub, value=count_of("values"))
        values: list[int] = wire(C.Array(2, C.Int8ub))

    class Outer(Message):
        inner: Inner = wire(Inner.construct)
        last: int = wire(C.Int8ub)

    assert ("inner.count", "inner.values", "last") == columns_of(Outer).names
