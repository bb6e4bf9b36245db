"""
Entries of RFC 5424 and of what RFC 3164 describes, and both framings of RFC 6587.
"""

import pytest

from protocols.syslog import (
    Element,
    Entry,
    Facility,
    Log,
    LogRow,
    Severity,
    SyslogFraming,
    syslog,
)
from protoserve import (
    FrameTooLongError,
    IncompleteFrameError,
    InvalidMessageError,
    MalformedMessageError,
    Role,
    Session,
)
from protoserve.events import NEED_DATA, MessageReceived, StreamBroken

OLD = {"version": None}
CRITICAL = {"facility": Facility.AUTH, "severity": Severity.CRIT}
LOCAL = {"facility": Facility.LOCAL7, "severity": Severity.NOTICE}
WITHOUT = {"facility": None, "severity": None, "version": None}
TIME = "2003-10-11T22:14:15.003Z"
ACCENTED = "x\N{LATIN SMALL LETTER E WITH ACUTE}"

READ = {
    b"<34>1 2003-10-11T22:14:15.003Z web.test su - ID47 - \xef\xbb\xbfx\xc3\xa9": (
        Entry(
            ACCENTED,
            **CRITICAL,
            timestamp=TIME,
            hostname="web.test",
            app_name="su",
            msgid="ID47",
        )
    ),
    b"<34>1 2003-10-11T22:14:15.003Z - - 17 - - x\xc3\xa9": Entry(
        ACCENTED, **CRITICAL, timestamp=TIME, procid="17"
    ),
    b"<189>1 - - - - - -": Entry(**LOCAL),
    b"<189>1 - - - - - - ": Entry(**LOCAL),
    b"<189>1 - - - - - [a] [b]": Entry("[b]", **LOCAL, structured_data=[Element("a")]),
    rb'<189>1 - - - - - [x@1 a="1" a="\"\\\]\n"][y b=""] text': Entry(
        "text",
        **LOCAL,
        structured_data=[
            Element("x@1", [["a", "1"], ["a", '"\\]\\n']]),
            Element("y", [["b", ""]]),
        ],
    ),
    b"<34>Oct 11 22:14:15 mymachine su: text for /dev/pts/8": Entry(
        "text for /dev/pts/8",
        **CRITICAL,
        **OLD,
        timestamp="Oct 11 22:14:15",
        hostname="mymachine",
        app_name="su",
    ),
    b"<34>Oct  1 22:14:15 fe80::1 sshd(pam)[230]: text: more\n": Entry(
        "text: more",
        **CRITICAL,
        **OLD,
        timestamp="Oct  1 22:14:15",
        hostname="fe80::1",
        app_name="sshd(pam)",
        procid="230",
    ),
    b"<34>Oct 11 22:14:15 su: no host": Entry(
        "no host", **CRITICAL, **OLD, timestamp="Oct 11 22:14:15", app_name="su"
    ),
    b"<34>2003-10-11T22:14:15.003Z host su[1] from a 5424 sender": Entry(
        "from a 5424 sender",
        **CRITICAL,
        **OLD,
        timestamp=TIME,
        hostname="host",
        app_name="su",
        procid="1",
    ),
    b"<34>snmpd[6956]: no time\0": Entry(
        "no time", **CRITICAL, **OLD, app_name="snmpd", procid="6956"
    ),
    b"<34>just some text: really": Entry("just some text: really", **CRITICAL, **OLD),
    b"<34> text [1]": Entry(" text [1]", **CRITICAL, **OLD),
    b"<34>854 08/20/2013-19:05:28 text": Entry(
        "854 08/20/2013-19:05:28 text", **CRITICAL, **OLD
    ),
    b"<34>": Entry("", **CRITICAL, **OLD),
    b"text": Entry("text", **WITHOUT),
    b"2003-10-11T22:14:15.003Z host su: text": Entry(
        "text", **WITHOUT, timestamp=TIME, hostname="host", app_name="su"
    ),
    b"<192>text": Entry("<192>text", **WITHOUT),
    b"<1234>text": Entry("<1234>text", **WITHOUT),
    b"<34>Jul 10 2019 12:00:00 fw : %ASA-6-302013: text": Entry(
        "text",
        **CRITICAL,
        **OLD,
        timestamp="Jul 10 2019 12:00:00",
        hostname="fw",
        app_name="%ASA-6-302013",
    ),
    b"<34>Jul 10 2019 12:00:00: %ASA-6-302013: text": Entry(
        "text",
        **CRITICAL,
        **OLD,
        timestamp="Jul 10 2019 12:00:00",
        app_name="%ASA-6-302013",
    ),
    b"<189>39: R1: *Sep 22 13:39:12.252 CEST: %LINK-3-UPDOWN: text": Entry(
        "text",
        **LOCAL,
        **OLD,
        sequence=39,
        hostname="R1",
        timestamp="*Sep 22 13:39:12.252 CEST",
        app_name="%LINK-3-UPDOWN",
    ),
    b'<189>82: R1: [syslog@9 s_sn="1"]: text': Entry(
        "text",
        **LOCAL,
        **OLD,
        sequence=82,
        hostname="R1",
        structured_data=[Element("syslog@9", [["s_sn", "1"]])],
    ),
    b"<189>R1: .Sep 22 13:39:12: %LINK-3-UPDOWN: text": Entry(
        "text",
        **LOCAL,
        **OLD,
        hostname="R1",
        timestamp=".Sep 22 13:39:12",
        app_name="%LINK-3-UPDOWN",
    ),
    b"<34>Oct 11 22:14:15 host su: \xff\xfe": Entry(
        "\\xff\\xfe",
        **CRITICAL,
        **OLD,
        timestamp="Oct 11 22:14:15",
        hostname="host",
        app_name="su",
    ),
}


