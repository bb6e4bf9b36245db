"""
Protocols: tags, directions, headers, trailers, and what is refused.
"""

import enum
from typing import Any

import pytest
from construct import (
    Array,
    BitsInteger,
    BitStruct,
    Bytes,
    Enum,
    Flag,
    Float32b,
    GreedyBytes,
    GreedyRange,
    Int8sb,
    Int8ub,
    Int16ub,
    Int24ub,
    Int32ub,
    Nibble,
    VarInt,
    this,
)

from protoserve import (
    DeclarationError,
    Direction,
    InvalidMessageError,
    LengthField,
    LocalProtocolError,
    MalformedMessageError,
    Message,
    Protocol,
    Request,
    UnknownMessageError,
    checksum_of,
    checksums,
    length_of,
    wire,
)
from protoserve.messages import response_types

REQUEST, RESPONSE = Direction.REQUEST, Direction.RESPONSE


class Ping(Message):
    value: int = wire(Int8ub, default=0)


class Pong(Message):
    value: int = wire(Int8ub, default=0)


class Both(Message):
    text: bytes = wire(GreedyBytes, default=b"")


class Header(Message):
    kind: int = wire(Int8ub)
    sequence: int = wire(Int16ub, default=0)


def plain(**options):
    given = {"header": Header, "tag": "kind", "requests": {1: Ping}}
    return Protocol("plain", **{**given, **options})


def there_and_back(protocol, message, direction=REQUEST, **options):
    """
    Build a frame, parse it, check that the message survives.
    """
    frame = protocol.build(message, direction, **options)
    parsed = protocol.parse(frame, direction)
    assert message == parsed.message
    assert frame == protocol.build(message, direction, header=parsed.header)
    return frame.hex(" "), parsed


# Tags ----------------------------------------------------------------------


def test_tag_by_field():
    """A field of the header says which message follows."""
    protocol = plain(responses={0x81: Pong})
    frame, parsed = there_and_back(protocol, Ping(7))
    assert "01 00 00 07" == frame
    assert Header(1) == parsed.header
    assert "81 00 00 07" == there_and_back(protocol, Pong(7), RESPONSE)[0]


def test_tag_is_per_direction():
    """One tag means different messages in the two directions."""
    protocol = plain(responses={1: Pong})
    assert Ping(2) == protocol.parse(b"\1\0\0\2", REQUEST).message
    assert Pong(2) == protocol.parse(b"\1\0\0\2", RESPONSE).message


def test_messages_are_legal_both_ways():
    """What stands in messages= may be sent by either side."""
    protocol = plain(responses={0x81: Pong}, messages={9: Both})
    for direction in Direction:
        assert "09 00 00 68 69" == there_and_back(protocol, Both(b"hi"), direction)[0]
    assert {1: Ping, 9: Both} == protocol.table(REQUEST)
    assert {0x81: Pong, 9: Both} == protocol.table(RESPONSE)
    assert (Ping, Both, Pong) == protocol.classes()


class Inner(Message):
    major: int = wire(Int8ub)
    minor: int = wire(Int8ub, default=3)


class Nested(Message):
    version: int = wire(Int8ub, default=4, kw_only=True)
    kind: Inner = wire(Inner)


def test_tag_in_a_nested_message():
    """A dotted name reaches into a nested message, and fills only that part."""
    protocol = Protocol("p", header=Nested, tag="kind.major", requests={6: Ping})
    frame, parsed = there_and_back(protocol, Ping(1))
    assert "04 06 03 01" == frame
    assert Nested(version=4, kind=Inner(6)) == parsed.header


class Bits(Message):
    flag: int = wire(BitsInteger(1), default=1, kw_only=True)
    kind: int = wire(BitsInteger(5))
    rest: int = wire(BitsInteger(2), default=2)


def test_tag_in_a_bit_field():
    """A bit field of the header is a tag like any other."""
    protocol = Protocol("p", header=Bits, tag="kind", requests={0x1F: Ping})
    assert "fe 01" == there_and_back(protocol, Ping(1))[0]


class Flagged(Message):
    ident: int = wire(Int16ub, default=0, kw_only=True)
    flags: Any = wire(
        BitStruct("response" / Flag, "opcode" / BitsInteger(4), "z" / BitsInteger(3))
    )


