"""
The shared trial: every framing, the same questions.
"""

from __future__ import annotations

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protoserve.errors import (
    FrameTooLongError,
    IncompleteFrameError,
    InvalidMessageError,
    RemoteProtocolError,
)
from protoserve.framing import SyncWord
from tests.framing.trial import (
    CASES,
    PAYLOAD,
    Work,
    bytewise,
    drain,
    outcome,
    pieces_of,
    run,
)


def cases(chosen):
    return pytest.mark.parametrize("case", chosen, ids=lambda case: case.name)


each = cases(CASES)
bounded = cases([case for case in CASES if case.too_long])
linear = cases([case for case in CASES if case.linear])
cuts = st.lists(st.integers(0, 600), max_size=12)
few = settings(max_examples=40, deadline=None)


@each
def test_bytes_on_the_wire(case):
    """The running payload is encoded as the bytes that are written down."""
    wire = bytes.fromhex(case.wire)
    assert wire == case.framing.encode(case.dress(PAYLOAD))
    assert [case.ready(PAYLOAD)] == run(case.framing.framer(), [wire])


@each
@few
@given(data=st.data(), cuts=cuts)
def test_round_trip(case, data, cuts):
    """Frames come out as they went in, whole, byte by byte and split anyhow."""
    frames = data.draw(case.frames())
    wire = b"".join(map(case.framing.encode, frames))
    for pieces in ([wire], bytewise(wire), pieces_of(wire, cuts)):
        framer = case.framing.framer()
        assert frames == run(framer, pieces)
        assert framer.end() is None
        assert (framer.buffered, framer.discarded, framer.corrupted) == (0, 0, 0)


@each
@few
@given(data=st.data(), cuts=cuts)
def test_the_split_changes_nothing(case, data, cuts):
    """Whatever comes, the outcome is that of the whole, and errors are ours."""
    frames = b"".join(map(case.framing.encode, data.draw(case.frames())))
    noise = data.draw(st.binary(max_size=40))
    at = data.draw(st.integers(0, len(frames)))
    stream = frames[:at] + noise + frames[at:]
    framing = case.framing
    if case.too_long:
        framing = attrs.evolve(framing, max_size=data.draw(st.integers(10, 80)))
    whole = outcome(framing, [stream])
    assert whole[3] is None or isinstance(whole[3], RemoteProtocolError)
    for pieces in (bytewise(stream), pieces_of(stream, cuts)):
        split = outcome(framing, pieces)
        assert whole[:3] == split[:3]
        assert type(whole[3]) is type(split[3])


@each
@pytest.mark.parametrize("kind", [bytearray, memoryview, bytes])
def test_any_bytes_are_taken_and_copied(case, kind):
    """What is fed may be reused at once."""
    wire = case.framing.encode(case.dress(PAYLOAD))
    framer = case.framing.framer()
    for at in (0, 3):
        held = bytearray(wire[at : at + 3] if at == 0 else wire[at:])
        framer.feed(kind(held))
        held[:] = bytes(len(held))
    (frame,) = drain(framer)
    assert case.ready(PAYLOAD) == frame
    assert type(frame) is bytes


@each
def test_trailing_bytes_are_kept(case):
    """What follows a frame waits for the rest of its own."""
    wire = case.framing.encode(case.dress(PAYLOAD))
    for at in range(1, len(wire)):
        framer = case.framing.framer()
        assert [case.ready(PAYLOAD)] == run(framer, [wire + wire[:at]])
        # SLIP's and HDLC's opening bytes may be closing ones too
        assert at - framer.buffered in (0, 1)
        assert [case.ready(PAYLOAD)] == run(framer, [wire[at:]])


@each
def test_end_of_stream(case):
    """The end is clean between frames and an error inside, told again and again."""
    wire = case.framing.encode(case.dress(PAYLOAD))
    for at in range(len(wire) + 1):
        framer = case.framing.framer()
        drained = run(framer, [wire[:at]])
        buffered, found = framer.buffered, wire[:at].lstrip(b"\xc0\x7e")[:16]
        if not buffered:
            assert framer.end() is None
            continue
        assert not drained
        with pytest.raises(IncompleteFrameError) as caught:
            framer.end()
        assert buffered == caught.value.buffered
        assert found == caught.value.found
        with pytest.raises(IncompleteFrameError) as again:
            framer.decode()
        assert caught.value is again.value


