"""
Faults as values, and what they do to messages, without sockets.
"""

import random
import re
from pathlib import Path

import pytest

from protoserve import DeclarationError, Direction, Role, Session
from protoserve.events import NEED_DATA, MessageReceived, MessageRejected
from protoserve.testing import Clock, Fault, FaultError, FaultPlan
from protoserve.testing._cutter import Cutter
from protoserve.testing.faults import KINDS, parse_duration, parse_share
from protoserve.testing.injection import End, Step
from tests.testing.faulty import (
    Ack,
    Header,
    Pair,
    Reading,
    Samples,
    Synced,
    Tick,
    by_function,
    checked,
    plain,
    stuffed,
    synced,
)

RESPONSE = Direction.RESPONSE


def framed(protocol, message, sequence=0, *, stream=True):
    """
    Give the bytes of a response on the wire, and its frame.
    """
    header = Header(kind=0, sequence=sequence)
    frame = protocol.build(message, RESPONSE, header=header)
    framing = protocol.framing
    return (framing.encode(frame) if stream else framing.pack(frame)), (frame,)


def injected(protocol, *faults, stream=True, seed=0, connection=0, clock=None):
    plan = FaultPlan(protocol, faults, seed=seed)
    clock = Clock(0.0) if clock is None else clock
    return plan.injector(connection, RESPONSE, stream=stream, clock=clock)


def everything(injector):
    """
    Give all that is due, however much that is.
    """
    return [step for steps in iter(injector.due, []) for step in steps]


def events(protocol, data):
    """
    Give what a client makes of a stream's bytes.
    """
    session = Session(protocol, Role.CLIENT)
    session.receive_data(data)
    found = []
    while (event := session.next_event()) is not NEED_DATA:
        found.append(event)
    return found


# The text --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("drop=5%", Fault("drop", 0.05)),
        ("drop", Fault("drop")),
        ("delay=50ms±20", Fault("delay", 1.0, 0.05, 0.02)),
        ("delay=50ms+-20", Fault("delay", 1.0, 0.05, 0.02)),
        ("delay=1s±50ms,10%", Fault("delay", 0.1, 1.0, 0.05)),
        ("delay=10%,1.5s", Fault("delay", 0.1, 1.5)),
        ("reorder", Fault("reorder", 1.0, 0.1)),
        (
            "slow-loris=10ms@Ack, Nak",
            Fault("slow-loris", 1.0, 0.01, 0.0, ("Ack", "Nak")),
        ),
        ("truncate=0.5%@Ack", Fault("truncate", 0.005, only=("Ack",))),
    ],
)
def test_text(text, expected):
    """A fault is read from its text."""
    assert expected == Fault.parse(text)


@pytest.mark.parametrize("kind", KINDS)
def test_text_is_read_back(kind):
    """What a fault is shown as means the same fault."""
    fault = Fault(kind, 0.25, KINDS[kind].seconds or 0.0, 0.0, ("Ack",))
    assert fault == Fault.parse(str(fault))


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("drp=5%", "'drp=5%': there is no fault 'drp'; did you mean drop?"),
        ("fire", "there is no fault 'fire'; known: wrong-id, corrupt-checksum, "),
        ("drop=5", "'drop=5': expected a share such as drop=5%, found '5'"),
        ("drop=", "expected a share such as drop=5%, found ''"),
        ("drop=150%", "expected a share in 0%..100%, found '150%'"),
        ("drop=1%,2%", "expected a share such as drop=5%, found '2%'"),
        ("delay", "'delay': expected a time, as in delay=50ms±20"),
        ("delay=5%", "expected a time, as in delay=50ms±20"),
        ("delay=50", "expected a time such as 50ms or 50ms±20 (units: us, µs, ms"),
        ("delay=50h", "expected a time such as 50ms"),
        ("delay=2min±9min", "would be less than no time at all"),
        ("delay=90min", "expected at most an hour, found '90min'"),
        ("drop@", "expected the name of a message after @"),
    ],
)
def test_wrong_text(text, complaint):
    """What is no fault is refused, with what was meant perhaps."""
    with pytest.raises(FaultError) as caught:
        Fault.parse(text)
    assert complaint in str(caught.value)