FLAGGED = {0: Ping, 5: Both}


def test_tag_in_a_bit_struct():
    """A part of a BitStruct is a tag; bits that nobody gave are 0."""
    protocol = Protocol("p", header=Flagged, tag="flags.opcode", requests=FLAGGED)
    frame, parsed = there_and_back(protocol, Both(b"x"))
    assert "00 00 28 78" == frame
    assert 5 == parsed.header.flags.opcode
    assert not parsed.header.flags.response


def test_tag_of_several_fields():
    """A tuple of names takes tuples as tags."""
    protocol = Protocol(
        "p",
        header=Flagged,
        tag=("ident", "flags.response"),
        requests={(1, False): Ping, (1, True): Pong},
    )
    assert "00 01 00 02" == there_and_back(protocol, Ping(2))[0]
    assert "00 01 80 02" == there_and_back(protocol, Pong(2))[0]


class Function(Message):
    transaction: int = wire(Int16ub, default=0, kw_only=True)
    function: int = wire(Int8ub)


def modbus_like(header):
    return "exception" if header.function & 0x80 else header.function


@pytest.fixture(scope="module")
def exceptional():
    return Protocol(
        "p",
        header=Function,
        tag=modbus_like,
        requests={3: Ping, 0x10: Both},
        responses={3: Both, "exception": Pong},
        correlate="transaction",
    )


def test_tag_by_function(exceptional):
    """A function of the header is turned round by its nearest bits."""
    request = exceptional.parse(bytes.fromhex("00 07 03 01"), REQUEST).header
    frame = exceptional.build(Pong(2), RESPONSE, reply_to=request)
    assert "00 07 83 02" == frame.hex(" ")
    assert Pong(2) == exceptional.parse(frame, RESPONSE).message
    assert "00 07 03 68" == exceptional.build(
        Both(b"h"), RESPONSE, reply_to=request
    ).hex(" ")
    assert 3 == request.function
    assert "00 00 10" == exceptional.build(Both(), REQUEST).hex(" ")


def test_unreachable_tag():
    """A tag that the function never gives is refused at definition."""
    with pytest.raises(DeclarationError, match=r"Both.*tag is 900"):
        Protocol("p", header=Function, tag=modbus_like, requests={3: Ping, 900: Both})


def test_function_that_fails():
    """A tag function that raises is told at definition."""
    with pytest.raises(DeclarationError, match="p: the function tag= fails: .*nothing"):
        Protocol("p", header=Function, tag=lambda h: h.nothing, requests={3: Ping})


class Wide(Message):
    kind: int = wire(Int32ub, default=0, kw_only=True)
    flags: Any = wire(BitStruct("spare" / BitsInteger(7), "reply" / Flag))
    code: int = wire(Int16ub, default=0)


def test_function_of_wide_fields():
    """Where there are too many bits to try, the tag's own numbers are tried."""
    protocol = Protocol(
        "p",
        header=Wide,
        tag=lambda h: (h.kind, h.code if h.flags.reply else 0),
        requests={(0x5A5A1234, 0): Ping, (1, 0xF0F0): Pong},
    )
    assert "5a 5a 12 34 00 00 00 01" == there_and_back(protocol, Ping(1))[0]
    assert "00 00 00 01 01 f0 f0 01" == there_and_back(protocol, Pong(1))[0]


class Clever(Message):
    code: int = wire(Int8ub)

    @property
    def kind(self):
        return self.code & 0x0F

    def is_odd(self):
        return self.code & 1


def test_function_of_a_property():
    """The header's own properties and methods may be used in a tag function."""
    protocol = Protocol(
        "p", header=Clever, tag=lambda h: (h.kind, h.is_odd()), requests={(6, 0): Ping}
    )
    assert Ping(5) == protocol.parse(b"\x76\5", REQUEST).message
    assert b"\x86\5" == protocol.build(Ping(5), REQUEST, header=Clever(0x80))


class Kind(enum.Enum):
    PING = 1
    PONG = 2


class Typed(Message):
    kind: Kind = wire(Int8ub, enum=Kind, strict=True)


