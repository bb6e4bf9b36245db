"""
Messages are ordinary values: attrs classes with slots.
"""

from __future__ import annotations

import copy
import pickle
from typing import ClassVar

import attrs
import construct as c
import pytest
from construct import this

from protoserve import (
    Direction,
    InvalidMessageError,
    MalformedMessageError,
    Message,
    Protocol,
    Request,
    checksum_of,
    checksums,
    count_of,
    length_of,
    wire,
)
from protoserve.codec import compiled
from protoserve.codec.fault import plural


class Sample(Message):
    kind: int = wire(c.Int8ub, doc="which", unit="°C")
    value: int = wire(c.Int16ub, default=0)


class Reading(Message):
    """One burst of measurements."""

    SOURCE: ClassVar[str] = "a station"

    device: int = wire(c.Int32ub)
    count: int = wire(c.Int8ub, value=count_of("samples"))
    samples: list[Sample] = wire(c.Array(this.count, Sample.construct), factory=list)
    sum: int = wire(
        c.Int8ub, value=checksum_of("device", "samples", using=checksums.sum8)
    )

    def total(self) -> int:
        return sum(sample.value for sample in self.samples)


class Frozen(Message, frozen=True):
    kind: int = wire(c.Int8ub)
    size: int = wire(c.Int8ub, value=length_of("data"))
    data: bytes = wire(c.Bytes(this.size))


@pytest.fixture
def reading():
    return Reading(7, [Sample(1, 2), Sample(3)])


def test_slots(reading):
    """There is no room for misspelt attributes."""
    with pytest.raises(AttributeError):
        reading.devise = 8
    assert not hasattr(reading, "__dict__")


def test_constructor():
    """Names or places, defaults or not."""
    assert Sample(1, 0) == Sample(kind=1) == Sample(1)
    with pytest.raises(TypeError):
        Sample()
    with pytest.raises(TypeError):
        Sample(1, valu=3)


def test_equality(codec, reading):
    """Equal values are equal, wherever they come from; classes are not mixed."""
    again = codec.parse(Reading, codec.build(reading))
    assert reading == again
    again.samples[0].value += 1
    assert reading != again

    class Other(Message):
        kind: int = wire(c.Int8ub)
        value: int = wire(c.Int16ub)

    assert Other(1, 2) != Sample(1, 2)


def test_repr(reading):
    """A message shows what it is made of."""
    assert (
        "Reading(device=7, samples=[Sample(kind=1, value=2), Sample(kind=3, value=0)])"
        == repr(reading)
    )


def test_attributes_of_the_class(reading):
    """Methods, docstrings and class variables stay."""
    assert 2 == reading.total()
    assert "a station" == Reading.SOURCE
    assert "One burst of measurements." == Reading.__doc__.strip()
    assert "Reading" == Reading.__name__


def test_own_init_false_fields_of_fresh_messages():
    """A fresh message answers for its computed fields, and for no others."""
    assert (2, 1) == (Reading(7, [Sample(1), Sample(2)]).count, Reading(0).sum + 1)
    with pytest.raises(
        AttributeError, match="'Sample' object has no attribute 'colour'"
    ):
        _ = Sample(1).colour


@pytest.mark.parametrize(
    "copied", [copy.copy, copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))]
)
def test_copies(codec, copied, reading):
    """Fresh and parsed messages are copied and pickled."""
    for message in (
        reading,
        codec.parse(Reading, codec.build(reading)),
        Frozen(1, b"x"),
    ):
        again = copied(message)
        assert message == again
        assert message is not again
        assert codec.build(message) == codec.build(again)


def test_deepcopy_is_deep(reading):
    """Nested messages are copied, too."""
    again = copy.deepcopy(reading)
    again.samples[0].value = 99
    assert 2 == reading.samples[0].value


def test_evolve(codec, reading):
    """attrs.evolve changes fields, of parsed messages as well."""
    parsed = codec.parse(Reading, codec.build(reading))
    again = attrs.evolve(parsed, samples=[])
    assert Reading(7) == again
    assert 0 == again.count
    assert bytes.fromhex("00000007 00 07") == codec.build(again)
    assert 2 == parsed.count


def test_asdict(reading):
    """attrs.fields and attrs.asdict know messages."""
    names = [a.name for a in attrs.fields(Reading)]
    assert ["device", "count", "samples", "sum"] == names
    assert 7 == attrs.asdict(Sample(7))["kind"]