def test_shares_and_durations():
    """Shares and durations are read by themselves too."""
    assert parse_share("12.5 %") == 0.125
    assert parse_duration("2s +/- 500ms") == (2.0, 0.5)
    with pytest.raises(FaultError, match="--errors: expected a share such as 5%"):
        parse_share("often", "--errors")


@pytest.mark.parametrize(
    ("protocol", "fault", "complaint"),
    [
        (plain, "drop@Readings", "did you mean Reading"),
        (plain, "drop@Fire", "plain has no message 'Fire'; known: Ack, Samples, Nak"),
        (plain, "drop@Reading", "Reading is not sent this way, which Ack, Samples"),
        (plain, "corrupt-checksum", "plain declares no checksum there"),
        (synced, "wrong-id", "synced has no correlate= to change"),
    ],
)
def test_what_cannot_happen(protocol, fault, complaint):
    """A fault that cannot happen to a protocol is refused before anything is served."""
    if "Readings" in fault:
        with pytest.raises(FaultError, match=complaint):
            FaultPlan(protocol, [fault], directions=[Direction.REQUEST])
        return
    with pytest.raises(DeclarationError) as caught:
        FaultPlan(protocol, [fault])
    assert complaint in str(caught.value)


@pytest.mark.parametrize(
    "kind", [kind.name for kind in KINDS.values() if kind.streams_only]
)
def test_streams_only(kind):
    """What happens to streams only is refused for datagrams only, else left out there."""
    with pytest.raises(FaultError, match="it happens to streams only"):
        FaultPlan(plain, [kind], streams=False)
    injector = injected(plain, kind, stream=False)
    injector.feed(b"datagram")
    assert [Step(b"datagram")] == injector.due()


def test_page():
    """The page has all kinds, in their order, with their times."""
    page = Path(__file__).parents[2] / "docs" / "simulate.md"
    row = re.compile(r"^\| `([a-z-]+)` \|.*\|(.*)\|$", re.MULTILINE)
    text = page.read_text("utf-8").partition("| Kind |")[2].partition("\n\n")[0]
    rows = dict(row.findall(text))
    assert list(KINDS) == list(rows)
    for name, kind in KINDS.items():
        shown = f"{(kind.seconds or 0) * 1000:g}ms"
        assert (kind.seconds is not None) == bool(rows[name].strip())
        assert kind.timed or kind.seconds is None or rows[name].strip().endswith(shown)


# Each kind -------------------------------------------------------------------------


def test_nothing_wrong():
    """Without faults what goes in comes out at once, as it was."""
    injector = injected(plain)
    injector.feed(*framed(plain, Ack(1)))
    injector.feed(b"no frame")
    injector.end()
    assert [
        Step(framed(plain, Ack(1))[0]),
        Step(b"no frame"),
        Step(b"", End.EOF),
    ] == injector.due()
    assert injector.next_at() is None


def test_drop():
    """What is dropped never comes."""
    injector = injected(plain, "drop")
    injector.feed(*framed(plain, Ack(1)))
    injector.end()
    assert [Step(b"", End.EOF)] == injector.due()


@pytest.mark.parametrize("stream", [True, False])
def test_duplicate(stream):
    """What is duplicated comes twice; datagrams one by one."""
    injector = injected(plain, "duplicate", stream=stream)
    data, frames = framed(plain, Ack(1), stream=stream)
    injector.feed(data, frames)
    expected = [Step(data * 2)] if stream else [Step(data), Step(data)]
    assert expected == injector.due()


def test_delay():
    """What is delayed comes when its time has come, and not before."""
    clock = Clock(0.0)
    injector = injected(plain, "delay=50ms±20", clock=clock)
    injector.feed(b"first")
    assert [] == injector.due()
    at = injector.next_at()
    assert 0.03 <= at <= 0.07
    clock.now = at - 0.001
    assert [] == injector.due()
    clock.now = at
    assert [Step(b"first")] == injector.due()


def test_delays_keep_the_order_of_a_stream():
    """On a stream a shorter delay overtakes nothing; datagrams may overtake."""
    for stream in (True, False):
        clock = Clock(0.0)
        injector = injected(plain, "delay=50ms±50", clock=clock, stream=stream)
        sent = [bytes([n]) for n in range(50)]
        for data in sent:
            injector.feed(data)
        clock.now = 1.0
        came = [step.data for step in injector.due()]
        assert sent == sorted(came)
        assert stream == (sent == came)