def test_python_enums_as_tags():
    """Members and their numbers are the same tag."""
    for requests in ({Kind.PING: Ping, Kind.PONG: Pong}, {1: Ping, 2: Pong}):
        for tag in ("kind", lambda header: header.kind):
            protocol = Protocol("p", header=Typed, tag=tag, requests=requests)
            assert "02 05" == there_and_back(protocol, Pong(5))[0]
    with pytest.raises(DeclarationError, match="stands for both"):
        Protocol("p", header=Typed, tag="kind", requests={1: Ping, Kind.PING: Pong})


class Named(Message):
    kind: Any = wire(Enum(Int8ub, ping=1, pong=2))


def test_construct_enums_as_tags():
    """Construct's names and their numbers are the same tag."""
    for requests in ({"ping": Ping, "pong": Pong}, {1: Ping, 2: Pong}):
        protocol = Protocol("p", header=Named, tag="kind", requests=requests)
        assert "02 05" == there_and_back(protocol, Pong(5))[0]
    with pytest.raises(DeclarationError, match="stands for both"):
        Protocol("p", header=Named, tag="kind", requests={1: Ping, "ping": Pong})
    with pytest.raises(DeclarationError, match="'peng', which Named.kind cannot hold"):
        Protocol("p", header=Named, tag="kind", requests={"peng": Ping})


def test_single_message_without_tag():
    """A protocol of one message each way needs neither header nor tag."""
    protocol = Protocol("p", requests=Ping, responses=Pong)
    assert "05" == there_and_back(protocol, Ping(5))[0]
    assert Pong(6) == protocol.parse(b"\6", RESPONSE).message
    assert None is protocol.parse(b"\6", RESPONSE).header
    same = Protocol("p", messages=Both)
    assert b"hi" == same.build(Both(b"hi"), RESPONSE)
    headed = Protocol("p", header=Header, requests=Ping)
    assert b"\7\0\1\2" == headed.build(Ping(2), REQUEST, header=Header(7, 1))


def test_unknown_tag():
    """A tag in no table is an error of the peer's that says what is known."""
    with pytest.raises(UnknownMessageError) as caught:
        plain().parse(b"\x09\x00\x07\x00", REQUEST)
    assert 9 == caught.value.tag
    assert Header(9, 7) == caught.value.header
    assert "1" in str(caught.value)


def test_unknown_text():
    """What looks like another protocol is told as such."""
    with pytest.raises(UnknownMessageError, match="HTTP request"):
        plain().parse(b"GET / HTTP/1.1\r\n\r\n", REQUEST)


def test_message_of_the_other_side():
    """Sending what only the other side may send is refused."""
    protocol = plain(responses={2: Pong})
    with pytest.raises(LocalProtocolError, match="Pong is not a request of plain"):
        protocol.build(Pong(), REQUEST)


# Headers and trailers ------------------------------------------------------


class Framed(Message):
    kind: int = wire(Int8ub)
    length: int = wire(Int16ub, value=length_of("body", "trailer"))
    sequence: int = wire(Int8ub, default=0)
    check: int = wire(
        Int8ub, value=checksum_of("kind", "sequence", using=checksums.xor8)
    )


class Tail(Message):
    crc: int = wire(
        Int16ub, value=checksum_of("header", "body", using=checksums.crc16_modbus)
    )


framed = Protocol(
    "framed",
    framing=LengthField(Int16ub, offset=1, adjustment=2),
    header=Framed,
    tag="kind",
    requests={1: Ping},
    messages={2: Both},
    trailer=Tail,
    correlate="sequence",
)


def test_header_and_trailer():
    """Lengths and checksums over header, body and trailer are filled in."""
    frame, parsed = there_and_back(framed, Both(b"abc"), header=Framed(0, 9))
    data = bytes.fromhex(frame)
    assert "02 00 05 09 0e 61 62 63" == data[:-2].hex(" ")
    assert checksums.crc16_modbus(data[:-2]) == int.from_bytes(data[-2:])
    assert 5 == parsed.header.length
    assert int.from_bytes(data[-2:]) == parsed.trailer.crc


@pytest.mark.parametrize(
    ("place", "path"), [(1, "Framed.length"), (4, "Framed.check"), (-1, "Tail.crc")]
)
def test_damaged_frame(place, path):
    """A wrong length or checksum is told before what it damaged."""
    data = bytearray(framed.build(Ping(1), REQUEST))
    data[place] ^= 0x40
    with pytest.raises(MalformedMessageError) as caught:
        framed.parse(data, REQUEST)
    assert path == caught.value.path