def test_frozen(codec):
    """A frozen message cannot be changed, and can be a key."""
    message = codec.parse(Frozen, b"\1\1x")
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        message.kind = 2
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        message.size = 2
    assert {Frozen(1, b"x"): 1}[message] == 1
    assert b"\1\1x" == codec.build(message)
    assert 1 == Frozen(1, b"x").size
    assert b"\1\3abc" == codec.build(attrs.evolve(message, data=b"abc"))


def test_kw_only(codec):
    """The class option makes all arguments named."""

    class Named(Message, kw_only=True):
        a: int = wire(c.Int8ub, default=1)
        b: int = wire(c.Int8ub)

    with pytest.raises(TypeError):
        Named(1, 2)
    assert b"\1\2" == codec.build(Named(b=2))


def positive(_instance, attribute, value):
    if value <= 0:
        raise ValueError(f"{attribute.name} must be positive")


class Checked(Message):
    before: int = wire(c.Int16ub)
    level: int = wire(c.Int8sb, validator=positive)
    name: str = wire(c.CString("ascii"), converter=str.upper, default="x")


def test_validators_when_parsing(codec):
    """What a validator refuses is malformed, at the field's offset."""
    assert 5 == codec.parse(Checked, b"\0\0\5a\0").level
    with pytest.raises(MalformedMessageError) as caught:
        codec.parse(Checked, b"\0\0\xffa\0")
    assert ("Checked.level", 2) == (caught.value.path, caught.value.offset)
    assert "level must be positive" in caught.value.expected
    assert "-1" == caught.value.found


def test_validators_when_made():
    """What a validator refuses cannot be made."""
    with pytest.raises(ValueError, match="level must be positive"):
        Checked(0, -1)


def test_converters(codec):
    """Values are converted, parsed ones as well."""
    assert "ABC" == Checked(0, 1, "abc").name
    assert "ABC" == codec.parse(Checked, b"\0\0\1abc\0").name


def test_nested_validators(codec):
    """The path of a nested message's field is whole."""

    class Holder(Message):
        parts: list[Checked] = wire(c.Array(2, Checked.construct))

    with pytest.raises(MalformedMessageError) as caught:
        codec.parse(Holder, b"\0\0\1a\0" + b"\0\0\0b\0")
    assert ("Holder.parts[1].level", 7) == (caught.value.path, caught.value.offset)


def test_post_init(codec):
    """A hook runs for parsed messages, and what it raises is malformed."""

    class Hooked(Message):
        low: int = wire(c.Int8ub)
        high: int = wire(c.Int8ub)
        size: int = wire(c.Int8ub, value=length_of("low", "high"))

        def __attrs_post_init__(self):
            if self.low > self.high:
                raise ValueError("low above high")

    assert Hooked(1, 2) == codec.parse(Hooked, b"\1\2\2")
    assert 2 == codec.parse(Hooked, b"\1\2\2").size
    with pytest.raises(MalformedMessageError) as caught:
        codec.parse(Hooked, b"\2\1\2")
    assert "Hooked" == caught.value.path
    assert "low above high" in str(caught.value)


def test_validators_that_fail_strangely(codec):
    """Whatever a validator raises is contained."""

    def broken(_instance, _attribute, value):
        return {}[value]

    class Odd(Message):
        a: int = wire(c.Int8ub, validator=broken)

    with pytest.raises(MalformedMessageError) as caught:
        codec.parse(Odd, b"\1")
    assert "Odd.a" == caught.value.path


def test_inheritance(codec):
    """A subclass has its base's fields first."""

    class Base(Message):
        kind: int = wire(c.Int8ub)

    class Derived(Base):
        value: int = wire(c.Int8ub)

    assert b"\1\2" == codec.build(Derived(1, 2))
    assert Derived(1, 2) == codec.parse(Derived, b"\1\2")
    assert Base(1) == codec.parse(Base, b"\1")
    assert isinstance(Derived(1, 2), Base)


def test_empty_messages(codec):
    """A message may have no bytes."""

    class Nothing(Message):
        """It says all by being there."""

    assert b"" == codec.build(Nothing())
    assert Nothing() == codec.parse(Nothing, b"")
    with pytest.raises(MalformedMessageError):
        codec.parse(Nothing, b"x")


