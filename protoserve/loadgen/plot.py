"""
A load's figures as a picture: latency by percentile, and how it went.

The percentiles stand on a scale on which each nine more takes the same room, as HDR
histograms are usually drawn: what matters about latency is far out.
"""

from __future__ import annotations

import importlib
import os
from typing import Any

from protoserve.errors import DeclarationError
from protoserve.loadgen.figures import Figures, percentile

__all__ = ["check_plot", "write_plot"]

_NINES = (50.0, 90.0, 99.0, 99.9, 99.99, 99.999)


def check_plot(path: str | os.PathLike[str]) -> None:
    """
    See whether a plot can be written, before the work that it is to show.

    Raises:
        DeclarationError: the file is not for SVG, or Matplotlib is missing.
    """
    if not os.fspath(path).lower().endswith(".svg"):
        raise DeclarationError(f"{path}: expected the name of an .svg file")
    try:
        importlib.import_module("matplotlib")
    except ModuleNotFoundError as exc:
        raise DeclarationError(
            f"a plot needs {exc.name}; install it with pip install 'protoserve[plot]'"
        ) from exc


def write_plot(figures: Figures, path: str | os.PathLike[str], title: str) -> None:
    """
    Write the picture, as SVG.

    Raises:
        OSError: the file cannot be written.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    # Text stays text, and the same figures always give the same file.
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "protoserve"}):
        picture = Figure(figsize=(11, 4.5), layout="constrained")
        picture.suptitle(title)
        left, right = picture.subplots(1, 2)
        _draw_percentiles(left, figures)
        _draw_course(right, figures)
        picture.savefig(path, format="svg", metadata={"Date": None})


def _draw_percentiles(axes: Any, figures: Figures) -> None:
    most = 1 - 1 / max(2, figures.answered)
    shown = [p for p in _NINES if p / 100 <= most] or [0.0]
    steps = [
        100 * (1 - 10 ** (-nines / 40)) for nines in range(int(40 * len(shown)) + 1)
    ]
    points = [p for p in steps if p / 100 <= most]
    axes.plot(
        [1 / (1 - p / 100) for p in points],
        [percentile(figures.times, p) * 1e3 for p in points],
    )
    axes.set_xscale("log")
    axes.set_xticks([1 / (1 - p / 100) for p in shown], [f"{p:g} %" for p in shown])
    axes.minorticks_off()
    axes.set(xlabel="percentile", ylabel="ms", title="Latency by percentile")
    axes.set_ylim(bottom=0)
    axes.grid(visible=True, alpha=0.4)


def _draw_course(axes: Any, figures: Figures) -> None:
    at = [second.at for second in figures.course]
    axes.plot(at, [s.p99 * 1e3 for s in figures.course], label="99 %, ms")
    axes.plot(at, [s.p50 * 1e3 for s in figures.course], label="50 %, ms")
    axes.set(xlabel="s", ylabel="ms", title="Latency and answers over time")
    axes.set_ylim(bottom=0)
    rates = axes.twinx()
    rates.plot(
        at,
        [s.answered / s.length for s in figures.course],
        color="grey",
        linestyle=":",
        label="answers/s",
    )
    rates.set_ylabel("answers/s")
    rates.set_ylim(bottom=0)
    lines = [*axes.get_lines(), *rates.get_lines()]
    axes.legend(lines, [line.get_label() for line in lines], loc="best")
    axes.grid(visible=True, alpha=0.4)
