"""
What cannot work is refused when the class is defined, by name and with the reason.
"""

from __future__ import annotations

import enum

import construct as c
import pytest
from construct import this

from protoserve import (
    DeclarationError,
    Message,
    Request,
    checksum_of,
    checksums,
    count_of,
    length_of,
    wire,
)


class Rest(Message):
    kind: int = wire(c.Int8ub)
    rest: bytes = wire(c.GreedyBytes)


def refusal(define):
    with pytest.raises(DeclarationError) as caught:
        define()
    return str(caught.value)


def holder(*constructs, **options):
    """Define a message of some fields: f0, f1 and so on."""

    def define():
        names = [f"f{i}" for i in range(len(constructs))]
        namespace = {name: wire(sc) for name, sc in zip(names, constructs, strict=True)}
        namespace |= {"__annotations__": dict.fromkeys(names, object)}
        options.setdefault("kw_only", True)
        return type(Message)("Holder", (Message,), namespace, **options)

    return define


@pytest.mark.parametrize(
    "construct",
    [
        c.Pickled,
        c.Debugger(c.Int8ub),
        c.Lazy(c.Int8ub),
        c.Int8ub.compile(),
        c.Struct("x" / c.Pickled),
        c.Array(2, c.Debugger(c.Int8ub)),
        c.Prefixed(c.Int8ub, c.Pickled),
        c.Switch(this.f0, {1: c.Pickled}),
        c.Switch(this.f0, {}, default=c.Pickled),
        c.If(this.f0, c.Struct("y" / c.Lazy(c.Int8ub))),
        c.Optional(c.Pickled),
        c.Sequence(c.Pickled),
        c.FocusedSeq("a", "a" / c.Pickled),
        c.Union(0, "a" / c.Pickled),
    ],
)  # fmt: skip
def test_unsafe(construct):
    """What runs or shows things may stand nowhere in a message."""
    text = refusal(holder(c.Int8ub, construct))
    assert "Holder.f1: " in text
    assert "is refused: " in text


GREEDY = [
    c.GreedyBytes,
    c.GreedyString("utf8"),
    c.GreedyRange(c.Int8ub),
    c.Struct("a" / c.Int8ub, "b" / c.GreedyBytes),
    c.Sequence(c.Int8ub, c.GreedyBytes),
    c.Optional(c.GreedyBytes),
    c.If(True, c.GreedyBytes),
    c.IfThenElse(True, c.Int8ub, c.GreedyBytes),
    c.Switch(1, {1: c.Int8ub, 2: c.GreedyBytes}),
    c.Switch(1, {}, default=c.GreedyBytes),
    c.Compressed(c.GreedyBytes, "zlib"),
    c.NullStripped(c.GreedyBytes),
    c.Hex(c.GreedyBytes),
    c.Renamed(c.GreedyBytes, newdocs="text"),
    c.FocusedSeq("b", "a" / c.Int8ub, "b" / c.GreedyBytes),
    c.Aligned(4, c.GreedyBytes),
    c.RawCopy(c.GreedyBytes),
    c.ProcessXor(1, c.GreedyBytes),
    c.Select(c.Int8ub, c.GreedyBytes),
    Rest.construct,
    c.Switch(1, {1: Rest.construct}),
]


@pytest.mark.parametrize("construct", GREEDY, ids=lambda sc: repr(sc)[:40])
def test_greedy_in_the_middle(construct):
    """Nothing can be reached behind what takes everything."""
    text = refusal(holder(construct, c.Int8ub))
    assert "Holder.f0 takes all bytes to the end of the data" in text
    assert "Holder.f1 behind it could never be reached" in text


@pytest.mark.parametrize("construct", GREEDY, ids=lambda sc: repr(sc)[:40])
def test_greedy_inside(construct):
    """That holds inside of structures as well."""
    assert "f0" in refusal(holder(c.Struct("x" / construct, "y" / c.Int8ub)))
    assert "f0" in refusal(holder(c.Sequence(construct, c.Int8ub)))
    assert "f0[1]" in refusal(holder(c.Array(2, construct)))
    assert "f0[1]" in refusal(holder(c.GreedyRange(construct)))
    assert "f0[1]" in refusal(holder(c.PrefixedArray(c.Int8ub, construct)))
    assert "f0[1]" in refusal(holder(c.RepeatUntil(True, construct)))
    assert "f0" in refusal(
        holder(c.Prefixed(c.Int8ub, c.Struct("x" / construct, "y" / c.Int8ub)))
    )
    assert "f0" in refusal(
        holder(c.Switch(1, {1: c.Struct("x" / construct, "y" / c.Int8ub)}))
    )


