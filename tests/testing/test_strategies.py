"""
Messages made from a declaration alone are messages.
"""

from __future__ import annotations

import enum
import subprocess
import sys

import attrs
import construct as c
import pytest
from construct import obj_, this
from hypothesis import HealthCheck, Phase, find, given, settings
from hypothesis import strategies as st

from protoserve import (
    DeclarationError,
    Direction,
    Message,
    Protocol,
    checksum_of,
    checksums,
    count_of,
    length_of,
    wire,
)
from protoserve.testing import from_message, from_protocol
from protoserve.testing._hints import constants_of, hints_of, names_of


def run(strategy, check, examples=60):
    """Try a check on some examples; the same ones each time."""

    @settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        suppress_health_check=[HealthCheck.too_slow],
    )
    @given(strategy)
    def trial(example):
        check(example)

    trial()


def found(strategy, condition):
    """Look for an example."""
    return find(
        strategy,
        condition,
        settings=settings(
            max_examples=2_000, derandomize=True, phases=[Phase.generate], deadline=None
        ),
    )


def one(construct, **options):
    """A message of one field behind a number."""

    class Holder(Message):
        n: int = wire(c.Int8ub)
        field: object = wire(construct, kw_only=True, **options)

    return Holder


class Color(enum.Enum):
    RED = 1
    BLUE = 200
    FAR = 70_000


class Access(enum.IntFlag):
    READ = 1
    WRITE = 8


class Sample(Message):
    kind: int = wire(c.Int8ub)
    text: str = wire(c.CString("utf8"))


class Node(Message):
    value: int = wire(c.Int8ub)
    children: list[object] = wire(
        c.PrefixedArray(c.Int8ub, c.LazyBound(lambda: Node.construct))
    )


class Doubled(c.Adapter):
    def _decode(self, obj, context, path):
        return obj * 2

    def _encode(self, obj, context, path):
        return obj // 2


class Length(c.Construct):
    """A user's own: a byte that is one of four."""

    def _parse(self, stream, context, path):
        number = stream.read(1)[0]
        if number > 3:
            raise c.ConstructError("too much")
        return "x" * number

    def _build(self, obj, stream, context, path):
        stream.write(bytes((len(obj),)))
        return obj