def test_reorder():
    """Two messages change places; one that no other follows comes late."""
    clock = Clock(0.0)
    injector = injected(plain, "reorder=100ms", clock=clock)
    for data in (b"1", b"2", b"3"):
        injector.feed(data)
    assert [Step(b"2"), Step(b"1")] == injector.due()
    assert injector.next_at() == 0.1
    clock.now = 0.1
    assert [Step(b"3")] == injector.due()


def test_reorder_at_the_end():
    """What waits for a next message is sent before the end."""
    injector = injected(plain, "reorder")
    injector.feed(b"1")
    injector.end()
    assert [Step(b"1"), Step(b"", End.EOF)] == injector.due()


def test_coalesce():
    """Messages that come soon after each other are written in one piece."""
    clock = Clock(0.0)
    injector = injected(plain, "coalesce=20ms", clock=clock)
    injector.feed(b"1")
    clock.now = 0.01
    injector.feed(b"2")
    assert [] == injector.due()
    clock.now = 0.02
    assert [Step(b"12")] == injector.due()
    injector.feed(b"3")
    injector.end()
    assert [Step(b"3"), Step(b"", End.EOF)] == injector.due()


def test_coalesce_is_bounded():
    """No more is gathered than makes one large piece."""
    injector = injected(plain, "coalesce=10s")
    for _ in range(3):
        injector.feed(b"x" * 30_000)
    assert [90_000] == [len(step.data) for step in injector.due()]


@pytest.mark.parametrize(
    ("kind", "gap"), [("split-every-byte", 0.001), ("slow-loris", 0.2)]
)
def test_byte_by_byte(kind, gap):
    """Each byte comes by itself, a while after the one before."""
    clock = Clock(0.0)
    injector = injected(plain, kind, clock=clock)
    injector.feed(b"123")
    injector.feed(b"45")
    came = []
    while (at := injector.next_at()) is not None:
        clock.now = at
        came += [(round(at, 6), step.data) for step in injector.due()]
    assert [b"1", b"2", b"3", b"4", b"5"] == [data for _, data in came]
    assert [0.0, gap, 2 * gap, 2 * gap, 3 * gap] == pytest.approx(
        [at for at, _ in came]
    )


def test_bytes_in_a_late_look():
    """Bytes that are all overdue keep their order, whatever follows them."""
    clock = Clock(0.0)
    injector = injected(plain, "slow-loris=1ms@Ack", clock=clock)
    data, frames = framed(plain, Ack(1))
    injector.feed(data, frames)
    injector.feed(*framed(plain, Tick(7)))
    clock.now = 10.0
    came = b"".join(step.data for step in injector.due())
    assert data + framed(plain, Tick(7))[0] == came


def test_others_have_their_turn():
    """So many single bytes are not given at once that nothing else could happen."""
    injector = injected(plain, "split-every-byte=0ms")
    injector.feed(b"x" * 10_000)
    assert 256 == len(injector.due())
    assert injector.next_at() == 0.0
    assert b"x" * 9_744 == b"".join(step.data for step in everything(injector))


def test_truncate_a_stream():
    """A part of the message comes, and the connection is closed."""
    injector = injected(plain, "truncate")
    data, frames = framed(plain, Ack(1))
    injector.feed(data, frames)
    injector.feed(b"more")
    (step,) = injector.due()
    assert data.startswith(step.data)
    assert 0 < len(step.data) < len(data)
    assert step.end is End.CLOSE


def test_truncate_a_datagram():
    """A datagram is cut, and the next one is not hurt by it."""
    injector = injected(plain, "truncate@Ack", stream=False)
    data, frames = framed(plain, Ack(1), stream=False)
    injector.feed(data, frames)
    injector.feed(*framed(plain, Tick(1), stream=False))
    first, second = injector.due()
    assert 0 < len(first.data) < len(data)
    assert second.data == framed(plain, Tick(1), stream=False)[0]


def test_reset():
    """The connection is reset in the message's place."""
    injector = injected(plain, "reset@Ack")
    injector.feed(*framed(plain, Tick(1)))
    injector.feed(*framed(plain, Ack(1)))
    injector.feed(*framed(plain, Tick(2)))
    assert [Step(framed(plain, Tick(1))[0]), Step(b"", End.RESET)] == injector.due()