@pytest.mark.parametrize("construct", GREEDY, ids=lambda sc: repr(sc)[:40])
def test_greedy_at_the_end_or_bounded(construct):
    """At the end it is fine, and in the middle where something bounds it."""
    holder(c.Int8ub, construct)()
    holder(construct, c.Pass)()
    holder(construct, c.Terminated)()
    holder(c.Prefixed(c.Int8ub, construct), c.Int8ub)()
    holder(c.FixedSized(4, construct), c.Int8ub)()
    holder(c.NullTerminated(construct), c.Int8ub)()
    holder(c.Array(3, c.Prefixed(c.Int8ub, construct)), c.Int8ub)()


@pytest.mark.parametrize(
    "construct",
    [
        c.Bitwise(c.Array(8, c.Bit)),
        c.Bitwise(c.Octet),
        c.ByteSwapped(c.Int24ub),
        c.Prefixed(c.Int8ub, c.Bitwise(c.Nibble[2])),
        c.Array(2, c.Bitwise(c.Octet)),
    ],
)
def test_whole_bytes_of_bits(construct):
    """A construct that makes bytes of bits is no bit field itself."""
    cls = holder(construct, c.Int8ub)()
    data = bytes(range(1, 10))[
        : construct.sizeof() if "Prefixed" not in repr(construct) else 2
    ]
    assert 5 == cls.parse(data + b"\x05").f1


def test_bits_that_fill_no_byte():
    """Neighbouring bit fields make whole bytes."""
    text = refusal(holder(c.BitsInteger(3), c.Nibble, c.Int8ub))
    assert "the bit fields f0, f1 make 7 bits" in text
    refusal(holder(c.Int8ub, c.Bit))
    refusal(holder(c.BitsInteger(4), c.Int8ub, c.BitsInteger(4)))
    refusal(holder(c.BitsInteger(4), c.Flag, bits=True))


@pytest.mark.parametrize(
    "name",
    ["parse", "construct", "from_construct", "is_error", "__bytes__", "__init__"],
)
def test_shadowing(name):
    """A field may not hide a method."""
    namespace = {name: wire(c.Int8ub), "__annotations__": {name: int}}
    text = refusal(lambda: type(Message)("Holder", (Message,), namespace))
    assert f"Holder.{name}: a field of this name would shadow" in text


def test_a_field_without_a_format():
    """Each field says how it is encoded."""

    def define():
        class Holder(Message):
            a: int = wire(c.Int8ub)
            b: int

    assert "Holder.b: say how it is encoded with wire(…)" in refusal(define)


def test_a_field_without_an_annotation():
    """Each field has a type."""

    def define():
        class Holder(Message):
            a = wire(c.Int8ub)

    assert "Holder" in refusal(define)


def test_a_default_in_front():
    """A field without a default does not stand behind one that has one."""

    def define():
        class Holder(Message):
            a: int = wire(c.Int8ub, default=1)
            b: int = wire(c.Int8ub)

    assert "Holder.b" in refusal(define)


@pytest.mark.parametrize("construct", [int, "Int8ub", 8, None, object()])
def test_no_construct(construct):
    """wire() takes Construct objects and messages."""
    assert repr(construct) in refusal(lambda: wire(construct))


class Color(enum.Enum):
    RED = 1