PLAIN = [
    c.Int8ub, c.Int16sl, c.Int64ub, c.Int24ub, c.Int24sl, c.BytesInteger(7, signed=True),
    c.BytesInteger(3, swapped=True), c.VarInt, c.ZigZag, c.Flag,
    c.Float16b, c.Float32l, c.Float64b,
    c.Bytes(5), c.Bytes(300), c.Bytes(0), c.GreedyBytes, c.Bytes(this.n), c.Bytes(this.n - 3),
    c.PascalString(c.Int8ub, "utf8"), c.PascalString(c.VarInt, "utf-16"),
    c.PascalString(c.Int16ub, "shift_jis"), c.PascalString(c.Int8ub, "cp1250"),
    c.CString("utf8"), c.CString("utf16"), c.CString("utf-32-le"), c.CString("ascii"),
    c.PaddedString(1, "utf8"), c.PaddedString(9, "utf16"), c.PaddedString(200, "ascii"),
    c.PaddedString(this.n, "utf8"), c.GreedyString("latin-1"), c.GreedyString("utf-8"),
    c.StringEncoded(c.Bytes(this.n), "utf8"), c.StringEncoded(c.Bytes(4), "utf-16-le"),
    c.FixedSized(6, c.GreedyString("utf8")),
    c.StringEncoded(c.NullTerminated(c.GreedyBytes, term=b"\r\n"), "ascii"),
    c.Enum(c.Int8ub, a=1, b=2), c.Enum(c.Int16ul, Access),
    c.FlagsEnum(c.Int8ub, a=1, b=128), c.Mapping(c.Int8ub, {"x": 1, "y": 2}),
    c.Const(b"M"), c.Const(3, c.Int8ub), c.Default(c.Int8ub, 3), c.Padding(2), c.Pass,
    c.Hex(c.Int16ub), c.HexDump(c.Bytes(2)),
    c.Array(3, c.Int16ub), c.Array(0, c.Int8ub), c.Array(500, c.Int8ub),
    c.Array(this.n, c.Int8ub), c.Array(this.n % 3, c.Array(this.n, c.Flag)),
    c.Array(lambda this: this.n + 1, c.Int8ub), c.LazyArray(2, c.Int8ub),
    c.PrefixedArray(c.Int8ub, c.PrefixedArray(c.VarInt, c.Int8ub)),
    c.GreedyRange(c.Int16ub), c.GreedyRange(c.PascalString(c.Int8ub, "utf8")),
    c.RepeatUntil(obj_ == 0, c.Int8ub), c.RepeatUntil(lambda x, lst, ctx: x == 255, c.Int8ub),
    c.RepeatUntil(lambda x, lst, ctx: x.k == 7, c.Struct("k" / c.Int8ub, "v" / c.Int8ub)),
    c.Prefixed(c.Int8ub, c.GreedyBytes), c.Prefixed(c.Int16ub, c.GreedyRange(c.Int16ub)),
    c.Prefixed(c.Int8ub, c.GreedyBytes, includelength=True),
    c.FixedSized(9, c.GreedyBytes), c.FixedSized(9, c.Int8ub), c.FixedSized(this.n, c.GreedyBytes),
    c.FixedSized(8, c.Struct("a" / c.Int8ub, "b" / c.GreedyBytes)),
    c.FixedSized(7, c.GreedyRange(c.Int8ub)),
    c.Padded(5, c.Int16ub), c.Padded(5, c.CString("ascii")),
    c.Aligned(4, c.Int8ub), c.Aligned(4, c.PascalString(c.Int8ub, "ascii")),
    c.NullTerminated(c.GreedyBytes), c.NullTerminated(c.GreedyBytes, term=b"ab"),
    c.NullTerminated(c.GreedyString("utf8")),
    c.NullStripped(c.GreedyBytes), c.FixedSized(5, c.NullStripped(c.GreedyBytes, pad=b" ")),
    c.Switch(this.n, {1: c.Int8ub, 200: c.Bytes(2)}), c.Switch(this.n, {9: c.Int8ub}, default=c.Error),
    c.Switch(lambda this: this.n & 7, {1: c.Int8ub, 2: Sample.construct}, default=c.GreedyBytes),
    c.If(this.n == 200, c.Int8ub), c.IfThenElse(this.n > 100, c.Int8ub, c.CString("utf8")),
    c.Optional(c.Int16ub), c.Select(c.Const(b"A"), c.Int16ub),
    c.Optional(c.PascalString(c.Int8ub, "utf8")), c.Optional(c.GreedyBytes),
    c.Struct("a" / c.Int8ub, c.Padding(1), "b" / c.Array(this.a, c.Int8ub)),
    c.Struct("a" / c.Bytes(this._.n), "b" / c.Bytes(this._root.n)),
    c.Struct("n" / c.Rebuild(c.Int8ub, c.len_(this.v)), "v" / c.Array(this.n, c.Int8ub)),
    c.Struct("a" / c.Int8ub, "b" / c.Computed(this.a + 1), "c" / c.Index),
    c.Struct("a" / c.Int8ub, c.StopIf(this.a == 0), "b" / c.Int8ub),
    c.Struct("a" / c.Int8ub, c.Check(this.a == 77)), c.Struct("a" / c.Int8ub, c.Terminated),
    c.LazyStruct("a" / c.Int8ub, "b" / c.CString("utf8")),
    c.Sequence(c.Int8ub, c.Const(b"x"), "z" / c.Int8ub),
    c.FocusedSeq("b", c.Const(b"x"), "b" / c.Int16ub),
    c.BitStruct("a" / c.BitsInteger(3), "b" / c.Flag, c.Padding(4)),
    c.Bitwise(c.Array(8, c.Bit)), c.ByteSwapped(c.Int24ub), c.BitsSwapped(c.Bytes(2)),
    c.ProcessXor(7, c.GreedyBytes), c.ProcessRotateLeft(3, 1, c.GreedyBytes),
    c.Compressed(c.GreedyString("utf8"), "zlib"),
    c.OneOf(c.Int8ub, [3, 200]), c.NoneOf(c.Int8ub, [0]),
    c.ExprValidator(c.Int8ub, obj_ % 2 == 0),
    Doubled(c.Int8ub), c.ExprAdapter(c.Int8ub, obj_ + 1, obj_ - 1),
    c.ExprSymmetricAdapter(c.Int8ub, lambda obj, ctx: 255 - obj),
    c.LazyBound(lambda: Sample.construct), Sample.construct, Node.construct,
    c.Array(2, Node.construct), c.Renamed(c.Int8ub, newdocs="documented"),
    Length(), c.Array(2, Length()),
]  # fmt: skip