def test_damaged_body():
    """The checksum is told even if the body cannot be parsed either."""
    data = framed.build(Ping(1), REQUEST)
    with pytest.raises(MalformedMessageError) as caught:
        framed.parse(data[:-3] + data[-2:], REQUEST)
    assert "Framed.length" == caught.value.path


def test_frame_shorter_than_its_parts():
    """Every cut of a frame is malformed, never anything else."""
    data = framed.build(Both(b"abc"), REQUEST)
    for size in range(len(data)):
        with pytest.raises(MalformedMessageError):
            framed.parse(data[:size], REQUEST)


def test_body_must_end_with_the_frame():
    """Bytes behind the body are malformed."""
    with pytest.raises(MalformedMessageError) as caught:
        plain().parse(b"\1\0\0\7\7", REQUEST)
    assert 4 == caught.value.offset


class Fixed(Message):
    kind: int = wire(BitsInteger(4))
    flags: int = wire(BitsInteger(4), default=0)
    length: int = wire(VarInt, value=length_of("body"))


def test_variable_length_in_the_header():
    """A length that is itself of variable length moves what follows it."""
    protocol = Protocol("p", header=Fixed, tag="kind", messages={3: Both})
    for size, start in ((127, "30 7f"), (128, "30 80 01"), (20_000, "30 a0 9c 01")):
        frame, _ = there_and_back(protocol, Both(bytes(size)))
        assert frame.startswith(start + " 00")


def test_reply_header():
    """An answer's header is the request's, with its own tag and lengths."""
    request = framed.parse(
        framed.build(Ping(1), REQUEST, header=Framed(0, 77)), REQUEST
    )
    frame = framed.build(Both(b"xy"), RESPONSE, reply_to=request.header)
    header = framed.parse(frame, RESPONSE).header
    assert (2, 4, 77) == (header.kind, header.length, header.sequence)
    assert 1 == request.header.kind


def test_reply_header_as_the_route_left_it():
    """What a route changes in the request's header is sent."""
    header = Header(1, 5)
    header.sequence = 500
    protocol = plain(responses={2: Pong})
    assert "02 01 f4 00" == protocol.build(Pong(), RESPONSE, reply_to=header).hex(" ")


def test_header_that_is_given_is_not_changed():
    """A header is copied before its tag is put in."""
    header = Header(99, 5)
    plain().build(Ping(), REQUEST, header=header)
    assert Header(99, 5) == header


def test_header_without_a_default():
    """A header's field that nobody gave is told by name."""

    class Needy(Message):
        kind: int = wire(Int8ub)
        station: int = wire(Int8ub)

    for tag in ("kind", lambda header: header.kind):
        protocol = Protocol("p", header=Needy, tag=tag, requests={1: Ping})
        with pytest.raises(InvalidMessageError, match="Needy.station"):
            protocol.build(Ping(), REQUEST)
        frame = protocol.build(Ping(4), REQUEST, header=Needy(0, 3))
        assert "01 03 04" == frame.hex(" ")


def test_header_of_another_kind():
    """A header that is not this protocol's is refused, with what is expected."""
    for wrong in ({"kind": 1}, Ping(), 5):
        with pytest.raises(LocalProtocolError, match="must be a Header, not"):
            plain().build(Ping(), REQUEST, header=wrong)
    bare = Protocol("p", messages=Both)
    with pytest.raises(LocalProtocolError, match="must be none"):
        bare.build(Both(), REQUEST, header=Header(1))


# Correlation ---------------------------------------------------------------


def test_correlation_keys():
    """A key is read from a field, from several, or by a function."""
    header = Flagged(ident=7, flags={"response": True, "opcode": 3, "z": 0})
    options = {"header": Flagged, "tag": "flags.opcode", "requests": FLAGGED}
    for correlate, key in (
        ("ident", 7),
        ("flags.opcode", 3),
        (("ident", "flags.opcode"), (7, 3)),
        (lambda h, m: (h.ident, m.value), (7, 1)),
        (None, None),
    ):
        protocol = Protocol("p", correlate=correlate, **options)
        frame = protocol.build(Ping(1), REQUEST, header=header)
        parsed = protocol.parse(frame, REQUEST)
        expected = (7, 0) if correlate == ("ident", "flags.opcode") else key
        expected = 0 if correlate == "flags.opcode" else expected
        assert expected == protocol.key(parsed.header, parsed.message)