@pytest.mark.parametrize("data", READ)
def test_entries(data):
    """Each form has its values, and is written so that they are read again."""
    read = Log.parse(data)
    assert READ[data] == read.entry
    assert read == Log.parse(bytes(read))


REFUSED = {
    b"": (0, "an entry"),
    b"\r\n\0": (0, "an entry"),
    b"<34>1 -": (7, "1 to 255 printable characters for the timestamp, and a space"),
    b"<34>1 - a": (9, "1 to 255 printable characters for the hostname, and a space"),
    b"<34>1 2003- " + b"h" * 256 + b" - - - -": (
        267,
        "1 to 255 printable characters for the hostname, and a space",
    ),
    b"<34>1 - - a\xff - - -": (
        11,
        "1 to 255 printable characters for the app name, and a space",
    ),
    b"<34>1 - - - - - x": (16, "structured data, or '-'"),
    b"<34>1 - - - - - -x": (17, "a space and the message"),
    b"<34>1 - - - - - [a]x": (19, "a space and the message"),
    b"<34>1 - - - - - []": (17, "the id of an element"),
    b"<34>1 - - - - - [a": (18, "a parameter, as in ' name=\"value\"', or ']'"),
    b"<34>1 - - - - - [a b=c]": (18, "a parameter, as in ' name=\"value\"', or ']'"),
    b'<34>1 - - - - - [a b="]"]': (18, "a parameter, as in ' name=\"value\"', or ']'"),
    b"<34>1 - - - - - " + b"[a]" * 257: (784, "at most 256 elements"),
}


@pytest.mark.parametrize("data", REFUSED)
def test_malformed(data):
    """What says that it is of RFC 5424 has to be, and the place is told."""
    with pytest.raises(MalformedMessageError) as caught:
        Log.parse(data)
    assert "Log.entry" == caught.value.path
    assert REFUSED[data] == (caught.value.offset, caught.value.expected)