@pytest.mark.parametrize("protocol", [checked, plain, stuffed, by_function])
def test_wrong_id(protocol):
    """The key is another one, and everything else is as it was, checksums included."""
    injector = injected(protocol, "wrong-id")
    injector.feed(*framed(protocol, Ack(258, 3), sequence=77))
    (step,) = injector.due()
    (event,) = events(protocol, step.data)
    assert isinstance(event, MessageReceived), event
    by_key = protocol is by_function
    assert by_key == (event.message != Ack(258, 3))
    assert by_key == (event.header.sequence == 77)
    assert event.message.unit == 3


def test_wrong_id_where_there_is_none():
    """A message without a key passes as it is, and is not counted."""
    injector = injected(by_function, "wrong-id")
    data, frames = framed(by_function, Tick(1))
    injector.feed(data, frames)
    assert [Step(data)] == injector.due()
    assert injector.counts["wrong-id"] == 0


@pytest.mark.parametrize("seed", range(5))
def test_corrupt_checksum(seed):
    """A declared checksum is refused by the peer, and nothing else is wrong."""
    injector = injected(checked, "corrupt-checksum", seed=seed)
    data, frames = framed(checked, Ack(258), sequence=77)
    injector.feed(data, frames)
    (step,) = injector.due()
    assert data[:-2] == step.data[:-2]
    (event,) = events(checked, step.data)
    assert isinstance(event, MessageRejected)
    assert event.error.path.endswith("crc")


@pytest.mark.parametrize("seed", range(5))
def test_corrupt_checksum_of_the_framing(seed):
    """A checksum of the framing is wrong before its bytes are stuffed."""
    injector = injected(stuffed, "corrupt-checksum", seed=seed)
    data, frames = framed(stuffed, Ack(0x7E7D7E7D))
    injector.feed(data, frames)
    (step,) = injector.due()
    framer = stuffed.framing.framer()
    framer.feed(step.data)
    assert framer.decode() is None
    assert (framer.corrupted, framer.discarded) == (1, 0)


def test_corrupt_checksum_in_the_frame():
    """A checksum that the framing keeps in the frame is wrong there."""
    frame = synced.build(Pair(b"ab"), RESPONSE, header=Synced(kind=1))
    data = synced.framing.encode(frame)
    injector = injected(synced, "corrupt-checksum")
    injector.feed(data, (data,))
    (step,) = injector.due()
    assert len(step.data) == len(data)
    assert step.data[:-2] == data[:-2]
    framer = synced.framing.framer()
    framer.feed(step.data)
    assert framer.decode() is None


@pytest.mark.parametrize("kind", ["wrong-id", "corrupt-checksum"])
def test_what_is_not_understood_passes(kind):
    """Bytes that are no frame, or no message, pass as they are."""
    injector = injected(checked, kind)
    injector.feed(b"\0\3abc", (b"abc",))
    injector.feed(b"no frame")
    assert [Step(b"\0\3abc"), Step(b"no frame")] == injector.due()
    assert not injector.counts


def test_only_some_messages():
    """A fault that is for a message happens to no other, nor to what is not understood."""
    injector = injected(plain, "drop@Ack,Samples")
    injector.feed(*framed(plain, Ack(1)))
    injector.feed(*framed(plain, Tick(1)))
    injector.feed(*framed(plain, Samples([])))
    injector.feed(b"\0\3abc", (b"abc",))
    assert [Step(framed(plain, Tick(1))[0]), Step(b"\0\3abc")] == injector.due()


def test_only_one_direction():
    """What goes the other way is left alone."""
    plan = FaultPlan(plain, ["drop"], directions=[RESPONSE])
    injector = plan.injector(0, Direction.REQUEST, stream=True, clock=Clock(0.0))
    data = plain.framing.encode(plain.build(Reading(1), Direction.REQUEST))
    injector.feed(data)
    assert [Step(data)] == injector.due()


def test_several_faults():
    """Faults add up, and each is counted."""
    clock = Clock(0.0)
    injector = injected(plain, "delay=1s", "wrong-id", "duplicate", clock=clock)
    data, frames = framed(plain, Ack(1), sequence=3)
    injector.feed(data, frames)
    clock.now = 1.0
    (step,) = injector.due()
    first, second = events(plain, step.data)
    assert first.header == second.header
    assert first.header.sequence != 3
    assert {"delay": 1, "wrong-id": 1, "duplicate": 1} == dict(injector.counts)