@pytest.mark.parametrize(
    ("construct", "width"),
    [
        (Int8ub, 8),
        (Int8sb, 7),
        (Int24ub, 24),
        (Int32ub, 32),
        (VarInt, 8),
        (Bytes(12), None),
        (Float32b, None),
    ],
)
def test_key_width(construct, width):
    """Only whole numbers are counted up; signed ones stay positive."""

    class Keyed(Message):
        key: Any = wire(construct, default=0)

    protocol = Protocol("p", header=Keyed, requests=Ping, correlate="key")
    assert width == protocol.key_width()


def test_key_width_of_bits():
    """Bits of a bit field and of a BitStruct are counted as bits."""
    bits = Protocol("p", header=Bits, tag="kind", requests={1: Ping}, correlate="rest")
    assert 2 == bits.key_width()
    struct = Protocol("p", header=Flagged, requests=Ping, correlate="flags.z")
    assert 3 == struct.key_width()


# What messages see around them ---------------------------------------------


class Sized(Message):
    size: int = wire(Int8ub)
    wide: int = wire(Int8ub, default=0)


class Dependent(Message):
    first: bytes = wire(Bytes(this._.size))
    second: bytes = wire(Bytes(this._root.size))
    count: int = wire(Int8ub)
    third: list[int] = wire(Array(this.count + this._.session.extra, Int8ub))


def test_fields_see_the_header_and_the_session():
    """``this._`` is the header, with the session; ``this._root`` the same."""

    someone = {"extra": 1}
    protocol = Protocol("p", header=Sized, requests=Dependent)
    message = Dependent(b"ab", b"cd", 2, [7, 8, 9])
    frame = protocol.build(message, REQUEST, header=Sized(2), session=someone)
    assert "02 00 61 62 63 64 02 07 08 09" == frame.hex(" ")
    assert message == protocol.parse(frame, REQUEST, session=someone).message


def test_no_session():
    """A message that needs a session is malformed without one, nothing worse."""
    protocol = Protocol("p", header=Sized, requests=Dependent)
    with pytest.raises(MalformedMessageError):
        protocol.parse(b"\0\0\0\0", REQUEST)


# What is refused at definition ----------------------------------------------


class Grab(Message):
    kind: int = wire(Int8ub)
    rest: bytes = wire(GreedyBytes)


class Loose(Message):
    crc: bytes = wire(GreedyRange(Int8ub), default=b"")


class Needs(Message):
    crc: int = wire(Int8ub)


class Answer(Message):
    value: int = wire(Int8ub)


class Question(Request[Answer]):
    value: int = wire(Int8ub)


