"""
Generated functions made ready: compiled, attributed, and backed by Construct.

Each message class gets its two functions at first use. They contain a ``try`` that
costs nothing while nothing is raised; whatever is, the interpreted form takes over,
either to explain what is wrong or to do what generated code does not know. So
generated code may give up freely, but must never give another value.

The source can be read: tracebacks show it, and `source_of` returns it. The
generators are imported when the first function is made.
"""

from __future__ import annotations

import linecache
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from protoserve.codec import boundary
from protoserve.codec.caps import Caps, Usage
from protoserve.codec.record import Record, root_context

logger = logging.getLogger("protoserve")

if TYPE_CHECKING:
    from protoserve.codec.generate_build import BuildWriter
    from protoserve.codec.generate_parse import ParseWriter

__all__ = ["builder_of", "compile_function", "parser_of", "source_of", "tell_failure"]


def parser_of(record: Record, caps: Caps) -> Callable[[Any], Any]:
    """
    Make the function that parses a message from all of some bytes.
    """

    def interpreted(data: Any) -> Any:
        return boundary.parse_message(record, data, caps)

    from protoserve.codec.generate_parse import ParseWriter
    from protoserve.codec.running import parse_globals

    try:
        writer = ParseWriter(caps)
        body = _parse_source(record, writer)
        names = {
            **parse_globals(),
            **writer.out.constants,
            "explain": interpreted,
            "make_root": lambda: root_context(parsing=True, _usage=Usage(caps)),
        }
        return compile_function("parse", body, names, record.record_name)
    except Exception as exc:
        tell_failure(record.record_name, exc)
        return interpreted


def _parse_source(record: Record, writer: ParseWriter) -> str:
    from protoserve.codec.emit import PARSING, Scope, Untranslatable
    from protoserve.codec.plan import Group, plan_of

    plan = plan_of(record)
    if not isinstance(plan, Group):
        raise Untranslatable
    writer.var = ""
    writer.out.depth = 2
    scope = Scope(Scope(outside=True), flags=PARSING)
    writer.emit_message(plan, "o", scope)
    writer.flush()
    writer.settle_counts()
    lines = ["def parse(data):", "    try:"]
    lines.append(
        "        buf = data if type(data) is bytes else bytes(memoryview(data))"
    )
    lines.append("        end = len(buf)")
    if writer.var:
        lines.append(f"        if end > {writer.caps.size}: raise Mismatch")
    if writer.counts:
        lines.append("        used = 0")
    if writer.uses_context:
        lines.append("        root = make_root()")
    lines += writer.out.lines
    lines += [
        f"        if {writer.place()} != end: raise Mismatch",
        "        return o",
        "    except Exception:",
        "        pass",
        "    return explain(data)",
    ]
    return "\n".join(lines)


def builder_of(record: Record) -> Callable[[Any], bytes]:
    """
    Make the function that builds a message by itself.
    """

    def interpreted(message: Any) -> bytes:
        return boundary.build_message(record, message)

    from protoserve.codec.generate_build import BuildWriter, build_globals

    try:
        writer = BuildWriter()
        body = _build_source(record, writer)
        names = {
            **build_globals(),
            **writer.out.constants,
            "explain": interpreted,
            "make_root": lambda: root_context(parsing=False),
        }
        return compile_function("build", body, names, record.record_name)
    except Exception as exc:
        tell_failure(record.record_name, exc)
        return interpreted


def _build_source(record: Record, writer: BuildWriter) -> str:
    from protoserve.codec.emit import BUILDING, Scope, Untranslatable
    from protoserve.codec.plan import Group, plan_of

    plan = plan_of(record)
    if not isinstance(plan, Group):
        raise Untranslatable
    writer.out.depth = 2
    scope = Scope(Scope(outside=True), flags=BUILDING)
    writer.emit_message(plan, "o", scope)
    lines = ["def build(o):", "    try:"]
    if writer.uses_context:
        lines.append("        root = make_root()")
    result = writer.joined(writer.pieces)
    lines += writer.out.lines
    lines += [
        f"        return {result}",
        "    except Exception:",
        "        pass",
        "    return explain(o)",
    ]
    return "\n".join(lines)


def tell_failure(owner: str, exc: Exception) -> None:
    """
    Log why no code was generated, unless it is that there is no straight-line form.
    """
    from protoserve.codec.emit import Untranslatable

    if not isinstance(exc, Untranslatable):
        text = "%s is left to Construct: generating its code failed"
        logger.warning(text, owner, exc_info=exc)


def compile_function(
    name: str, source: str, names: dict[str, Any], owner: str
) -> Callable[..., Any]:
    """
    Compile one function; its lines are known to tracebacks.

    Args:
        name: the function's name in the source.
        source: its whole source.
        names: its globals.
        owner: the message or protocol that it belongs to.
    """
    title = f"<protoserve {owner}.{name} {id(names):x}>"
    code = compile(source, title, "exec")
    exec(code, names)  # noqa: S102 - the source is ours, made from a declaration
    linecache.cache[title] = (len(source), None, source.splitlines(True), title)
    function: Callable[..., Any] = names[name]
    function.__qualname__ = f"{owner}.{name}"
    function.__protoserve_source__ = source  # type: ignore[attr-defined] # see source_of
    return function


def source_of(function: Callable[..., Any]) -> str | None:
    """
    Give a generated function's source; `None` for what Construct does by itself.
    """
    return getattr(function, "__protoserve_source__", None)