@pytest.mark.parametrize("construct", PLAIN, ids=lambda sc: repr(sc)[:50])
def test_messages_come_back(construct):
    """What is made from a declaration builds, and parses to itself."""
    cls = one(construct)

    def check(message):
        assert message == cls.parse(bytes(message))

    run(from_message(cls), check, examples=40)


class Everything(Message):
    """A bit of all that is sure to fit together."""

    count: int = wire(c.Int8ub, value=count_of("samples"))
    length: int = wire(c.Int16ub, value=length_of("blob", plus=2))
    plain: int = wire(c.Int8ub)
    kind: int = wire(c.Int16ub)
    nibble: int = wire(c.Nibble)
    high: int = wire(c.Nibble, validator=attrs.validators.in_([3, 5]))
    color: Color = wire(c.Int8ub, enum=Color, strict=True)
    tolerant: Color | int = wire(c.Int8ub, enum=Color)
    access: Access | int = wire(c.Int8ub, enum=Access)
    level: int = wire(
        c.Int16ub, validator=[attrs.validators.ge(1_000), attrs.validators.lt(1_010)]
    )
    samples: list[Sample] = wire(c.Array(this.count, Sample.construct))
    values: list[int] = wire(c.Array(this.plain, c.Int24ul))
    body: object = wire(c.Switch(this.kind, {1: c.Int8ub, 60_000: Sample.construct}))
    blob: bytes = wire(c.Bytes(this.length - 2))
    name: str = wire(c.CString("ascii"), converter=str.lower)
    _pad: None = wire(c.Padding(1))
    sum: int = wire(
        c.Int16ub, value=checksum_of("count", "blob", using=checksums.crc16_xmodem)
    )


def test_nothing_is_wasted():
    """Examples of an ordinary declaration fit together at once."""
    strategy = from_message(Everything)

    def check(message):
        assert message == Everything.parse(bytes(message))
        assert message.high in (3, 5)
        assert 1_000 <= message.level < 1_010

    run(strategy, check, examples=100)


@pytest.mark.parametrize(
    "condition",
    [
        lambda m: len(m.samples) >= 3,
        lambda m: len(m.values) >= 5,
        lambda m: isinstance(m.body, int),
        lambda m: isinstance(m.body, Sample),
        lambda m: m.body is None,
        lambda m: m.color is Color.BLUE,
        lambda m: not isinstance(m.tolerant, Color),
        lambda m: m.access == Access.READ | Access.WRITE,
        lambda m: len(m.blob) > 4,
        lambda m: any(ord(ch) > 0xFFFF for s in m.samples for ch in s.text),
    ],
)
def test_what_is_reached(condition):
    """Every branch of a declaration is found."""
    assert condition(found(from_message(Everything), condition))


def test_optional_parts():
    """What is optional is there or not, but never behind what is not."""

    class Trailing(Message):
        kind: int = wire(c.Int8ub)
        first: int | None = wire(c.Optional(c.Int16ub), default=None)
        second: int | None = wire(c.Optional(c.Int16ub), default=None)

    strategy = from_message(Trailing)
    run(strategy, lambda m: m.second is None or m.first is not None or 1 / 0)
    found(strategy, lambda m: m.second is not None)
    found(strategy, lambda m: m.first is None)


def test_conditions_on_lengths():
    """Both outcomes of a condition on a computed length are found."""

    class Packet(Message):
        length: int = wire(c.Int8ub, value=length_of("a", "b"))
        a: bytes = wire(c.Prefixed(c.Int8ub, c.GreedyBytes))
        b: int | None = wire(c.If(this.length > 4, c.Int32ub), default=None)

    strategy = from_message(Packet)
    run(strategy, lambda m: m == Packet.parse(bytes(m)) or 1 / 0)
    found(strategy, lambda m: m.b is not None)
    found(strategy, lambda m: m.b is None)


