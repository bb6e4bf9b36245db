"""
``protoserve describe``: a protocol and its messages as tables, JSON and code.
"""

import enum
import json
import re
import subprocess
import sys
import types

import pytest
from construct import (
    Array,
    BitsInteger,
    Bytes,
    Const,
    Float32l,
    GreedyRange,
    If,
    Int8ub,
    Int16ub,
    Int24ub,
    PascalString,
    Prefixed,
    Struct,
    Switch,
    this,
)

import protoserve.cli
from protoserve import (
    LengthPrefixed,
    Message,
    Protocol,
    Request,
    checksum_of,
    checksums,
    count_of,
    length_of,
    wire,
)
from protoserve.cli.described import message_as_plain, protocol_as_plain


class Kind(enum.IntEnum):
    AIR = 1
    WATER = 2


class Point(Message):
    """A place."""

    x: int = wire(Int24ub)
    y: int = wire(Int8ub)


class Header(Message):
    """What every frame begins with."""

    kind: int = wire(Int8ub)
    urgent: int = wire(BitsInteger(1), default=0)
    number: int = wire(BitsInteger(15), default=0, doc="counts up")
    length: int = wire(Int16ub, value=length_of("body"))


class Trailer(Message):
    check: int = wire(Int16ub, value=checksum_of("body", using=checksums.crc16_xmodem))


class Ack(Message):
    """It arrived."""

    device: int = wire(Int16ub)


class Reading(Request[Ack], kw_only=True):
    """One burst of measurements.

    More about it.
    """

    magic: bytes = wire(Const(b"\xca\xfe"))
    kind: Kind | int = wire(Int8ub, enum=Kind, default=Kind.AIR)
    celsius: float = wire(Float32l, unit="°C", doc="outside [dry]")
    count: int = wire(Int8ub, value=count_of("samples"))
    samples: list[int] = wire(Array(this.count, Int16ub), factory=list)
    place: Point = wire(Point)
    note: str = wire(PascalString(Int8ub, "utf8"), default="")
    detail: object = wire(
        Switch(this.kind, {1: Struct("dew" / Int8ub), 2: Bytes(2)}), default=None
    )
    extra: int | None = wire(If(this.count > 1, Int16ub), default=None)
    points: list[Point] = wire(
        Prefixed(Int16ub, GreedyRange(Point.construct)), factory=list
    )


class Nothing(Message):
    pass


class Refused(Message, error=True):
    """It was refused."""

    why: int = wire(Int8ub)


weather = Protocol(
    "weather",
    framing=LengthPrefixed(Int16ub, max_size=4096),
    header=Header,
    tag="kind",
    requests={1: Reading},
    responses={0x81: Ack, 0x82: Refused},
    messages={200: Nothing},
    trailer=Trailer,
    correlate="number",
    states={"idle": {Reading: "busy"}, "busy": {Ack: "idle"}},
    ports={"udp": 9000},
    doc="readings of stations",
)

bare = Protocol("bare", messages=Point)


@pytest.fixture
def describe(monkeypatch, capsys):
    """Run the command in this process; give exit code, output and errors."""
    module = types.ModuleType("weather_station")
    module.weather, module.bare = weather, bare
    monkeypatch.setitem(sys.modules, "weather_station", module)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["protoserve", "describe", *arguments])
        with pytest.raises(SystemExit) as exited:
            protoserve.cli.main()
        shown = capsys.readouterr()
        return exited.value.code, shown.out, shown.err

    return run


def parts(cls):
    return {part["name"]: part for part in message_as_plain(cls)["parts"]}


def test_offsets_and_sizes():
    """Places are constants up to a variable part, then counted from its end."""
    places = {
        name: (part["after"], part["offset"], part["size"])
        for name, part in parts(Reading).items()
    }
    assert places == {
        "magic": (None, 0, 2),
        "kind": (None, 2, 1),
        "celsius": (None, 3, 4),
        "count": (None, 7, 1),
        "samples": (None, 8, None),
        "place": ("samples", 0, 4),
        "note": ("samples", 4, None),
        "detail": ("note", 0, None),
        "extra": ("detail", 0, None),
        "points": ("extra", 0, None),
    }