# Chance ----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_rates(kind):
    """A fault happens about as often as it says, for a fixed seed."""
    text = f"{kind}=1ms,20%" if KINDS[kind].timed else f"{kind}=20%"
    plan = FaultPlan(checked, [text], seed=1)
    for connection in range(500):
        injector = plan.injector(connection, RESPONSE, stream=True, clock=Clock(0.0))
        injector.feed(*framed(checked, Ack(1), sequence=5))
        injector.feed(*framed(checked, Ack(2), sequence=6))
    least, most = (70, 230) if kind in ("reorder", "truncate", "reset") else (160, 240)
    assert least < plan.counts[kind] < most


def said(seed, times, *, connection=0):
    """
    Give all that becomes of 200 messages, whenever they come.
    """
    clock = Clock(0.0)
    texts = ["drop=10%", "delay=50ms±20,30%", "duplicate=10%", "wrong-id=20%",
             "corrupt-checksum=10%", "split-every-byte=10%"]  # fmt: skip
    injector = injected(checked, *texts, seed=seed, clock=clock, connection=connection)
    found = []
    for n in range(200):
        clock.now += times()
        injector.feed(*framed(checked, Ack(n), sequence=n))
        found += injector.due()
    clock.now += 100.0
    found += everything(injector)
    return b"".join(step.data for step in found), dict(injector.counts)


def test_the_same_seed():
    """The same seed gives the same bytes, whatever the time; another seed others."""
    chance = random.Random(5)
    first = said(1, lambda: 0.0)
    assert first == said(1, lambda: chance.uniform(0, 0.1))
    assert first != said(2, lambda: 0.0)
    assert first != said(1, lambda: 0.0, connection=1)


# Bounds ----------------------------------------------------------------------------


def test_full():
    """It says when no more should be read, and when there is room again."""
    clock = Clock(0.0)
    injector = injected(plain, "delay=1s", clock=clock)
    while not injector.full:
        injector.feed(b"x" * 1000)
    assert 256 * 1024 <= injector.pending < 256 * 1024 + 1000
    clock.now = 1.0
    everything(injector)
    assert (injector.pending, injector.full) == (0, False)


@pytest.mark.parametrize(
    "faults",
    [
        ("reorder=50%", "coalesce=50%", "delay=5ms±5,50%"),
        ("slow-loris=1ms,50%", "duplicate=50%", "reorder=30%"),
        ("drop=50%", "truncate=1%", "coalesce=90%"),
    ],
)
def test_nothing_is_left_behind(faults):
    """Whatever happens, what waits is counted right and comes at last."""
    for seed in range(20):
        clock = Clock(0.0)
        injector = injected(plain, *faults, seed=seed, clock=clock)
        sent = random.Random(seed)
        for n in range(50):
            clock.now += sent.uniform(0, 0.03)
            injector.feed(bytes([n]) * sent.randint(2, 9))
            injector.due()
        injector.end()
        clock.now += 1000.0
        steps = everything(injector)
        assert steps == [] or steps[-1].end is not None
        assert (injector.pending, injector.next_at()) == (0, None)


# Cutting ---------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", [plain, stuffed])
@pytest.mark.parametrize("size", [1, 3, 1000])
def test_cutter(protocol, size):
    """Frames come with their bytes, however the stream is split."""
    sent = [framed(protocol, Ack(n * 0x7E7D), sequence=n) for n in range(20)]
    data = b"".join(raw for raw, _ in sent)
    cutter = Cutter(protocol.framing)
    found = []
    for i in range(0, len(data), size):
        found += cutter.feed(data[i : i + size])
    assert sent == found
    assert [] == cutter.end()


def test_cutter_of_a_broken_stream():
    """Where a stream makes no sense, the rest passes as bytes."""
    raw, frames = framed(plain, Ack(1))
    cutter = Cutter(plain.framing)
    assert [(raw, frames), (b"\xff\xffrest", ())] == cutter.feed(raw + b"\xff\xffrest")
    assert [(b"more", ())] == cutter.feed(b"more")
    assert [] == cutter.end()


def test_cutter_of_an_unfinished_frame():
    """What is unfinished at the end passes as bytes."""
    cutter = Cutter(plain.framing)
    assert [] == cutter.feed(b"\0\x09abc")
    assert [(b"\0\x09abc", ())] == cutter.end()