def test_counts_of_lists_that_end_otherwise():
    """A count agrees with a list that ends by itself."""

    class Packet(Message):
        count: int = wire(c.BitsInteger(2), value=count_of("items"))
        rest: int = wire(c.BitsInteger(6))
        flag: int | None = wire(c.If(this.count == 2, c.Int8ub), default=None)
        items: list[int] = wire(c.GreedyRange(c.Int8ub), factory=list)

    strategy = from_message(Packet)
    run(strategy, lambda m: m == Packet.parse(bytes(m)) or 1 / 0)
    found(strategy, lambda m: len(m.items) == 3)
    found(strategy, lambda m: m.flag is not None)


def test_recursion_ends():
    """Structures of themselves are deep, but not too deep."""
    strategy = from_message(Node)
    found(strategy, lambda m: m.children and m.children[0].children)
    node = c.Struct(
        "v" / c.Int8ub, "next" / c.If(this.v > 0, c.LazyBound(lambda: node))
    )
    run(from_message(one(node)), bytes)


def test_overrides():
    """Fields may be given, as values or as strategies."""
    strategy = from_message(Everything, plain=2, kind=st.just(1), blob=b"xyz")

    def check(message):
        assert (2, 1, b"xyz") == (message.plain, message.kind, message.blob)
        assert 2 == len(message.values)
        assert isinstance(message.body, int)

    run(strategy, check, examples=10)


@pytest.mark.parametrize(
    ("overrides", "text"),
    [
        ({"gone": 1}, "no field 'gone'"),
        ({"count": 1}, "Everything.count is the number of"),
    ],
)
def test_wrong_overrides(overrides, text):
    """A wrong name is told when the strategy is made."""
    with pytest.raises(DeclarationError, match=text):
        from_message(Everything, **overrides)


def test_kinds():
    """One's own Construct classes may be told how they are made."""
    strategy = from_message(one(Length()), {Length: lambda _: st.just("xx")})
    run(strategy, lambda m: m.field == "xx" or 1 / 0, examples=10)


class Impossible(c.Construct):
    def _parse(self, stream, context, path):
        raise c.ConstructError("never")


@pytest.mark.parametrize(
    ("cls", "text"),
    [
        (
            one(Impossible()),
            "Holder.field: nothing is known about values of Impossible",
        ),
        (
            one(c.Bytes(this._.size)),
            "refers to 'size', which is not there.*from_protocol",
        ),
        (
            one(c.Struct(c.Check(False))),
            "Holder: no message could be made .*check fails",
        ),
        (one(c.Int8ub, validator=attrs.validators.gt(300)), "must be > 300"),
        (one(c.Error), "a declared error"),
    ],
)
def test_what_cannot_be_made(cls, text):
    """It is said which field, and why."""
    trial = settings(
        max_examples=1_000, deadline=None, suppress_health_check=list(HealthCheck),
        derandomize=True,
    )(given(from_message(cls))(lambda message: None))  # fmt: skip
    with pytest.raises(DeclarationError, match=text):
        trial()


class Head(Message):
    version: int = wire(c.BitsInteger(4), default=1)
    kind: Access | int = wire(c.BitsInteger(4), enum=Access, default=0)
    width: int = wire(c.Int8ub, default=1)
    length: int = wire(c.Int16ub, value=length_of("header", "body"))
    wide: object = wire(c.If(this.kind == 8, c.Int8ub), default=None)


class Sized(Message):
    number: bytes = wire(c.Bytes(this._.width))
    rest: bytes = wire(c.Bytes(this._.length - this._.width - 4))


class Plain(Message):
    mode: int | None = wire(c.If(this._.session.deep, c.Int8ub))
    version: object = wire(c.Switch(this._.version, {1: c.Int8ub, 2: c.Int16ub}))


heads = Protocol(
    "heads",
    header=Head,
    tag="kind",
    requests={Access.READ: Sized, Access.WRITE: Plain},
    responses={3: Sized},
)