def reserved(name):
    return type(Message)(
        "Reserved",
        (Message,),
        {"__annotations__": {"kind": int, name: int}, "kind": wire(Int8ub, default=0),
         name: wire(Int8ub, default=0), "__module__": __name__},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"requests": {1: Ping, 2: Ping}}, "Ping stands under both 1 and 2 in requests"),
        ({"messages": {1: Both}}, "tag 1 stands for both Ping and Both in requests and"),
        ({"messages": {2: Ping}}, "Ping stands under both 1 and 2"),
        ({"responses": {2: Pong}, "messages": {2: Both}}, "tag 2 .* in responses and"),
        ({"requests": {}}, "no messages at all"),
        ({"requests": {1: "Ping"}}, r"requests\[1\] is no Message class: 'Ping'"),
        ({"requests": [Ping]}, "requests= takes a mapping of tags"),
        ({"tag": None}, "need header= and tag="),
        ({"header": None}, "'kind' names a header's field, but there is no header="),
        ({"tag": "kin"}, r"'kin' names no field of Header \(it has kind, sequence\)"),
        ({"tag": "kind.x"}, r"'kind.x' names no part of Header.kind"),
        ({"tag": 5}, "tag= takes the name of a header's field, a tuple"),
        ({"tag": ("kind", 5)}, "tag= takes the name of a header's field"),
        ({"correlate": 5}, "correlate= takes the name"),
        ({"correlate": "seq"}, "'seq' names no field of Header"),
        ({"correlate": ("sequence", "x")}, "'x' names no field"),
        ({"requests": {300: Ping}}, "300, which Header.kind cannot hold"),
        ({"requests": {"one": Ping}}, "'one', which Header.kind cannot hold"),
        ({"requests": {(1, 2): Ping}}, "cannot hold"),
        ({"tag": ("kind", "sequence")}, "stands under 1, but tag= names 2 fields"),
        (
            {"tag": ("kind", "sequence"), "requests": {(1, 2, 3): Ping}},
            "expected a tuple of 2",
        ),
        ({"requests": Ping}, "Ping stands alone in its table, but there is a tag="),
        ({"requests": {1: Question}}, r"Question is a Request\[Answer\], but Answer"),
        ({"header": Header(1)}, "header= takes a Message class"),
        ({"header": Grab}, "takes all bytes to the end of the frame"),
        ({"header": Framed, "tag": "length"}, "'length' is the length of body"),
        ({"framing": Int16ub}, "framing= takes a Framing such as"),
        ({"trailer": Loose}, "the trailer Loose must have a fixed size"),
        ({"trailer": Needs}, "every field of the trailer Needs must have"),
        ({"trailer": Header}, "must have a value= or a default"),
        ({"ports": [53]}, "ports= takes a mapping"),
        ({"states": ["new"]}, "states= takes a mapping"),
        ({"states": {"new": Ping}}, "state 'new' takes a mapping of messages"),
        ({"states": {"new": {Pong: "new"}}}, "state 'new' names Pong, which is no"),
        ({"states": {"new": {"Ping": "new"}}}, "names 'Ping', which is no message"),
        ({"states": {"new": {Ping: "now"}}}, "'now', which is no state; did you mean"),
        ({"states": {"new": {Ping: "end"}}}, "a state in which all ends is written"),
        ({"header": reserved("session")}, "field 'session' would hide"),
        ({"header": reserved("body")}, "field 'body' would hide"),
        ({"trailer": reserved("header")}, "the trailer's field 'header' would hide"),
        ({"trailer": reserved("crc")}, "header and trailer both have a field 'kind'"),
    ],
)  # fmt: skip
def test_refused(options, words):
    """What contradicts itself is told when the protocol is made."""
    with pytest.raises(DeclarationError, match=words):
        plain(**options)


def test_name_comes_first():
    """A protocol without a name is refused with a hint."""
    with pytest.raises(DeclarationError, match="takes a name first"):
        Protocol(Header)


def test_untold_apart():
    """Two messages in one direction need a tag."""
    with pytest.raises(DeclarationError, match="cannot be told apart"):
        Protocol("p", requests=Ping, messages=Pong)


def test_values_read_back():
    """What was declared can be read."""
    protocol = plain(ports={"udp": 53}, doc="words", states={"new": {Ping: "new"}})
    assert {1: Ping} == protocol.requests
    assert {"udp": 53} == protocol.ports
    assert "words" == protocol.doc
    assert "<Protocol plain>" == repr(protocol)
    with pytest.raises(AttributeError):
        protocol.name = "other"


def test_nibbles_in_a_bits_header():
    """A header of bits alone has tags too."""

    class Small(Message, bits=True):
        kind: int = wire(Nibble)
        flags: int = wire(Nibble, default=1)

    protocol = Protocol("p", header=Small, tag="kind", requests={2: Ping})
    assert "21 09" == there_and_back(protocol, Ping(9))[0]
    with pytest.raises(DeclarationError, match="cannot hold"):
        Protocol("p", header=Small, tag="kind", requests={16: Ping})


def test_answers_by_name():
    """Answers may be named before they are there, several by one text; all must exist."""

    class Ask(Request["Told | Refused"]):
        kind: int = wire(Int8ub)

    class Told(Message):
        kind: int = wire(Int8ub)

    class Refused(Message, error=True):
        kind: int = wire(Int8ub)

    named = [answer.__forward_arg__ for answer in response_types(Ask)]
    assert ["Told", "Refused"] == named
    options = {"header": Told, "tag": "kind", "requests": {1: Ask}}
    Protocol("both", responses={1: Told, 2: Refused}, **options)
    with pytest.raises(DeclarationError, match=r"a Request\[Refused\], but Refused is"):
        Protocol("one", responses={1: Told}, **options)