def test_what_is_said_of_fields():
    """Each part says its type, unit, doc, names, what it follows from and when."""
    found = parts(Reading)
    assert "bytes, always hex ca fe" == found["magic"]["type"]
    assert {"AIR": 1, "WATER": 2} == found["kind"]["values"]
    assert "float32, little-endian" == found["celsius"]["type"]
    assert ("°C", "outside [dry]") == (
        found["celsius"]["unit"],
        found["celsius"]["doc"],
    )
    assert "the number of elements of samples" == found["count"]["computed"]
    assert "list of uint16, big-endian" == found["samples"]["type"]
    assert "2 * (count) bytes" == found["samples"]["extent"]
    assert ["Point"] == found["place"]["messages"] == found["points"]["messages"]
    assert "utf8 text behind its length (uint8)" == found["note"]["type"]
    assert "count > 1" == found["extra"]["condition"]
    cases = [(p["condition"], p["type"]) for p in found["detail"]["parts"]]
    assert [("kind == 1", "structure"), ("kind == 2", "bytes")] == cases
    (dew,) = found["detail"]["parts"][0]["parts"]
    assert ("dew", "uint8", "note", 0) == tuple(
        dew[key] for key in ("name", "type", "after", "offset")
    )


def test_bits_have_their_word():
    """A bit field names its bits in the word that it shares."""
    found = parts(Header)
    assert ([15, 15], 1, 2) == tuple(
        found["urgent"][key] for key in ("bits", "offset", "size")
    )
    assert ([14, 0], "uint15", "counts up") == tuple(
        found["number"][key] for key in ("bits", "type", "doc")
    )
    assert 3 == found["length"]["offset"]


def test_protocol_as_json():
    """The JSON form has the protocol's tables and each message once."""
    plain = json.loads(json.dumps(protocol_as_plain(weather)))
    messages = plain.pop("messages")
    assert {
        "protocol": "weather",
        "doc": "readings of stations",
        "ports": {"udp": 9000},
        "framing": {
            "kind": "LengthPrefixed",
            "options": {"prefix": "Int16ub", "max_size": 4096},
        },
        "header": "Header",
        "trailer": "Trailer",
        "tag": "kind",
        "correlate": "number",
        "requests": [
            {"tag": 1, "message": "Reading"},
            {"tag": 200, "message": "Nothing"},
        ],
        "responses": [
            {"tag": 0x81, "message": "Ack"},
            {"tag": 0x82, "message": "Refused"},
            {"tag": 200, "message": "Nothing"},
        ],
        "states": {"idle": {"Reading": "busy"}, "busy": {"Ack": "idle"}},
    } == plain
    names = [message["message"] for message in messages]
    assert [
        *("Header", "Reading", "Point", "Nothing", "Ack", "Refused", "Trailer")
    ] == names
    sizes = {message["message"]: message["size"] for message in messages}
    assert {
        "Header": 5,
        "Reading": None,
        "Point": 4,
        "Nothing": 0,
        "Ack": 2,
        "Refused": 1,
        "Trailer": 2,
    } == sizes
    assert ["Ack"] == messages[1]["answered_by"]
    assert "One burst of measurements." == messages[1]["doc"]
    assert messages[5]["error"]


def test_every_part_has_the_same_keys():
    """Every part in JSON has the same keys, however deep."""
    keys = set()

    def walk(each):
        for part in each:
            keys.add(tuple(part))
            walk(part["parts"])

    for message in protocol_as_plain(weather)["messages"]:
        walk(message["parts"])
    assert 1 == len(keys)