@pytest.mark.parametrize("direction", list(Direction))
def test_frames(direction):
    """Header and body fit together."""
    session = {"deep": True}

    def check(example):
        parsed = heads.parse(example.frame, direction, session=session)
        assert example.message == parsed.message
        assert example.header == parsed.header

    run(from_protocol(heads, direction, session=session), check)


def test_only_some_messages():
    """The messages wanted can be named."""
    session = {"deep": False}
    strategy = from_protocol(heads, Direction.REQUEST, only=Plain, session=session)
    run(strategy, lambda e: isinstance(e.message, Plain) or 1 / 0, examples=10)
    strategy = from_protocol(
        heads, Direction.REQUEST, only=(Plain, Sized), session=session
    )
    assert {Plain, Sized} == {
        type(found(strategy, lambda e, cls=cls: isinstance(e.message, cls)).message)
        for cls in (Plain, Sized)
    }
    with pytest.raises(DeclarationError, match="no such response"):
        from_protocol(heads, Direction.RESPONSE, only=Plain)


def test_tags_of_every_kind():
    """Tags may be nested, tuples, functions or missing."""

    class Inner(Message):
        a: int = wire(c.Int8ub)
        b: int = wire(c.Int8ub)

    class Outer(Message):
        inner: Inner = wire(Inner)
        c: int = wire(c.Int8ub)

    class Body(Message):
        a: bytes = wire(c.Bytes(this._.inner.a))

    for tag, value in [
        ("c", 7),
        ("inner.a", 7),
        (("inner.a", "c"), (1, 2)),
        (lambda header: header.c & 0x7F, 9),
    ]:
        protocol = Protocol("tagged", header=Outer, tag=tag, messages={value: Body})

        def check(example, protocol=protocol):
            parsed = protocol.parse(example.frame, Direction.REQUEST)
            assert (example.header, example.message) == (parsed.header, parsed.message)

        run(from_protocol(protocol, Direction.REQUEST), check, examples=20)
    lonely = Protocol("lonely", messages=Inner)
    run(
        from_protocol(lonely, Direction.RESPONSE),
        lambda e: e.header is None or 1 / 0,
        examples=5,
    )


def test_frame_examples_show_their_bytes():
    """The bytes are shown as people read them."""
    example = found(from_protocol(heads, Direction.RESPONSE), lambda _: True)
    assert f"frame={example.frame.hex(' ')}" in repr(example)


def test_hints():
    """Names and constants are read from expressions of all kinds."""
    assert ["kind", "head"] == list(names_of(this._.head.kind))
    assert {"a", "b"} == set(names_of((this.a + 1 > this.b) & ~this.a))
    assert "n" in set(names_of(lambda this: this.n * 2))
    assert "items" in set(names_of(c.len_(this.items)))
    assert [] == list(names_of(7))
    assert [3] == list(constants_of(this.kind == 3))
    assert {1, 2} <= set(constants_of(lambda this: this.kind in (1, 2)))
    assert [] == list(constants_of(obj_))
    hints = hints_of(Everything.construct)
    assert {"plain", "count"} <= hints.sizes
    assert (1, 60_000) == hints.choices["kind"]


def test_hypothesis_is_not_imported_by_protoserve():
    """It is a tool of tests."""
    code = "import sys, protoserve, protoserve.testing; sys.exit('hypothesis' in sys.modules)"
    assert 0 == subprocess.run([sys.executable, "-c", code], check=False).returncode


def test_the_names_of_the_package():
    """The package has what it says, and nothing else."""
    import protoserve.testing

    for name in protoserve.testing.__all__:
        assert getattr(protoserve.testing, name)
    with pytest.raises(AttributeError, match="gone"):
        _ = protoserve.testing.gone


def test_without_hypothesis():
    """Who has not installed Hypothesis is told how to."""
    code = (
        "import sys; sys.modules['hypothesis'] = None; "
        "from protoserve.testing import TestClient, from_message"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stderr.splitlines()[-1] == (
        "ModuleNotFoundError: protoserve.testing.from_message needs Hypothesis; "
        "install it with pip install 'protoserve[test]'"
    )