@pytest.mark.parametrize(
    "define",
    [
        lambda: wire(c.Int8ub, value=3),
        lambda: wire(c.Int8ub, value=length_of("a"), default=1),
        lambda: wire(c.Int8ub, value=length_of("a"), factory=int),
        lambda: wire(c.Int8ub, strict=True),
        length_of,
        lambda: length_of("a", "b", "c"),
        lambda: length_of(3),
        lambda: length_of("a", unit=0),
        lambda: checksum_of("a", using=3),
        lambda: checksum_of(using=sum),
        lambda: count_of(1),
    ],
)
def test_options_that_exclude_each_other(define):
    """Nonsense is told where it is written."""
    assert refusal(define)


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        (length_of("gone"), "the field 'gone', which Holder does not have"),
        (length_of("b", "gone"), "'gone'"),
        (length_of("b", "a"), "name the first field of the span first"),
        (count_of("gone"), "'gone'"),
        (count_of("a"), "it cannot count itself"),
        (checksum_of("gone", using=checksums.crc32), "'gone'"),
    ],
)
def test_values_of_nothing(rule, text):
    """A computed value speaks of fields that are there."""

    def define():
        class Holder(Message):
            a: int = wire(c.Int8ub, value=rule)
            b: bytes = wire(c.GreedyBytes)

    told = refusal(define)
    assert "Holder.a: " in told
    assert text in told


def test_hidden_fields_have_no_value():
    """A leading underscore is for padding."""
    namespace = {"_a": wire(c.Int8ub), "__annotations__": {"_a": int}}
    text = refusal(lambda: type(Message)("Holder", (Message,), namespace))
    assert "Holder._a" in text


def test_requests_are_answered_by_messages():
    """`Request[int]` is told at once."""

    def define():
        class Ask(Request[int]):
            a: int = wire(c.Int8ub)

    assert "Request[<class 'int'>]" in refusal(define)


@pytest.mark.parametrize(
    ("construct", "text"),
    [
        (c.Int8ub, "from_construct takes a Struct or BitStruct"),
        (c.Struct("a b" / c.Int8ub), "'a b' cannot be a field's name"),
        (c.Struct("class" / c.Int8ub), "'class' cannot be a field's name"),
        (c.Struct("parse" / c.Int8ub), "would shadow Message.parse"),
        (c.Struct("a" / c.Pickled), "is refused"),
        (c.Struct("a" / c.GreedyBytes, "b" / c.Int8ub), "could never be reached"),
    ],
)
def test_from_construct(construct, text):
    """A Construct format is held to the same rules."""
    assert text in refusal(lambda: Message.from_construct("Holder", construct))


@pytest.mark.parametrize(
    "construct",
    [
        c.Array(this.cuont, c.Int8ub),
        c.Bytes(this["cuont"]),
        c.FixedSized(2 * this.f0 + this.cuont, c.GreedyBytes),
        c.If(this.f0 > 1, c.Bytes(this.cuont)),
        c.Switch(this.cuont.kind, {1: c.Int8ub}),
        c.Rebuild(c.Int8ub, c.len_(this.cuont)),
    ],
    ids=repr,
)
def test_unknown_names(construct):
    """What refers to a field that is not there is refused, with those that are."""
    text = "Holder.f1: this.cuont names a field that Holder does not have (it has f0, "
    assert refusal(holder(c.Int8ub, construct)).startswith(text)


class Naming(c.Subconstruct):
    """Puts a name where its parts find it."""

    def _parse(self, stream, context, path):
        context["own"] = 1
        return self.subcon._parsereport(stream, context, path)


@pytest.mark.parametrize(
    "construct",
    [
        c.Bytes(this._.width),
        c.Bytes(this._root.width),
        c.Struct("n" / c.Int8ub, "x" / c.Bytes(this.n)),
        c.FocusedSeq("x", "n" / c.Int8ub, "x" / c.Bytes(this.n)),
        c.Rebuild(c.Int8ub, this.f0),
        c.RepeatUntil(c.obj_ == this.f0, c.Int8ub),
        Naming(c.Bytes(this.own)),
    ],
    ids=repr,
)
def test_known_names(construct):
    """Names of other structures, and those that a class of one's own may put there."""
    holder(c.Int8ub, construct)()


def test_caps_are_caps():
    """What is no Caps is told where it is written, and not when a peer sends."""
    assert "Holder: caps= takes Caps(…), not 3" == refusal(holder(c.Int8ub, caps=3))


def test_two_defaults():
    """A default is one value."""
    text = refusal(lambda: wire(c.Int8ub, default=1, factory=int))
    assert "default= and factory= exclude each other" in text