@pytest.mark.parametrize(
    "entry",
    [
        Entry("text\n"),
        Entry("text\0"),
        Entry("text", hostname="a b"),
        Entry("text", hostname=ACCENTED),
        Entry("text", hostname="-"),
        Entry("text", app_name=""),
        Entry("text", sequence=5),
        Entry("text", severity=None),
        Entry("text", version=1000),
        Entry("text", structured_data=[Element("a]")]),
        Entry("text", structured_data=[Element("a", [["b c", "d"]])]),
        Entry("su: text", **OLD),
        Entry("text", **OLD, hostname="host"),
        Entry("text", **OLD, msgid="ID47"),
        Entry("text", **OLD, timestamp="yesterday"),
        Entry("text", **OLD, structured_data=[Element("a")]),
        Entry("", **WITHOUT),
        "text",
    ],
)
def test_what_cannot_be_written(entry):
    """What would be read as something else is not built."""
    with pytest.raises(InvalidMessageError):
        bytes(Log(entry))


def test_every_priority():
    """A priority is facility and severity in one number."""
    for number in range(192):
        entry = Log.parse(b"<%d>text" % number).entry
        assert (number // 8, number % 8) == (entry.facility, entry.severity)
        assert b"<%d>text" % number == bytes(Log(entry))


def test_rows():
    """A collector gets one row; structured data are values by 'id.name'."""
    data = b'<34>1 - web su 7 ID47 [x a="1" a="2"][y] text'
    assert [
        LogRow(
            4,
            2,
            "web",
            "su",
            "7",
            "ID47",
            "text",
            None,
            {"x.a": "1,2", "y": ""},
            1,
            None,
        )
    ] == list(Log.parse(data).rows())
    assert "logs" == LogRow.__table__


# Framing -----------------------------------------------------------------------


def test_trial():
    """The framing passes what all framings pass."""
    frames = [b"<1>a", b"<34>1 - - - - - - \n\n", b"text", b"5 text", b"<1>" + bytes(9)]
    framing = SyslogFraming()
    stream = b"".join(framing.encode(frame) for frame in frames)
    for split in (1, 2, 3, 7, len(stream)):
        framer = framing.framer()
        found = []
        for at in range(0, len(stream), split):
            framer.feed(stream[at : at + split])
            while (frame := framer.decode()) is not None:
                found.append(frame)
        assert frames == found
        assert 0 == framer.buffered
        assert framer.end() is None


def test_both_framings_on_one_connection():
    """Counted frames and lines follow each other in any order."""
    framer = SyslogFraming().framer()
    framer.feed(b"6 <1>a\nb\n\0<2>c\n5 <3>ef12 text\r\n<4>g\0\r\n123456789 <5>h\x0012")
    found = []
    while (frame := framer.decode()) is not None:
        found.append(frame)
    assert [b"<1>a\nb", b"<2>c", b"<3>ef", b"12 text", b"<4>g", b"123456789 <5>h"] == (
        found
    )
    assert 2 == framer.buffered
    with pytest.raises(IncompleteFrameError):
        framer.end()


@pytest.mark.parametrize("stream", [b"70000 <1>a", b"<1>" + b"a" * 70_000])
def test_too_long(stream):
    """A frame that is longer than allowed is refused as soon as that is known."""
    framer = SyslogFraming(max_size=60_000).framer()
    framer.feed(stream)
    with pytest.raises(FrameTooLongError):
        framer.decode()


def test_what_cannot_be_framed():
    """What would be cut in another way is not sent."""
    framing = SyslogFraming(max_size=100)
    for frame in (b"", b"\n", b"a\nb", b"a" * 100, b"<1>" + b"a" * 100):
        with pytest.raises(InvalidMessageError):
            framing.encode(frame)


def test_session():
    """A stream that breaks off in a line says so, after what came before."""
    session = Session(syslog, Role.SERVER)
    session.receive_data(b"<34>text\n15 <34>1 - - - - -<34>ab")
    session.receive_eof()
    events = []
    while (event := session.next_event()) is not NEED_DATA:
        events.append(event)
    assert isinstance(events[0], MessageReceived)
    assert "text" == events[0].message.entry.message
    assert isinstance(events[-1], StreamBroken)
