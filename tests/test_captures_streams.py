"""
One direction of a TCP connection, put in order.
"""

import itertools

from hypothesis import given, settings
from hypothesis import strategies as st

from protoserve.captures import streams
from protoserve.captures.streams import Gap, HalfStream

WHOLE = bytes(range(256)) * 2


def take(half, sequence, data=b"", *, missing=0, time=0.0, last=False):
    return list(half.take(sequence, data, missing, time, last=last))


def joined(pieces):
    """
    Put pieces together, with dots for what is missing.
    """
    return b"".join(b"." * p.size if isinstance(p, Gap) else p for p in pieces)


@st.composite
def segments(draw):
    """
    Cut a stream into segments that overlap, repeat and come in any order.
    """
    cuts = sorted(draw(st.sets(st.integers(1, len(WHOLE) - 1), max_size=12)))
    bounds = [0, *cuts, len(WHOLE)]
    pieces = list(itertools.pairwise(bounds))
    for _ in range(draw(st.integers(0, 6))):
        low = draw(st.integers(0, len(WHOLE) - 1))
        pieces.append((low, draw(st.integers(low + 1, len(WHOLE)))))
    return draw(st.permutations(pieces))


@settings(max_examples=300, deadline=None, derandomize=True, database=None)
@given(segments(), st.integers(0, 2**32 - 1))
def test_any_order(pieces, first):
    """
    The stream is what was sent, whatever the order, and across the end of numbers.
    """
    half = HalfStream()
    half.start(first)
    given_out = []
    for low, high in pieces:
        given_out += take(half, (first + low) % 2**32, WHOLE[low:high])

    assert WHOLE == b"".join(given_out)
    assert 0 == half.waiting
    assert [] == list(half.give_up())


def test_in_the_middle():
    """
    Without its beginning, a stream begins with the first segment that is there.
    """
    half = HalfStream()
    assert [b"abc"] == take(half, 1000, b"abc")
    assert [b"def"] == take(half, 1003, b"def")


def test_old_data():
    """
    What has been given out is not given again; a keep-alive is nothing.
    """
    half = HalfStream()
    take(half, 10, b"abcd")
    assert [] == take(half, 10, b"abcd")
    assert [] == take(half, 13, b"\0")
    assert [b"ef"] == take(half, 12, b"cdef")


def test_what_came_first_is_kept():
    """
    Of two segments that disagree, the bytes that came first count.
    """
    half = HalfStream()
    take(half, 0, b"abcd")
    assert [b"ef"] == take(half, 2, b"XXef")


class TestHoles:
    def test_waits(self):
        """
        Nothing is given past a hole until it is filled.
        """
        half = HalfStream()
        take(half, 0, b"ab")
        assert [] == take(half, 4, b"ef")
        assert 2 == half.waiting
        assert [b"cd", b"ef"] == take(half, 2, b"cd")

    def test_given_up(self):
        """
        At the end, what is behind holes is given with the holes' sizes.
        """
        half = HalfStream()
        take(half, 0, b"ab")
        take(half, 4, b"ef")
        take(half, 9, b"jk")

        assert [Gap(2), b"ef", Gap(3), b"jk"] == list(half.give_up())
        assert 0 == half.waiting

    def test_too_late(self):
        """
        A hole is waited for so long, in the capture's own time.
        """
        half = HalfStream()
        take(half, 0, b"ab")
        assert [] == take(half, 4, b"ef", time=1.0)
        assert [] == take(half, 6, b"gh", time=1.0 + streams.PATIENCE)
        late = take(half, 8, b"ij", time=1.5 + streams.PATIENCE)
        assert b"..efghij" == joined(late)

    def test_too_much(self, monkeypatch):
        """
        Only so much waits behind a hole.
        """
        monkeypatch.setattr(streams, "MAX_WAITING", 100)
        half = HalfStream()
        take(half, 0, b"ab")
        pieces = []
        for at in range(4, 400, 4):
            pieces += take(half, at, b"wxyz")
            assert half.waiting <= 100

        assert b".." + b"wxyz" * 99 == joined(pieces)

    def test_too_many(self, monkeypatch):
        """
        Only so many segments wait.
        """
        monkeypatch.setattr(streams, "MAX_SEGMENTS", 5)
        half = HalfStream()
        take(half, 0, b"a")
        pieces = []
        for at in range(2, 40, 2):
            pieces += take(half, at, b"b")
            assert len(half._behind) <= 5
        assert joined([*pieces, *half.give_up()]) == b".b" * 19

    def test_cut_segment(self):
        """
        What the capture has cut off a segment is a hole at once.
        """
        half = HalfStream()
        assert [b"ab", Gap(3)] == take(half, 0, b"ab", missing=3)
        assert [b"fg"] == take(half, 5, b"fg")


class TestEnd:
    def test_ended(self):
        """
        A stream has ended when all before its end has come.
        """
        half = HalfStream()
        half.start(0)
        take(half, 2, b"cd", last=True)
        assert not half.ended
        take(half, 0, b"ab")
        assert half.ended

    def test_empty(self):
        """
        The end may be a segment of its own.
        """
        half = HalfStream()
        take(half, 0, b"ab")
        take(half, 2, last=True)
        assert half.ended