def test_tables(describe, monkeypatch):
    """The tables show the protocol, its tags and states, and each field."""
    monkeypatch.setenv("COLUMNS", "160")
    code, out, err = describe("weather_station:weather")
    assert (0, "") == (code, err)
    for text in (
        "weather: readings of stations",
        "udp 9000",
        "LengthPrefixed(prefix=Int16ub, max_size=4096)",
        "Header · message · Trailer",
        "Reading (variable size): One burst of measurements.",
        "Point (4 bytes): A place.",
        "Refused (1 byte)",
    ):
        assert text in out
    lines = [re.sub(r" +", " ", line).strip() for line in out.splitlines()]
    assert "1 request Reading Ack One burst of measurements." in lines
    assert "130 (0x82) response Refused an error It was refused." in lines
    assert "200 (0xc8) both Nothing" in lines
    assert "idle Reading busy" in lines
    assert "3 4 celsius float32, little-endian °C outside [dry]" in lines
    assert "1 bits 14..0 number uint15 counts up" in lines
    assert "1 bit 15 urgent uint1" in lines
    assert "\x1b" not in out


def test_one_message(describe):
    """With a message's name only that message is shown; nested ones have names too."""
    code, out, _ = describe("weather_station:weather:Point")
    assert 0 == code
    assert out.startswith("Point (4 bytes): A place.")
    assert "Reading" not in out
    assert (
        "Point"
        == json.loads(describe("weather_station:bare", "--json")[1])["messages"][0][
            "message"
        ]
    )


def test_protocol_of_one_message(describe):
    """A protocol without header, tags and framing says so."""
    _, out, _ = describe("weather_station:bare")
    assert "none: a datagram is a frame" in out


def test_code_of_a_message(describe):
    """The generated functions are shown, with what their names stand for."""
    code, out, _ = describe("weather_station:weather:Point", "--code")
    assert 0 == code
    assert "def parse(data):" in out
    assert "def build(o):" in out
    assert "unpack_from of struct '>3sB'" in out
    compile(out, "shown", "exec")


def test_code_of_a_protocol(describe):
    """A protocol's functions for whole frames are shown, each message's once."""
    code, out, _ = describe("weather_station:weather", "--code")
    assert 0 == code
    compile(out, "shown", "exec")
    titles = [line for line in out.splitlines() if re.match("# (parse|build) ", line)]
    assert len(titles) == len(set(titles))
    assert "# parse the frame of a request" in titles
    assert "# parse the body of a Ack" in titles
    assert "# build the frame of a Nothing" in titles


@pytest.mark.parametrize("name", ["dns", "modbus", "ntp"])
@pytest.mark.parametrize("form", [(), ("--json",), ("--code",)])
def test_own_protocols(describe, name, form):
    """The protocols that come with protoserve can be described in each form."""
    code, out, err = describe(f"protocols.{name}:{name}", *form)
    assert (0, "") == (code, err)
    assert out


@pytest.mark.parametrize(
    ("target", "text"),
    [
        ("weather_station:weather:reading", "did you mean Reading?"),
        ("weather_station:weather:Raeding", "did you mean Reading?"),
        ("weather_station:weather:Zzzz", "it has Header, Reading,"),
        ("weather_station:wether", "did you mean weather?"),
        ("weather_station", "expected MODULE:NAME"),
        ("weather_station:weather:", "has no message ''"),
        ("no_such_module:weather", "there is no module 'no_such_module'"),
    ],
)
def test_wrong_names(describe, target, text):
    """A wrong name is one line that suggests the nearest one, and exit code 2."""
    code, out, err = describe(target)
    assert (2, "") == (code, out)
    assert text in err
    assert 1 == err.count("\n")


def test_forms_exclude_each_other(describe):
    """JSON and code are not shown together."""
    code, _, err = describe("weather_station:weather", "--json", "--code")
    assert (2, 1) == (code, err.count("exclude each other"))


def test_rich_is_imported_when_used():
    """JSON needs no tables: Rich is left alone until it is used."""
    program = (
        "import sys; from protoserve.cli.described import show; "
        "show('protocols.ntp:ntp', as_json=True, code=False); "
        "sys.exit('rich.table' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
