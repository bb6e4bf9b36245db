"""
What it costs before the first message: imports, declarations, making the codecs.

Imports are measured in processes of their own, the candidates in turn. All find their
bytecode in a cache, as installed packages do, whatever the environment says.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs

from benchmarks.codec.messages import choice, fixed, netflow, variable
from benchmarks.codec.rows import Reach, Row
from protoserve import Message

UNUSED = ("numpy", "asyncio", "rich")
"""What `import protoserve` must leave alone."""
USED = "from protoserve import Message, Protocol, Service, route, wire"
"""What a service starts with, whatever is imported late."""
MESSAGES = 300

_IMPORT = """
import sys, time
start = time.perf_counter()
{statement}
seconds = time.perf_counter() - start
import json
unused = [name for name in {unused!r} if name in sys.modules]
print(json.dumps([seconds, unused]))
"""

_LARGE = """
from construct import Array, Int8ub, Int16ub, Int32ub, PascalString, this
from protoserve import Message, Protocol, count_of, length_of, wire
"""
_LARGE_HEADER = """
class Header(Message):
    kind: int = wire(Int16ub)
    length: int = wire(Int16ub, value=length_of("body"))
"""
_LARGE_MESSAGE = """
class Message{i}(Message):
    number: int = wire(Int32ub)
    state: int = wire(Int8ub, default=0)
    name: str = wire(PascalString(Int8ub, "utf8"), default="")
    count: int = wire(Int8ub, value=count_of("values"))
    values: list[int] = wire(Array(this.count, Int16ub), factory=list)
"""
_LARGE_ATTRS = """
@attrs.define
class Message{i}:
    number: int
    state: int = 0
    name: str = ""
    values: list[int] = attrs.field(factory=list)
"""


def _large_protocol() -> str:
    tags = ", ".join(f"{i}: Message{i}" for i in range(MESSAGES))
    protocol = f'Protocol("large", header=Header, tag="kind", messages={{{tags}}})'
    messages = [_LARGE_MESSAGE.format(i=i) for i in range(MESSAGES)]
    return "".join([_LARGE, _LARGE_HEADER, *messages, f"large = {protocol}\n"])


def _large_attrs() -> str:
    messages = [_LARGE_ATTRS.format(i=i) for i in range(MESSAGES)]
    return "".join(["import attrs\n", *messages])


def _import(
    statement: str, cache: str, first: str = "", folder: str = "."
) -> tuple[float, list[str]]:
    """
    Import in a fresh process; give seconds, and what was not to be imported.
    """
    environment = {**os.environ, "PYTHONPYCACHEPREFIX": cache}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    source = first + _IMPORT.format(statement=statement, unused=UNUSED)
    command = [sys.executable, "-c", f"import sys; sys.path.append({folder!r}){source}"]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, env=environment
    )
    seconds, unused = json.loads(done.stdout)
    return seconds, unused


def import_rows(rounds: int) -> Iterator[Row]:
    """
    Measure `import protoserve` against attrs and construct alone.
    """
    alone = "import attrs, construct"
    times: dict[str, list[float]] = {alone: [], "import protoserve": [], USED: []}
    imported: list[str] = []
    with tempfile.TemporaryDirectory() as cache:
        for statement in times:
            _import(statement, cache)
        for _ in range(rounds):
            for statement, found in times.items():
                seconds, imported = _import(statement, cache)
                found.append(seconds)
    for statement in ("import protoserve", USED):
        pairs = zip(times[statement], times[alone], strict=True)
        yield Row(
            "start",
            "import",
            f"{statement} / {alone}",
            statistics.median(ours / theirs for ours, theirs in pairs),
            reach=Reach(2.0),
            excused=1000 * min(times[statement]) <= 120,
            note="or in at most 120 ms",
        )
    for statement, found in times.items():
        yield Row("start", "import", statement, 1000 * min(found), "ms")
    note = ", ".join(imported)
    name = f"of {', '.join(UNUSED)} imported"
    number = float(len(imported))
    yield Row("start", "import", name, number, "count", reach=Reach(0), note=note)


def large_rows(rounds: int) -> Iterator[Row]:
    """
    Measure the import of a protocol with 300 messages.
    """
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "large_protocol.py").write_text(_large_protocol())
        Path(folder, "large_attrs.py").write_text(_large_attrs())
        before = f"\nimport attrs, construct\n{USED}\n"
        modules = {"large_protocol": "protoserve", "large_attrs": "attrs classes alone"}
        found: dict[str, list[float]] = {module: [] for module in modules}
        for module in modules:
            _import(f"import {module}", folder, before, folder)
        for _ in range(rounds):
            for module, times in found.items():
                times.append(_import(f"import {module}", folder, before, folder)[0])
    for module, name in modules.items():
        reach = Reach(400) if module == "large_protocol" else None
        least = 1000 * min(found[module])
        yield Row("start", f"{MESSAGES} messages", name, least, "ms", reach=reach)


def codec_rows(rounds: int) -> Iterator[Row]:
    """
    Measure how long a message type takes from its declaration to its codec.

    The classes are declared anew from the same fields, then parse and build once.
    """
    kinds = {"A": fixed.Telemetry, "B": variable.Report, "C": choice.Packet}
    firsts = {"A": fixed.DATA, "B": variable.DATA, "C": choice.DATA[0]}
    formats = {"A": fixed.FORMAT, "B": variable.FORMAT, "C": choice.TO_COMPILE}
    kinds["D"], firsts["D"], formats["D"] = netflow.Packet, netflow.DATA, netflow.FORMAT
    for key, cls in kinds.items():
        declared, ready = [], []
        for _ in range(rounds):
            start = time.perf_counter()
            again = _declared(cls)
            middle = time.perf_counter()
            bytes(again.parse(firsts[key]))
            declared.append(middle - start)
            ready.append(time.perf_counter() - middle)
        whole = [a + b for a, b in zip(declared, ready, strict=True)]
        compiled = _least(formats[key].compile, rounds)
        name = "declaration to first parse and build"
        yield Row("start", key, name, 1000 * min(whole), "ms", reach=Reach(5))
        yield Row("start", key, "of which declaration", 1000 * min(declared), "ms")
        yield Row("start", key, "construct, .compile() alone", compiled, "ms")


def _least(call: Callable[[], Any], rounds: int) -> float:
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return 1000 * min(times)


def _declared(cls: Any) -> Any:
    """
    Declare a message class once more; the messages in it stay.
    """
    fields = {a.name: _field(a) for a in attrs.fields(cls)}
    names = {a.name: a.type for a in attrs.fields(cls)}
    space = {"__annotations__": names, "__module__": cls.__module__, **fields}
    return type(Message)(cls.__name__, (Message,), space)


def _field(a: Any) -> Any:
    return attrs.field(
        default=a.default, kw_only=a.kw_only, init=a.init, eq=a.eq, metadata=a.metadata
    )


def rows(*, quick: bool) -> Iterator[Row]:
    """
    Measure all of it.
    """
    yield from import_rows(5 if quick else 15)
    yield from large_rows(2 if quick else 5)
    yield from codec_rows(5 if quick else 15)