@bounded
def test_too_long(case):
    """A frame above the maximum is refused, early, for good."""
    size = len(case.ready(PAYLOAD))
    wire = case.framing.encode(case.dress(PAYLOAD))
    framing = attrs.evolve(case.framing, max_size=size)
    assert [case.ready(PAYLOAD)] == run(framing.framer(), [wire])
    framing = attrs.evolve(case.framing, max_size=size - 1)
    with pytest.raises(InvalidMessageError):
        framing.encode(case.dress(PAYLOAD))
    for pieces in ([wire], bytewise(wire)):
        framer = framing.framer()
        with pytest.raises(FrameTooLongError) as caught:
            run(framer, pieces)
        error = caught.value
        assert wire.lstrip(b"\xc0\x7e").startswith(error.found)
        assert error.size > error.limit
        assert error.offset < len(wire)
        framer.feed(wire)
        for method in (framer.decode, framer.end, framer.decode):
            with pytest.raises(FrameTooLongError) as again:
                method()
            assert error is again.value
        assert framer.buffered == 0


@bounded
def test_too_long_offset_is_absolute(case):
    """The offset in the error counts from the start of the stream."""
    small = b"abc"
    limit = len(case.ready(small))
    first = case.framing.encode(case.dress(small))
    framing = attrs.evolve(case.framing, max_size=limit)
    second = case.framing.encode(case.dress(PAYLOAD))
    for pieces in ([first * 5 + second], bytewise(first * 5 + second)):
        framer = framing.framer()
        with pytest.raises(FrameTooLongError) as caught:
            run(framer, pieces)
        assert 5 * len(first) <= caught.value.offset < 5 * len(first) + 6


@linear
@pytest.mark.parametrize("step", [1, 7, 1000])
def test_work_is_linear(case, step):
    """
    The bytes copied and scanned are a bounded multiple of the bytes fed,
    for one long frame and for many short ones.
    """
    short = case.framing.encode(case.dress(PAYLOAD))
    limit = {"byte prefix": 255, "fixed size": 12}.get(case.name, 30_000)
    if case.name.startswith("self-") or "options" in case.name or "func" in case.name:
        limit = 200
    payload = (PAYLOAD * (limit // 12 + 1))[:limit]
    framing = case.framing
    if case.too_long:
        framing = attrs.evolve(framing, max_size=70_000)
    long = framing.encode(case.dress(payload))
    for wire in (long, short * (30_000 // len(short))):
        framer = framing.framer()
        work = Work()
        work.watch(framer)
        count = 0
        for at in range(0, len(wire), step):
            work.feed(framer, wire[at : at + step])
            count += len(drain(framer))
        assert count == (1 if wire is long else 30_000 // len(short))
        assert work.done < 20 * len(wire)


@each
def test_datagrams(case):
    """A frame makes a datagram and comes back; several do where they can."""
    framing = case.framing
    frame = case.ready(PAYLOAD)
    packed = framing.pack(frame)
    assert [frame] == framing.split(packed)
    if framing.in_frame:
        assert [frame] * 3 == framing.split(packed * 3)
        assert framing.split(b"") == []
        with pytest.raises(IncompleteFrameError):
            framing.split(packed + packed[:-1])
    else:
        assert packed is frame


@each
def test_value(case):
    """A framing is an immutable value that shows how it was made."""
    assert case.framing == attrs.evolve(case.framing)
    assert hash(case.framing) == hash(attrs.evolve(case.framing))
    assert repr(case.framing).startswith(type(case.framing).__name__ + "(")
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        case.framing.max_size = 1


def test_sync_word_that_is_too_long_is_passed_over():
    """Framings that resynchronise take a length above the maximum for noise."""
    for case in CASES:
        if isinstance(case.framing, SyncWord):
            wire = case.framing.encode(case.dress(PAYLOAD))
            framing = attrs.evolve(case.framing, max_size=len(wire) - 1)
            framer = framing.framer()
            assert run(framer, [wire]) == []
            assert framer.corrupted == 1
            assert framer.discarded == len(wire)
