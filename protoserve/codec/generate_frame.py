"""
Write the functions that parse and build whole frames.

Parsing: header and trailer are taken and checked, then the tag finds the body's
function in a table, whose entries are made when their tag is first seen; a protocol
of a thousand messages dispatches as fast as one of ten. Building: header, body and
trailer of one message class are one function, so that their fixed fields are packed
together.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from protoserve.codec.caps import Caps, Usage
from protoserve.codec.compiled import compile_function, tell_failure
from protoserve.codec.emit import (
    BUILDING,
    PARSING,
    Scope,
    Source,
    Symbol,
    Untranslatable,
)
from protoserve.codec.frame import FrameCodec, LengthHead
from protoserve.codec.generate_build import BuildWriter, build_globals
from protoserve.codec.generate_parse import ParseWriter
from protoserve.codec.plan import Bits, Group, plan_of
from protoserve.codec.record import (
    FrameContext,
    Record,
    enclosing_context,
    root_context,
)
from protoserve.codec.running import Mismatch, parse_globals

__all__ = [
    "body_globals",
    "emit_body",
    "emit_frame",
    "emit_parts",
    "fixed_size",
    "frame_builder",
    "frame_parser",
    "tag_source",
]


def _plan(record: Record) -> Group:
    plan = plan_of(record)
    if not isinstance(plan, Group):
        raise Untranslatable
    return plan


def _frame_context(header: Any, session: Any, root: Any) -> Any:
    """
    Make the context that a body finds around it.
    """
    context = FrameContext(enclosing_context(root, None))
    context["session"] = session
    if header is not None:
        for field in type(header)._record.fields:
            if not field.hidden:
                context[field.name] = getattr(header, field.name)
    return context


def _header_scope(plan: Group | None) -> Scope:
    """
    Say what a body can refer to: the fields of the header ``h``.
    """
    scope = Scope(flags=PARSING)
    for item in plan.items if plan is not None else ():
        if isinstance(item.node, Bits) and not item.node.container:
            for part in item.node.parts:
                if part.name is not None and not part.hidden:
                    scope.symbols[part.name] = Symbol(f"h.{part.name}")
        elif item.name is not None and not item.hidden:
            scope.symbols[item.name] = Symbol(f"h.{item.name}", item.node)
    return scope


class _Bodies(dict[Any, Callable[..., Any]]):
    """
    Body functions by tag, made when a tag is first seen.
    """

    def __init__(
        self,
        codec: FrameCodec,
        find: Callable[[Any], tuple[Record, Caps] | None],
    ) -> None:
        super().__init__()
        self.codec = codec
        self.find = find

    def __missing__(self, tag: Any) -> Callable[..., Any]:
        found = self.find(tag)
        if found is None:
            raise Mismatch
        made = _body_parser(self.codec, *found)
        if len(self) < 4096:
            self[tag] = made
        return made


def _body_parser(codec: FrameCodec, record: Record, caps: Caps) -> Callable[..., Any]:
    """
    Make the function that parses one kind of body: all of ``buf[pos:end]``.
    """
    writer = ParseWriter(caps)
    writer.bounded = codec.trailer is None
    start = fixed_size(codec.header)
    if start is not None:  # positions are constants then
        writer.var, writer.off = "", start
    try:
        lines = emit_body(codec, record, writer, "o")
    except Untranslatable:
        return _give_up
    lines = ["def body(buf, pos, end, h, session):", *lines, "    return o"]
    names = {**body_globals(writer), **writer.out.constants}
    return compile_function("body", "\n".join(lines), names, record.record_name)


def emit_body(
    codec: FrameCodec, record: Record, writer: ParseWriter, obj: str
) -> list[str]:
    """
    Write what parses one kind of body, all of it up to ``end``.

    Args:
        codec: what is around it; the header is ``h``.
        record: the message.
        writer: nothing has been written yet; it stands where the body begins.
        obj: the variable for the message.

    Raises:
        Untranslatable: it has no straight-line form.
    """
    header = codec.header
    scope = _header_scope(None if header is None else _plan(header))
    writer.emit_message(_plan(record), obj, Scope(scope))
    writer.flush()
    writer.settle_counts()
    lines, writer.out.lines = _without_implied(writer.out), []
    lines.append(
        "    " * writer.out.depth + f"if {writer.place()} != end: raise Mismatch"
    )
    if writer.uses_context:
        writer.out.line("root = frame_context(h, session, make_root())")
    if writer.counts:
        writer.out.line("used = 0")
    first, writer.out.lines = writer.out.lines, []
    return first + lines


def _without_implied(out: Source) -> list[str]:
    """
    Leave out the checks that a part ends before ``end``, if the last one implies them.

    Places only grow, so when the last one has to be ``end`` none before it was behind
    it; unless something took all that was left.
    """
    implied = re.compile(" " * 4 * out.depth + r"if [^<>]+ > end: raise Mismatch$")
    rest = [line for line in out.lines if not implied.match(line)]
    takes_all = re.compile(r"\bend\b")
    return out.lines if any(map(takes_all.search, rest)) else rest


def body_globals(writer: ParseWriter) -> dict[str, Any]:
    """
    Give the names that the lines of `emit_body` use, beside the writer's constants.
    """
    return {
        **parse_globals(),
        "frame_context": _frame_context,
        "make_root": lambda: root_context(parsing=True, _usage=Usage(writer.caps)),
    }


def frame_parser(
    codec: FrameCodec,
    tag: str | tuple[str, ...] | Callable[[Any], Any] | None,
    find: Callable[[Any], tuple[Record, Caps] | None],
    most: int,
    result: type[Any],
) -> Callable[[Any, Any], Any]:
    """
    Make the function that parses one direction's frames.

    Args:
        codec: header and trailer.
        tag: what in the header says which message follows.
        find: gives the record for a tag.
        most: the largest frame, in bytes.
        result: a named tuple of header, message and trailer.

    Returns:
        A function of frame and session that gives the result, or raises anything.
    """
    try:
        made: Callable[[Any, Any], Any]
        made = _frame_parser(codec, tag, find, most, result)
        return made
    except Exception as exc:
        tell_failure(codec.name, exc)
        return _give_up


def _give_up(*_: Any) -> Any:
    raise Mismatch


def fixed_size(record: Record | None) -> int | None:
    """
    Give the size of a header if it is always the same.
    """
    if record is None:
        return 0
    try:
        return int(record.sizeof())
    except Exception:
        return None


def _frame_parser(
    codec: FrameCodec, tag: Any, find: Any, most: int, result: type[Any]
) -> Any:
    writer = ParseWriter(Caps())
    writer.var = ""
    writer.out.depth = 1
    writer.end = "stop"
    writer.bounded = codec.trailer is None
    begin = emit_parts(codec, writer, "end", ("", 0))
    names: dict[str, Any] = {
        **parse_globals(),
        **writer.out.constants,
        "BODIES": _Bodies(codec, find),
        "TAG": tag,
        "Result": result,
        "make": tuple.__new__,
    }
    lines = [
        "def parse(data, session):",
        "    buf = data if type(data) is bytes else bytes(memoryview(data))",
        "    end = len(buf)",
        f"    if end > {most}: raise Mismatch",
        f"    stop = end - {codec.trailer_size}",
        *(["    if stop < 0: raise Mismatch"] if codec.trailer else []),
        *writer.out.lines,
        f"    m = BODIES[{tag_source(tag)}](buf, {begin}, stop, h, session)",
        "    return make(Result, (h, m, t))",
    ]
    return compile_function("parse", "\n".join(lines), names, codec.name)


def emit_parts(
    codec: FrameCodec, writer: ParseWriter, end: str, first: tuple[str, int]
) -> str:
    """
    Write what parses a frame's header and trailer, ``h`` and ``t``, and checks them.

    Args:
        codec: header and trailer.
        writer: what has been written; it stands where the header begins.
        end: the variable that holds the frame's end; ``stop`` holds the body's.
        first: where the frame begins.

    Returns:
        Where the body begins, as source.
    """
    header = None if codec.header is None else _plan(codec.header)
    trailer = None if codec.trailer is None else _plan(codec.trailer)
    places: dict[str, Any] = {}
    scopes: list[tuple[Group, Scope]] = []
    scope = Scope(outside=True, flags=PARSING)
    if header is not None:
        inner = Scope(scope)
        places.update(writer.emit_message(header, "h", inner))
        writer.flush()
        scopes.append((header, inner))
    else:
        writer.flush()
        writer.out.line("h = None")
    start = writer.here()
    begin = writer.place()
    if trailer is not None:
        writer.var, writer.off, writer.end, writer.bounded = "stop", 0, end, True
        inner = Scope(scope)
        places.update(writer.emit_message(trailer, "t", inner))
        writer.flush()
        scopes.append((trailer, inner))
    else:
        writer.out.line("t = None")
    places["header"] = (first, start)
    places["body"] = (start, ("stop", 0))
    places["trailer"] = (("stop", 0), (end, 0))
    for group, inner in scopes:
        writer.check_computed(group, places, inner, outer=True)
    if writer.uses_context or writer.counts:
        raise Untranslatable
    return begin


def tag_source(tag: Any) -> str:
    """
    Write how a header's tag is read.
    """
    if tag is None:
        return "None"
    if isinstance(tag, str):
        return f"h.{tag}"
    if isinstance(tag, tuple):
        return f"({', '.join(f'h.{name}' for name in tag)},)"
    return "TAG(h)"


def frame_builder(
    codec: FrameCodec, record: Record, literals: Mapping[str, int]
) -> Callable[..., bytes] | None:
    """
    Make the function that builds the frames of one message class.

    Args:
        codec: header and trailer.
        record: the message.
        literals: header fields that always have the same number on the wire,
            whatever the header says: the tag.

    Returns:
        A function of header, message and trailer that gives the frame, or raises
        anything; `None` if it has no straight-line form.
    """
    try:
        out = Source()
        frame = emit_frame(codec, record, literals, out, "o", "t")
        lines = ["def build(h, o, t):", *out.lines, f"    return {frame}"]
        names = {**build_globals(), **out.constants}
        source = "\n".join(lines)
        return compile_function("build", source, names, record.record_name)
    except Exception as exc:
        tell_failure(record.record_name, exc)
        return None


def emit_frame(
    codec: FrameCodec,
    record: Record,
    literals: Mapping[str, int],
    out: Source,
    obj: str,
    end: str,
    head: LengthHead | None = None,
) -> str:
    """
    Write what builds a frame under the header ``h``.

    Args:
        codec: header and trailer.
        record: the message.
        literals: header fields that always have the same number on the wire.
        out: where it is written.
        obj: the variable that holds the message.
        end: the variable that holds the trailer.
        head: makes the frame ready for the stream that is cut like this.

    Returns:
        The frame, as source.

    Raises:
        Untranslatable: it has no straight-line form.
    """
    writer = BuildWriter(out)
    writer.literals = dict(literals)
    header = None if codec.header is None else _plan(codec.header)
    trailer = None if codec.trailer is None else _plan(codec.trailer)
    scope = Scope(flags=BUILDING)
    lengths: Any = []
    checksums: Any = []
    spans: dict[str, tuple[int, int]] = {}
    prefix = "" if head is None or not head.skip else out.name("n")
    if head is not None and prefix:
        writer.fixed(head.code[0], head.code[1:], head.size, prefix)
    first = len(writer.pieces)
    if header is not None:
        part = writer.place_message(header, "h", scope)
        if writer.literals:  # not all of them could be written in
            raise Untranslatable
        lengths += part.lengths
        checksums += part.checksums
        spans.update(part.spans)
    start = len(writer.pieces)
    body = BuildWriter(writer.out)
    body.emit_message(_plan(record), obj, Scope(scope))
    writer.pieces += body.pieces
    stop = len(writer.pieces)
    if trailer is not None:
        part = writer.place_message(trailer, end, Scope(scope))
        lengths += part.lengths
        checksums += part.checksums
        spans.update(part.spans)
    spans["header"], spans["body"] = (first, start), (start, stop)
    spans["trailer"] = (stop, len(writer.pieces))
    if writer.uses_context or body.uses_context:
        raise Untranslatable
    writer.write_lengths(lengths, spans)
    writer.write_checksums(checksums, spans)
    if head is not None and prefix:
        writer.write_prefix(0, head.size - head.plus, head.most - head.skip)
    frame = writer.joined(writer.pieces)
    if head is not None and not prefix:
        # The header has the length already, if it is declared as it should be.
        number, name = out.constant(head.unpack, "unpack"), out.name("d")
        out.line(f"{name} = {frame}")
        found = f"{number}({name}, {head.offset})[0] + {head.plus}"
        writer.fail_if(f"{found} != len({name}) or len({name}) > {head.most}")
        frame = name
    return frame
