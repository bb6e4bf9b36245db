"""
The table of datagram peers.
"""

import attrs

from protoserve.peers import PeerTable


@attrs.define
class Clock:
    now: float = 0.0

    def __call__(self):
        return self.now


def table(most=None, idle=None):
    gone, clock = [], Clock()
    return PeerTable(most, idle, gone.append, clock), gone, clock


def test_values_are_kept():
    """A peer's value is made once."""
    peers, gone, _ = table()
    first = peers.get("a", list)
    assert first is peers.get("a", list)
    assert first is not peers.get("b", list)
    assert (2, [[], []], []) == (len(peers), list(peers), gone)


def test_least_recently_used_makes_room():
    """A full table forgets who was silent for longest."""
    peers, gone, _ = table(most=2)
    for peer in "abac":
        peers.get(peer, peer.upper)
    assert (["B"], ["A", "C"]) == (gone, list(peers))


def test_a_flood_is_bounded():
    """However many peers there are, the table holds so many."""
    peers, gone, _ = table(most=100)
    for i in range(10_000):
        peers.get(i, object)
    assert (100, 9_900) == (len(peers), len(gone))


def test_the_silent_are_forgotten():
    """Whoever was silent for too long begins anew."""
    peers, gone, clock = table(idle=10)
    peers.get("a", lambda: 1)
    clock.now = 5
    peers.get("b", lambda: 2)
    clock.now = 9.9
    assert 1 == peers.get("a", lambda: 3)
    clock.now = 15
    assert 4 == peers.get("b", lambda: 4)
    assert [2] == gone
    clock.now = 100
    assert 5 == peers.get("c", lambda: 5)
    assert ([2, 1, 4], [5]) == (gone, list(peers))


def test_forget():
    """One peer is forgotten, if it still has that value."""
    peers, gone, _ = table()
    old = peers.get("a", object)
    peers.forget("a", old)
    new = peers.get("a", object)
    peers.forget("a", old)
    peers.forget("b", old)
    assert ([old], [new]) == (gone, list(peers))


def test_clear():
    """All are forgotten at the end."""
    peers, gone, _ = table()
    for peer in "abc":
        peers.get(peer, peer.upper)
    peers.clear()
    assert (["A", "B", "C"], 0) == (gone, len(peers))
