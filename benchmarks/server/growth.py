"""
How cost grows with the size of frames, the connections, the message types, the fields.

All points of an axis are measured in turns, so that they can be compared: ours with
the same work by hand at the same point, and each with itself at the first point.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import attrs

from benchmarks.server.loads import Load
from benchmarks.server.measure import Bench, Effort, Found, Ratio
from benchmarks.server.servers import Server
from benchmarks.server.shape import Shape

FULL = Effort(1, 7, 0.2, 1, 1)
QUICK = Effort(1, 3, 0.1, 1, 1, 0.1)


@attrs.frozen
class Axis:
    """
    What grows.
    """

    key: str
    title: str
    seen: str
    label: str
    points: tuple[int, ...]
    load: Callable[[int], Load]


def _load(connections: int, depth: int, shape: Shape) -> Load:
    words = ("load_tcp", "PORT", str(connections), str(depth), *shape.for_load())
    references = ("", "", "by hand, uvloop")
    warm = connections * shape.kinds
    return Load("", "", "", "stream", words, references, shape=shape, warm=warm)


AXES = (
    Axis(
        "size",
        "Frame size",
        "How much of the work of the server written by hand a declared one does as "
        "frames grow: the larger they are, the more the copying of bytes counts.",
        "bytes of a frame",
        (16, 64, 256, 1024, 4096, 16_384, 65_536, 262_144, 1_048_576),
        lambda size: _load(4, 1, Shape(prefix=4, body=size - 9)),
    ),
    Axis(
        "connections",
        "Connections",
        "The same as connections grow that have one request outstanding each.",
        "connections",
        (1, 10, 100, 1000, 10_000),
        lambda connections: _load(connections, 1, Shape()),
    ),
    Axis(
        "types",
        "Message types",
        "The same as the protocol's message types grow, which take turns; dispatch is "
        "flat if the ratio to the server by hand, which has a table too, is: each type "
        "has code of its own, which the processor's caches have less and less of.",
        "message types",
        (1, 10, 100, 1000),
        lambda kinds: _load(16, 8, Shape(kind=2, kinds=kinds)),
    ),
    Axis(
        "fields",
        "Fields",
        "The same as a message's 16-bit numbers grow, in the request and in the reply.",
        "fields of a message",
        (1, 5, 20, 50, 100, 200),
        lambda fields: _load(16, 8, Shape(body=2 * fields, fields=fields)),
    ),
)


@attrs.frozen
class Point:
    """
    One point of an axis.
    """

    at: int
    ours: Found
    hand: Found

    @property
    def failure(self) -> str:
        """
        Why there is no number.
        """
        return self.ours.failure or self.hand.failure

    @property
    def ratio(self) -> Ratio | None:
        """
        Ours, compared with that written by hand.
        """
        return None if self.failure else self.ours.against(self.hand)


def measure(bench: Bench, ours: Server, hand: Server, axis: Axis) -> list[Point]:
    """
    Measure an axis.
    """
    points = []
    for at in axis.points:
        load = attrs.evolve(axis.load(at), key=f"growth {axis.key} {at}")
        points.append(Point(at, Found(ours, load), Found(hand, load)))
    bench.run_all([one for point in points for one in (point.ours, point.hand)])
    return points


def table(axis: Axis, points: Sequence[Point]) -> Iterator[str]:
    """
    Write an axis as Markdown.
    """
    yield (
        f"| {axis.label} | thousand requests per CPU-second | / by hand | quartiles "
        "| / itself at the first | by hand / itself at the first |"
    )
    yield "|---:|---:|---:|---:|---:|---:|"
    for point in points:
        ratio = point.ratio
        if ratio is None or point.ours.rate is None:
            yield f"| {point.at:,} | {point.failure} | | | | |"
            continue
        own = _itself(points[0].ours, point.ours)
        hand = _itself(points[0].hand, point.hand)
        yield (
            f"| {point.at:,} | {point.ours.rate / 1e3:,.1f} | {ratio.median:.2f} | "
            f"{ratio.low:.2f}-{ratio.high:.2f} | {own} | {hand} |"
        )


def _itself(first: Found, one: Found) -> str:
    ratio = one.against(first)
    return "" if ratio is None else f"{ratio.median:.2f}"


def plot(axis: Axis, points: Sequence[Point], file: Path) -> None:
    """
    Draw an axis as SVG.
    """
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = axis.key  # the same plot gives the same file
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 3.6))
    found = [(point.at, ratio) for point in points if (ratio := point.ratio)]
    at = [x for x, _ in found]
    axes.fill_between(
        at, [r.low for _, r in found], [r.high for _, r in found], alpha=0.2
    )
    axes.plot(at, [r.median for _, r in found], "o-", label="protoserve / by hand")
    if axis.key == "types":
        for name, side in (("protoserve", "ours"), ("by hand", "hand")):
            sides = [(p.at, getattr(p, side)) for p in points if not p.failure]
            own = [(x, one.against(sides[0][1])) for x, one in sides]
            axes.plot(
                [x for x, ratio in own if ratio],
                [ratio.median for _, ratio in own if ratio],
                "--",
                label=f"{name} / itself with one type",
            )
    axes.axhline(1, color="grey", linewidth=0.8)
    axes.set_xscale("log")
    axes.set_ylim(bottom=0)
    axes.set_xlabel(axis.label)
    axes.set_ylabel("work per CPU-second, ratio")
    axes.set_title(axis.title)
    axes.legend(loc="lower right")
    figure.tight_layout()
    figure.savefig(file, format="svg", metadata={"Date": None})
    plt.close(figure)