def test_requests(codec):
    """A request is a message, too."""

    class Ask(Request[Sample]):
        kind: int = wire(c.Int8ub)

    assert Ask(1) == codec.parse(Ask, b"\1")


def test_own_parse_and_bytes():
    """A class may do it itself."""

    class Own(Message):
        a: int = wire(c.Int8ub)

        def __bytes__(self):
            return b"own"

    assert b"own" == bytes(Own(1))


def test_from_construct(codec):
    """A Construct format becomes a class, with what it has."""
    struct = c.Struct(
        "kind" / c.Enum(c.Int8ub, a=1),
        c.Padding(1),
        "n" / c.Rebuild(c.Int8ub, c.len_(this.items)),
        "items" / c.Array(this.n, c.Struct("x" / c.Int8ub)),
        "bits" / c.BitStruct("u" / c.Nibble, "v" / c.Nibble),
        "magic" / c.Const(b"M") * "the end",
    )
    cls = Message.from_construct("Format", struct)
    assert "Format" == cls.__name__
    data = bytes.fromhex("01 00 02 07 08 5a 4d")
    message = codec.parse(cls, data)
    assert "a" == message.kind
    assert [7, 8] == [item.x for item in message.items]
    assert (5, 10) == (message.bits.u, message.bits.v)
    assert data == codec.build(message)
    assert data == struct.build(struct.parse(data))
    made = cls("a", items=[{"x": 7}, {"x": 8}], bits={"u": 5, "v": 10})
    assert data == codec.build(made)


def test_from_construct_of_bits(codec):
    """So does a BitStruct."""
    cls = Message.from_construct(
        "Bits", c.BitStruct("a" / c.Nibble, "b" / c.BitsInteger(12))
    )
    assert (1, 0x234) == (
        codec.parse(cls, b"\x12\x34").a,
        codec.parse(cls, b"\x12\x34").b,
    )
    assert b"\x12\x34" == codec.build(cls(1, 0x234))


def test_from_construct_subclasses():
    """A base class of one's own is kept."""

    class Base(Message):
        def hello(self):
            return "hello"

    assert (
        "hello" == Base.from_construct("Derived", c.Struct("a" / c.Int8ub))(1).hello()
    )


def test_construct_form():
    """Inside Construct, a message is a construct as any other."""
    struct = c.Struct("n" / c.Int8ub, "samples" / c.Array(this.n, Sample.construct))
    parsed = struct.parse(b"\2\1\0\1\2\0\2")
    assert [Sample(1, 1), Sample(2, 2)] == list(parsed.samples)
    assert b"\2\1\0\1\2\0\2" == struct.build(parsed)
    assert 3 == Sample.construct.sizeof()
    assert "<Sample.construct>" == repr(Sample.construct)


def test_a_value_of_another_type(codec):
    """A message in the place of another one is refused."""
    with pytest.raises(InvalidMessageError) as caught:
        codec.build(Reading(1, [Frozen(1, b"")]))
    assert "Reading.samples[0]" == caught.value.path


def test_values_do_not_share_defaults(codec):
    """Each message has its own list."""
    one, other = Reading(1), Reading(1)
    one.samples.append(Sample(1))
    assert [] == other.samples
    first, second = (codec.parse(Reading, b"\0\0\0\1\0\1") for _ in range(2))
    first.samples.append(Sample(1))
    assert [] == second.samples


def test_plural():
    """One byte, two bytes."""
    assert ("1 byte", "0 bytes") == (plural(1, "byte"), plural(0, "byte"))


def test_kept_method(monkeypatch):
    """A method that was kept from before the first call does not make a codec again."""

    class Kept(Message):
        number: int = wire(c.Int8ub)

    parse = Kept.parse
    assert Kept(1) == parse(b"\1")
    monkeypatch.setattr(compiled, "parser_of", None)
    assert Kept(2) == parse(b"\2")


@pytest.mark.parametrize("data", [1, [1, 2, 3], "abc", None])
def test_only_bytes_are_parsed(data):
    """A number is not as many zeros, and nobody else's fault."""
    with pytest.raises(TypeError, match="a bytes-like object is required"):
        Sample.parse(data)
    for header, tag in ((None, None), (Sample, "kind")):
        messages = Sample if header is None else {1: Sample}
        spoken = Protocol("spoken", header=header, tag=tag, messages=messages)
        with pytest.raises(TypeError, match="a bytes-like object is required"):
            spoken.parse(data, Direction.REQUEST)
