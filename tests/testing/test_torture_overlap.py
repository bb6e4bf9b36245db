"""
Cases in which two things lay claim to the same, and requests that are drawn until one
is answered.
"""

import random

import pytest

from protoserve import Direction, Service, route
from protoserve.serve import StartError
from protoserve.testing import torture
from protoserve.testing.torturing import cases as steps
from protoserve.testing.torturing import run
from protoserve.testing.torturing.cases import Baseline
from protoserve.testing.torturing.making import cases
from protoserve.testing.torturing.overlapping import (
    nested,
    reaching,
    shared,
    swallowing,
)
from protoserve.testing.torturing.plans import Plan
from protoserve.testing.torturing.seeds import Seed, drawn
from tests.service.kit import Ping, Pong, spoken
from tests.testing.planted import Add, Paint, toy

CHANCE = random.Random(5)
ADD = Seed(toy, None, Add(values=[7, 8, 9]))
PAINT = Seed(toy, None, Paint(1))
BEHIND = toy.framing.encode(PAINT.frame(6))


def test_reaching():
    """A count is set so that its elements end at each edge behind and before them."""
    frame = ADD.frame(5)
    found = list(reaching(toy, frame, BEHIND, CHANCE))
    counts = {b.data[3] for b in found if "count" in b.what}
    trailer = len(toy.build(Add(), Direction.REQUEST)) - 4
    assert {0, 1, 2, 3 + trailer, 3 + trailer + 1} <= counts
    assert 3 + trailer + len(BEHIND) in counts
    assert 3 not in counts
    assert all(len(frame) == len(broken.data) for broken in found)


def test_shared():
    """The second frame begins in the first, or the first ends in the second."""
    found = {broken.data for broken in shared(b"abc", b"xyz", CHANCE)}
    assert {b"abxyz", b"axyz", b"abcyz", b"abcz"} == found


def test_nested():
    """A whole frame stands in another, whose own checksum is right."""
    found = [broken.data for broken in nested(toy, ADD.frame(5), BEHIND)]
    assert 3 == len(found)
    for data in found:
        assert BEHIND in data
        assert toy.framing.encode(data) != data
    assert ADD.frame(5)[:3] + BEHIND == found[0][:-2]


def test_swallowing():
    """What the framing writes ahead takes bytes of the next frame for its own."""
    frame = ADD.frame(5)
    wire = toy.framing.encode(frame)
    found = [broken.data for broken in swallowing(frame, wire, BEHIND)]
    sizes = [int.from_bytes(data[:2], "big") - len(frame) for data in found]
    assert [1, 2, len(BEHIND) // 2, len(BEHIND) - 1, len(BEHIND)] == sizes
    assert all(data[2:] == wire[2:] + BEHIND for data in found)


def is_no_pause(step):
    return not isinstance(step, steps.Pause)


def sent(some):
    """Give what is sent on each connection."""
    return {step.on: step.data for step in some if isinstance(step, steps.Send)}


def test_peers_at_once():
    """Several connections carry requests under one key, none of which ends first."""
    plan = Plan(toy, stream=True, seeds=[ADD, PAINT])
    plan.known = {seed: Baseline(seed.name) for seed in plan.seeds}
    source = cases(plan, 1, ["overlap"])
    some = [next(source) for _ in range(40)]
    together = [case for case in some if "peers" in case.what]
    assert together
    for case in together:
        pause = next(n for n, step in enumerate(case.steps) if not is_no_pause(step))
        begun, ended = sent(case.steps[:pause]), sent(case.steps[pause:])
        assert [0, 1, 2, 3] == sorted(ended)
        whole = {on: begun.get(on, b"") + data for on, data in ended.items()}
        assert 1 == len({data[3:5] for data in whole.values()})
        assert case.due == {data[2:] for data in whole.values()}


@pytest.mark.parametrize("transport", ["tcp", "udp"])
def test_services_pass(transport):
    """A service of ours has its answers right when everything overlaps."""

    class Echo:
        @route
        def ping(self, message: Ping) -> Pong:
            return Pong(message.value)

    app = Service(spoken, Echo())
    report = torture(app, transport=transport, budget=150, only=["overlap"])
    assert ([], 150) == (report.findings, report.cases)


class Choosy:
    """Answers no odd number."""

    @route
    def ping(self, message: Ping) -> Pong | None:
        return None if message.value % 2 else Pong(message.value)


@pytest.fixture
def odd_first(monkeypatch):
    """Let the first draws have requests only that Choosy does not answer."""
    draws = []

    def unlucky(count):
        def draw(protocol, most, seed, *, stream):
            draws.append(seed)
            odd = len(draws) <= count
            return [
                Seed(protocol, one.header, Ping(2 * n + odd))
                for n, one in enumerate(drawn(protocol, most, seed, stream=stream))
            ]

        monkeypatch.setattr(run.pool, "drawn", draw)
        return draws

    return unlucky


def test_requests_are_drawn_until_one_is_answered(odd_first):
    """A draw of requests that the server does not answer is followed by another."""
    draws = odd_first(2)
    report = torture(Service(spoken, Choosy()), transport="udp", budget=30)
    assert (30, []) == (report.cases, report.findings)
    assert [0, "0 1", "0 2"] == draws


def test_draws_are_bounded(odd_first, monkeypatch):
    """After some draws without an answer the server is held for another one."""
    monkeypatch.setattr(run, "_DRAWS", 2)
    draws = odd_first(100)
    with pytest.raises(StartError, match="answers none of"):
        torture(Service(spoken, Choosy()), transport="udp", budget=30)
    assert 2 == len(draws)
